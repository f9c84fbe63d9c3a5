"""Assumptions: shared draws, the reader's files, and what a figure was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from infra.energy.model import Coefficients
from infra.errors import BadInput
from tasks.outlook.assumptions import DRAWS, HARDWARE, SITE, load_assumptions


def test_there_are_at_least_ten_thousand_draws_and_they_reproduce():
    first, second = load_assumptions(), load_assumptions()
    assert first.n >= 10_000
    for name in ("cpu.w_core", "hardware.trapped_ion.power", "site.day_rate"):
        assert np.array_equal(first.draws(name), second.draws(name))


def test_a_number_that_stands_elsewhere_has_the_same_draws_under_both_names():
    found = load_assumptions(n=500)
    assert found.draws("hardware.superconducting.power") is found.draws("qpu.superconducting_power")
    assert np.array_equal(found.draws("cpu.w_core"), Coefficients.load(n=500).draws("cpu.w_core"))


def test_every_assumption_has_unit_and_source_and_its_value_is_the_centre():
    for name, entry in load_assumptions(n=1).entries().items():
        assert entry.unit, name
        assert entry.source, name
        middle = entry.distribution.quantile((np.arange(DRAWS) + 0.5) / DRAWS, entry.value)
        centre = middle.mean() if entry.distribution.kind == "empirical" else np.median(middle)
        assert centre == pytest.approx(entry.value, rel=0.01), name


def test_reading_is_noted_also_of_what_is_remembered():
    found = load_assumptions(n=10)
    with found.reading() as outer:
        with found.reading() as inner:
            found.remember(("x",), lambda: found.draws("cpu.w_core"))
        found.draws("hardware.superconducting.power")
    assert inner == {"cpu.w_core"}
    assert outer == {"cpu.w_core", "qpu.superconducting_power"}
    with found.reading() as again:
        found.remember(("x",), lambda: found.draws("cpu.pue"))
    assert again == {"cpu.w_core"}


def test_a_readers_file_needs_only_what_it_changes(tmp_path: Path):
    given = {"site": {"day_rate": {"value": 100, "unit": "USD", "distribution": {"kind": "fixed"}, "source": "us",
                                   "year": 2026}},
             "coefficients": {"cpu.pue": {"value": 1.1, "unit": "factor", "distribution": {"kind": "fixed"},
                                          "source": "our meter", "year": 2026}}}  # fmt: skip
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(given))
    found = load_assumptions(site=path, n=5)
    assert (found.value("site.day_rate"), found.value("cpu.pue")) == (100, 1.1)
    assert found.value("site.years") == load_assumptions(n=5).value("site.years")
    assert found.hash != load_assumptions(n=5).hash
    for shipped, name in ((HARDWARE, "hardware"), (SITE, "site")):
        assert load_assumptions(**{name: shipped}, n=5).hash == load_assumptions(n=5).hash  # a copy changes nothing


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: {superconducting: {power: {same_as: qpu.nothing}}}", "no name in"),
        ("devices: {superconducting: {watts: 3}}", "watts"),
        ("default: abacus", "abacus"),
        ("- a list", "no mapping"),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text, said, tmp_path: Path):
    path = tmp_path / "hardware.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        load_assumptions(path)
    with pytest.raises(BadInput, match="cannot be read"):
        load_assumptions(tmp_path / "nowhere.yaml")


def test_an_unknown_coefficient_is_refused(tmp_path: Path):
    entry = "{value: 1, unit: a, distribution: {kind: fixed}, source: b, year: 2026}"
    path = tmp_path / "site.yaml"
    path.write_text(f"coefficients: {{cpu.colour: {entry}}}")
    with pytest.raises(BadInput, match=r"cpu\.colour"):
        load_assumptions(site=path)

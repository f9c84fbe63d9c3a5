"""The models that the bank of pruning trains: real text, each its own, kept by content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.contract import Material, content_key
from tasks.inference.pruning import bank as module
from tasks.inference.pruning.bank import SMALLER, bank
from tasks.inference.pruning.subtask import PRUNING
from tasks.text.samples import sample_documents

TEXTS = {name: tuple(text for _, text in sample_documents(domain)) for name, domain in (("a", "base"), ("b", "second"))}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, tokens=20_000))


def test_an_instance_is_a_model_of_twelve_units_trained_on_its_own_text(tmp_path: Path) -> None:
    first, second, small, _, third = list(bank(Material(TEXTS, tmp_path), np.random.default_rng(0)))[:5]
    assert first.unit == small.unit == third.unit != second.unit
    assert content_key(third.pose()) == content_key(replace(first.pose(), k=4))  # the same model, another share
    problem, other = first.pose(), second.pose()
    assert (first.source, second.source) == ("a", "b")
    assert PRUNING.size(problem) == first.size == len(problem.units) == 12
    assert problem.k == 6
    fewer = small.pose()
    assert small.size == len(fewer.units) == PRUNING.size(fewer) in SMALLER
    assert content_key(fewer) == content_key(replace(first.pose(), units=fewer.units, k=fewer.k))
    assert fewer.k == round(len(fewer.units) / 2)
    assert problem.model.is_relative_to(tmp_path)
    assert content_key(problem) != content_key(other)
    rows = {row.tobytes() for row in problem.calibration.tokens}
    assert not rows & {row.tobytes() for row in problem.selection.tokens}
    (unpruned,) = PRUNING.quality(replace(problem, allowance=0.0), ())
    assert -unpruned < 5.0  # a model that knew nothing would need eight bits a byte


def test_a_model_is_trained_once_and_the_same_wherever_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def posed(folder: Path) -> str:
        return content_key(next(iter(bank(Material(TEXTS, folder), np.random.default_rng(0)))).pose())

    key = posed(tmp_path / "one")
    assert posed(tmp_path / "two") == key
    monkeypatch.setattr(module, "train", None)  # nobody trains again
    assert posed(tmp_path / "one") == key


def test_texts_of_one_source_do_not_overlap() -> None:
    found = [i for i in bank(Material(TEXTS, Path("nowhere")), np.random.default_rng(0)) if i.source == "a"]
    starts = sorted({int(i.name.split("byte ")[1].split(",")[0]) for i in found})
    assert len(starts) == len({i.unit for i in found})
    size = (module.TRAINING + module.CALIBRATION + module.SELECTION) * (module.CONTEXT + 1)
    assert (np.diff(starts) >= size).all()

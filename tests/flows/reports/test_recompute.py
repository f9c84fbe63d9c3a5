"""Stored evidence with other coefficients: what is linear in a coefficient follows it exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.reports.recompute import recompute, rewrite
from infra.energy.coefficients import COEFFICIENTS
from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.settings import Settings


def doubled(tmp_path: Path) -> Coefficients:
    """Return coefficients by which a core draws twice as much, at twice the price, in a country half as dirty."""
    text = COEFFICIENTS.read_text()
    for old, new in (("value: 3.1\n", "value: 6.2\n"), ("value: 0.0408", "value: 0.0816"), ('["DE", 344.1', '["DE", 172.05')):  # noqa: E501  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = tmp_path / "other.yaml"
    path.write_text(text)
    return Coefficients.load(path)


def all_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for run in found["runs"] for entry in (*run["stages"], run["total"])]


def test_every_run_and_stage_follows_the_coefficients(stored_home: Path, tmp_path: Path) -> None:
    new = doubled(tmp_path)
    found = recompute(Settings(home=stored_home), None, new)
    assert found["coefficients"] == {"old": Coefficients.load().hash, "new": new.hash}
    assert [run["run_id"] for run in found["runs"]] == ["r1", "r2"]
    for entry in all_of(found):
        assert entry["new"]["energy_j"] == pytest.approx([2 * j for j in entry["old"]["energy_j"]])
        assert entry["new"]["energy_wide_j"] == pytest.approx([2 * j for j in entry["old"]["energy_wide_j"]])
        assert entry["new"]["cost_usd"] == pytest.approx(2 * entry["old"]["cost_usd"])
        assert entry["new"]["gco2"] == pytest.approx(entry["old"]["gco2"])
    total = found["runs"][0]["total"]["old"]
    assert total["energy_j"][1] == pytest.approx(115 * 3.1, rel=1e-3)
    assert total["cost_usd"] == pytest.approx(115 * 0.0408 / 3600)


def test_stages_add_up_to_the_run(stored_home: Path, tmp_path: Path) -> None:
    for run in recompute(Settings(home=stored_home), None, doubled(tmp_path))["runs"]:
        for side in ("old", "new"):
            parts = sum(stage[side]["energy_j"][1] for stage in run["stages"])
            assert run["total"][side]["energy_j"][1] == pytest.approx(parts)


def test_reports_change_only_if_asked(home: Path, tmp_path: Path) -> None:
    loaded, new = Settings(home=home), doubled(tmp_path)
    found = recompute(loaded, "r1", new)
    assert not (home / "runs/r1/report.json").exists()
    assert rewrite(loaded, found, new) == [str(home / "runs/r1/report.html")]
    report = json.loads((home / "runs/r1/report.json").read_text())
    assert report["coefficients"] == new.hash
    assert report["spent"]["narrow"][1] == pytest.approx(2 * 115 * 3.1, rel=1e-3)
    assert not (home / "runs/r2/report.json").exists()


def test_a_run_without_evidence_is_named(stored_home: Path) -> None:
    with pytest.raises(BadInput, match=r"no evidence of run r9.*runs there: r1, r2"):
        recompute(Settings(home=stored_home), "r9", Coefficients.load())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no coefficients file can be read"),
        ("- a\n- b\n", "no coefficients file: file:"),
        ("a: [1\n", "no YAML file"),
        ("\x00\x01", "no YAML file"),
        (COEFFICIENTS.read_text().replace("value: 3.1\n", "value: much\n"), "cpu.w_core.value: Input should be"),
        (COEFFICIENTS.read_text().replace("value: 3.1\n", "value: -3.1\n"), "cpu.w_core.value: Input should be"),
        (COEFFICIENTS.read_text().replace("value: 3.1\n", "value: .nan\n"), "cpu.w_core.value: Input should be"),
        (COEFFICIENTS.read_text().replace("  w_dram:", "  w_ram:"), "cpu.w_dram is missing; cpu.w_ram is unknown"),
    ],
)
def test_a_wrong_coefficients_file_is_the_user_s_mistake(stored_home: Path, tmp_path: Path, content: str | None, said: str) -> None:  # noqa: E501  # fmt: skip
    path = tmp_path / "wrong.yaml"
    if content is not None:
        path.write_text(content)
    done = CliRunner().invoke(app, ["evidence", "--recompute", "--coefficients", str(path), "--home", str(stored_home)])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_the_command_prints_both_hashes(stored_home: Path, tmp_path: Path) -> None:
    new = doubled(tmp_path)
    done = CliRunner().invoke(
        app, ["evidence", "--recompute", "--coefficients", str(tmp_path / "other.yaml"), "--home", str(stored_home)]
    )
    assert done.exit_code == 0, done.output
    assert new.hash in done.output
    assert Coefficients.load().hash in done.output


def test_recomputing_needs_a_file(stored_home: Path) -> None:
    done = CliRunner().invoke(app, ["evidence", "--recompute", "--home", str(stored_home)])
    assert done.exit_code == 2
    assert "--coefficients FILE" in " ".join(done.output.split())

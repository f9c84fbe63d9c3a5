"""Two stored runs side by side: paired differences and ratios against closed forms."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from flows.reports.run.compare import compare, render
from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.evidence import Evidence

C = Coefficients.load()


def stage(found: dict[str, Any], name: str) -> dict[str, Any]:
    stages = found["stages"]
    assert isinstance(stages, list)
    return next(dict(entry) for entry in stages if entry["stage"] == name)


def arm(found: dict[str, object], name: str) -> dict[str, object]:
    decisions = found["decisions"]
    assert isinstance(decisions, list)
    return next(dict(entry) for entry in decisions[0]["arms"] if entry["arm"] == name)


def test_only_parameters_that_differ_are_listed(stored_home: Path) -> None:
    assert compare(stored_home, "r1", "r2", C)["parameters"] == {"seed": [0, 1]}


def test_a_ratio_from_shared_draws_is_sharp_where_the_bands_overlap_by_far(stored_home: Path) -> None:
    """200 and 100 CPU seconds of the same work on one host: the ratio is 2 whatever a core draws."""
    curation = stage(compare(stored_home, "r1", "r2", C), "curation")
    first, second = curation["energy_j"]
    assert first[2] > second[0]
    low, middle, high = curation["energy_ratio"]
    assert middle == pytest.approx(205 / 105, rel=0.01)
    assert (high - low) / middle < 0.03
    assert curation["probability_less"] == 0


def test_the_same_arm_shares_its_residual_another_arm_has_its_own(stored_home: Path) -> None:
    found = stage(compare(stored_home, "r1", "r2", C), "orchestration")
    assert found["energy_ratio"] == pytest.approx([1.0, 1.0, 1.0])
    assert found["probability_less"] == 0


def test_runs_of_two_hosts_have_draws_of_their_own(home: Path) -> None:
    evidence = Evidence(home / "evidence")
    evidence.append([dataclasses.replace(row, host="beta") for row in evidence.read(run_id="r2")])
    found = compare(home, "r1", "r2", C)
    assert found["shared_draws"] is False
    low, _, high = stage(found, "orchestration")["energy_ratio"]
    t = C.draws("cpu.w_core")
    independent = np.quantile(np.random.default_rng(0).permutation(t) / t, (0.05, 0.95))
    assert (low, high) == pytest.approx(tuple(independent), rel=0.2)


def test_quality_is_paired_where_the_problem_is_the_same(stored_home: Path) -> None:
    found = arm(compare(stored_home, "r1", "r2", C), "greedy")
    d = np.array([0.9, 0.9, 0.8, 0.8]) - np.array([0.9, 0.8, 0.7, 0.6])
    interval = stats.t.interval(0.95, 3, loc=d.mean(), scale=d.std(ddof=1) / math.sqrt(4))
    assert found["n"] == 4
    assert found["difference"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx(list(interval))


def test_other_problems_are_not_paired(home: Path) -> None:
    evidence = Evidence(home / "evidence")
    rows = [dataclasses.replace(row, run_id="r3", problem="p2") for row in evidence.read(run_id="r2") if row.subtask]
    evidence.append(rows)
    (home / "runs/r3").mkdir()
    (home / "runs/r3/run.json").write_text((home / "runs/r2/run.json").read_text())
    found = compare(home, "r1", "r3", C)
    assert found["decisions"][0]["same_problem"] is False
    assert arm(found, "greedy")["difference"] is None
    assert arm(found, "greedy")["quality"] == pytest.approx([0.75, 0.85])


def test_a_failed_arm_shows_its_status(stored_home: Path) -> None:
    found = arm(compare(stored_home, "r1", "r2", C), "broken")
    assert found["quality"] == [None, None]
    assert found["status"] == ["failed", "failed"]


def test_lake_versions_are_equal_or_not(stored_home: Path) -> None:
    lake = compare(stored_home, "r1", "r2", C)["lake"]
    assert lake["curation/decisions"]["equal"] is True
    assert lake["training/model"] == {"versions": ["0" * 16, "0" * 15 + "1"], "equal": False}


def test_model_figures_stand_side_by_side(stored_home: Path) -> None:
    model = compare(stored_home, "r1", "r2", C)["model"]
    assert model["training after test"] == [2.0, 1.75]
    assert model["inference bits per byte pruned base"] == [2.1, 2.1]


def test_every_method_of_fine_tuning_is_compared(home: Path) -> None:
    for run, loss in (("r1", 2.0), ("r2", 1.5)):
        path = home / "runs" / run / "run.json"
        record = json.loads(path.read_text())
        record["stages"]["finetuning"]["facts"] = {"vera": {"after": {"base": loss}}, "method": "vera"}
        path.write_text(json.dumps(record))
    assert compare(home, "r1", "r2", C)["model"]["finetuning vera after base"] == [2.0, 1.5]


def test_the_tables_fit_160_columns(stored_home: Path) -> None:
    out = io.StringIO()
    Console(width=160, file=out).print(render(compare(stored_home, "r1", "r2", C)))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 160
    assert "ratio is r2 / r1, from shared draws" in text
    assert "0.1 [-0.0299, 0.23]" in text


@pytest.mark.parametrize(("first", "second"), [("r1", "r9"), ("r9", "r1")])
def test_an_unknown_run_is_named(stored_home: Path, first: str, second: str) -> None:
    with pytest.raises(BadInput, match="no run r9"):
        compare(stored_home, first, second, C)

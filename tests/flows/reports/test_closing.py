"""The closing screen of a run: figures by hand from a stored report, and its width."""

from __future__ import annotations

import io
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.reports.closing import WIDTH, gained, joules, quantum_arm, render, summarise
from flows.reports.run import build_report
from infra import runs
from infra.settings import Settings


@pytest.fixture(scope="module")
def report(stored_home: Path) -> dict[str, Any]:
    return build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))


def screen(report: dict[str, Any]) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(summarise(report)))
    return console.export_text()


def test_it_is_at_most_a_hundred_columns_wide_and_names_every_part(report: dict[str, Any]) -> None:
    lines = screen(report).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= WIDTH
    for part in ("What was made", "What each decision chose", "What it cost", "What next"):
        assert part in lines


@pytest.mark.parametrize(("quality", "word"), [(0.75, "as good in 1"), (0.9, "better in 1"), (0.5, "worse in 1")])
def test_a_quantum_arm_is_judged_by_the_tolerance_against_the_best_classical_quality(
    report: dict[str, Any], quality: float, word: str
) -> None:
    changed = deepcopy(report)
    [subtask] = changed["stages"][0]["subtasks"]
    quantum = quantum_arm(subtask)
    assert isinstance(quantum, dict)
    quantum["quality"] = quality
    assert gained(subtask) == pytest.approx(quality - 0.75), "greedy has 0.75, the tolerance is 0.1"
    answer = summarise(changed).answer
    assert f"{word} (representatives)" in answer
    assert answer.startswith("Yes" if quality > 0.85 else "No")


def test_arms_that_solved_different_instances_are_not_compared(report: dict[str, Any]) -> None:
    changed = deepcopy(report)
    [subtask] = changed["stages"][0]["subtasks"]
    quantum = quantum_arm(subtask)
    assert isinstance(quantum, dict)
    quantum["n"] = 3
    assert gained(subtask) is None
    assert "compared no quantum arm" in summarise(changed).answer


def test_every_energy_has_its_source_and_a_projection_is_called_one(report: dict[str, Any]) -> None:
    text = " ".join(screen(report).split())
    assert re.search(r"35[67] J, between \S+ J and \S+ \w+ \(modelled\)", text), "115 CPU s at 3.1 W"
    assert "CPU and memory (modelled" in text
    assert "115 CPU seconds (measured, 10 of them orchestration)" in text


def test_failed_stages_and_arms_and_what_the_shadow_budget_left_out_are_named(report: dict[str, Any]) -> None:
    changed = deepcopy(report)
    [subtask] = changed["stages"][0]["subtasks"]
    skipped = {"status": "skipped", "reason": "the shadow budget is used up: 1.1 of 1 CPU s"}
    subtask["rows"] = [{**row, **skipped} if row["kind"] == "control" else row for row in subtask["rows"]]
    found = summarise(changed)
    assert ("finetuning", "failed, ValueError: no") in found.made
    said = " ".join(found.surprising)
    assert "representatives/broken failed: ValueError: no" in said
    assert "left out 1 arms (nothing)" in said
    assert (f"ketcycle run --resume {report['run_id']}", "go on where it stopped") in found.then


def test_a_run_without_decisions_has_no_table(report: dict[str, Any]) -> None:
    bare = {**report, "stages": [{**stage, "subtasks": []} for stage in report["stages"]]}
    assert "What each decision chose" not in screen(bare)
    assert "What it cost" in screen(bare)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0026, "2.6 mJ"), (6.17, "6.2 J"), (312.1, "312 J"), (1.3e7, "13 MJ"), (0, "0 J"), (None, "-")],
)
def test_joules_come_in_a_unit_that_suits_them(value: float | None, text: str) -> None:
    assert joules(value) == text

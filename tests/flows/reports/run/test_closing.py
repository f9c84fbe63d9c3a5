"""The closing screen of a run: figures by hand from a stored report, and its width."""

from __future__ import annotations

import io
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.reports.run.closing import WIDTH, Verdict, gained, quantum_arm, render, summarise
from flows.reports.run.report import build_report
from flows.reports.text import joules, plain
from infra import runs
from infra.settings import Settings


@pytest.fixture(scope="module")
def report(stored_home: Path) -> dict[str, Any]:
    return build_report(Settings(home=stored_home), *runs.read(stored_home, "r1"))


def screen(report: dict[str, Any], width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(summarise(report)))
    return console.export_text()


def test_it_is_at_most_a_hundred_columns_wide_and_names_every_part(report: dict[str, Any]) -> None:
    lines = screen(report).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= WIDTH
    for part in ("What was made", "What each decision chose", "What it cost", "What next"):
        assert part in lines


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_table_of_decisions_fits_its_console_and_breaks_no_word(report: dict[str, Any], width: int) -> None:
    changed = deepcopy(report)
    quantum = quantum_arm(changed["stages"][0]["subtasks"][0])
    assert isinstance(quantum, dict)
    quantum["arm"] = "quantum-one-class-svm-of-all-requests"
    lines = screen(changed, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "\u2026" not in "".join(lines), "no cell is cut"
    words = {word for line in lines for word in re.split(r"[\s/]+", line)}
    assert {"curation", "representatives", "greedy", "0.750,"} <= words
    assert any(word.endswith("requests") for word in words)


def test_decisions_without_a_known_truth_are_named_beside_those_that_were_judged(report: dict[str, Any]) -> None:
    changed = deepcopy(report)
    [subtask] = changed["stages"][0]["subtasks"]
    unknown = {**deepcopy(subtask), "name": "clusters", "best_classical": None}
    unknown["rows"] = [{**row, "quality": None} for row in unknown["rows"]]
    changed["stages"][0]["subtasks"].append(unknown)
    found = summarise(changed)
    assert "of 1 decisions" in found.answer
    assert "Not judged (no known truth): clusters." in found.because
    assert found.decisions[1][2] == "no known truth"


def test_what_a_provider_billed_is_said(report: dict[str, Any]) -> None:
    bill = {"billed": True, "cost_usd": [0.55] * 3, "qpu_s_projected": 2.0, "qpu_energy_j": [1.0] * 3}
    cost = summarise({**report, "qpu": None, "queue": [bill], "cost_usd": 0.61}).cost
    assert "Provider: 0.55 USD billed; 0.61 USD in all." in cost
    assert not [line for line in cost if "were simulated" in line]


@pytest.mark.parametrize(
    ("value", "text"), [(8.13, "8.1"), (988, "988"), (1134.2, "1,100"), (41_833, "42,000"), (2.34e9, "2.3e+09")]
)
def test_large_figures_come_with_their_thousands_apart(value: float, text: str) -> None:
    assert plain(value, 2) == text


@pytest.mark.parametrize(
    ("quality", "word"), [(0.75, "as good within the tolerance in 1"), (0.9, "better in 1"), (0.5, "worse in 1")]
)
def test_a_quantum_arm_is_judged_by_the_tolerance_against_the_best_classical_quality(
    report: dict[str, Any], quality: float, word: str
) -> None:
    changed = deepcopy(report)
    [subtask] = changed["stages"][0]["subtasks"]
    quantum = quantum_arm(subtask)
    assert isinstance(quantum, dict)
    quantum["quality"] = quality
    assert gained(subtask) == pytest.approx(quality - 0.75), "greedy has 0.75, the tolerance is 0.1"
    found = summarise(changed)
    assert f"{word} (representatives)" in found.because
    assert found.answer.startswith("Yes: it was better" if quality > 0.85 else "No: it was better")
    assert f"in {1 if quality > 0.85 else 'none'} of 1 decisions" in found.answer
    assert found.verdicts == (Verdict("representatives", word.removesuffix(" in 1"), 2.0),)


def test_a_quantum_arm_without_a_circuit_is_named(report: dict[str, Any]) -> None:
    changed = deepcopy(report)
    quantum = quantum_arm(changed["stages"][0]["subtasks"][0])
    assert isinstance(quantum, dict)
    assert not any("no circuit" in line for line in summarise(changed).surprising)
    quantum["circuits"] = 0
    assert summarise(changed).surprising[0].startswith("The quantum arm of representatives ran no circuit")


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
    assert "left out 1 arm (nothing)" in said
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

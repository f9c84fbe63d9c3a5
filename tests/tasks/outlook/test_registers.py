"""The risk register and the roadmap: guards are shown by tests that exist, verdicts follow the stated rule."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.contract import STAGES
from tasks.outlook.fault_tolerant import SUBROUTINES
from tasks.outlook.risks import Risk, load_risks
from tasks.outlook.roadmap import Seen, judge, load_roadmap

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("risk", [r for r in load_risks() if r.test], ids=lambda r: r.name)
def test_the_test_that_shows_a_guard_exists(risk: Risk):
    file, _, function = risk.test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_risk_names_a_column_of_the_evidence_or_a_command():
    from flows.cli import GROUPS

    columns = {f.name for f in fields(EvidenceRow)} | {f"usage_{f.name}" for f in fields(Usage)}
    commands = {command.__name__ for group in GROUPS.values() for command in group} | {"queue"}
    for risk in load_risks():
        first, _, rest = risk.field.partition(" ")
        assert risk.field in columns or (first == "ketcycle" and rest.split()[0] in commands), risk.name


def test_the_register_holds_the_risks_that_were_asked_for():
    names = {risk.name for risk in load_risks()}
    assert names >= {
        "queue delay", "calibration drift", "noise above the quality floor", "vendor price change",
        "vendor end of service", "lock-in", "data leaving the premises", "barren plateaus", "simulator is not hardware",
        "budget overrun", "reproducibility", "supply chain",
    }  # fmt: skip
    assert any(not risk.guard for risk in load_risks())  # a risk without a guard says so


def test_a_guard_without_a_test_is_refused():
    values = {"name": "a", "risk": "b", "likelihood": "low", "impact": "low", "owner": "c", "field": "status"}
    with pytest.raises(ValidationError, match="a guard needs the test"):
        Risk(**values, guard="something")


def test_the_roadmap_names_every_stage_and_known_subroutines():
    found = load_roadmap()
    assert tuple(stage.stage for stage in found.stages) == STAGES
    assert {name for stage in found.stages for name in stage.subroutines} == set(SUBROUTINES)


@pytest.mark.parametrize(
    ("seen", "estimates", "undecided", "verdict"),
    [
        ([Seen("equal", 0.96)], [1.0], "something", "supported"),
        ([Seen("worse", 1.0)], [1.0], "", "undecidable today"),  # cheap and worse supports nothing
        ([Seen("equal", 0.0), Seen("worse", 0.0)], [1.0, 0.99], "", "contradicted"),
        ([Seen("equal", 0.0)], [], "", "contradicted"),
        ([Seen("equal", 0.0)], [1.0, 0.5], "", "undecidable today"),
        ([Seen("equal", 0.3)], [1.0], "", "undecidable today"),
        ([Seen("equal", 0.0)], [1.0], "beyond simulation", "undecidable today"),
        ([], [1.0], "", "undecidable today"),  # no evidence
    ],
)
def test_verdicts_follow_the_rule(seen, estimates, undecided, verdict):
    assert judge(seen, estimates, undecided) == verdict

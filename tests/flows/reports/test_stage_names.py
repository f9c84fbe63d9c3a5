"""Reports know no stage by name: a stage offers sections, and pages render them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tasks.contract import STAGES

REPORTS = Path(__file__).parents[3] / "flows" / "reports"
ALLOWED = {
    "export.py": "the schema of SPDX has one quantity each for training, fine-tuning and inference",
    "run/compare.py": "compares the models of two runs by one figure of each stage that makes a model",
    "drift/page.py": "the page of `ketcycle drift`, whose subject are the windows of one stage and their requests",
    "tables.py": "leaves out two data sets that a stage passes to itself when it exports the tables of that stage",
    "outlook/build.py": "the outlook re-derives a published break-even of one decision",
    "run/merged.py": "shows whole documents from the lake, too large for a report, and a cost over three stages",
}
NAME = re.compile(rf"({'|'.join(STAGES)})(/[a-z_]+)?")


def named_in_python(source: str) -> set[str]:
    """Return the string literals that are a stage's name or the name of one of its data sets."""
    literals = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {text for text in literals if isinstance(text, str) and NAME.fullmatch(text)}


def named_in_template(source: str) -> set[str]:
    """Return the stage names in the expressions and anchors of a template; its plain text may use the words."""
    code = " ".join(re.findall(r"{[{%].*?[%}]}|(?:id|href)=\"[^\"]*\"", source, re.DOTALL))
    return {name for name in STAGES if re.search(rf"\b{name}\b", code)}


def test_no_report_module_names_a_stage() -> None:
    paths = {str(path.relative_to(REPORTS)): path for path in REPORTS.rglob("*.py")}
    found = {name: names for name, path in paths.items() if (names := named_in_python(path.read_text()))}
    assert found.keys() <= ALLOWED.keys(), {name: found[name] for name in found.keys() - ALLOWED.keys()}
    assert found.keys() == ALLOWED.keys(), "an exception that is not needed any more"


def test_no_template_names_a_stage() -> None:
    paths = sorted(REPORTS.rglob("*.html"))
    assert paths
    assert not {path.name: names for path in paths if (names := named_in_template(path.read_text()))}


def test_the_walk_finds_a_name() -> None:
    assert named_in_python('x = facts["curation"], refs["training/curve"], "training it"') == {
        "curation",
        "training/curve",
    }
    assert named_in_template('<h2 id="training">The training</h2>') == {"training"}
    assert named_in_template("{{ facts.monitoring.states }} {% if inference %}") == {"monitoring", "inference"}
    assert not named_in_template("<p>the training of it</p>")

"""A complete small decision is added to a copy of the tree: one folder, and one line in the road of its stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BOTH = """
import json, sys
from infra import settings
from infra.compute import services
from tasks.text import docstrings
loaded = settings.load()
settings.quiet_libraries(loaded.home)
docstrings.LIBRARIES.clear()  # texts enough without those of libraries, which take seconds to read
from flows.lifecycle.config import RunConfig
config = RunConfig(run_id="added", profile="smoke", corpus=(sys.argv[1],), stages=("curation",),
                   options={"curation": {"rules": "none", "largest": {"documents": 5}}})
with services(loaded, config.modules):  # imported once, not by each worker
    from flows.lifecycle.run import run_lifecycle
    from flows.study.config import StudyConfig
    from flows.study import study
    study.LOOPED_S = 0.6  # of short arms, whose joules nobody reads here
    report = run_lifecycle(config, None)
    found = study.study.fn(StudyConfig(study_id="added-study", subtask="curation/largest", instances=6))
from typer.testing import CliRunner
from flows.cli import app
shown = {}
for command in ("decisions --json", "evidence --json", "report added", "run --set curation.largest.document=5"):
    told = CliRunner().invoke(app, command.split())
    shown[command] = (told.exit_code, told.output if told.exit_code else told.stdout)
print(json.dumps({"report": report, "study": found, "shown": shown}, default=str))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("tasks", "infra", "flows", "deployments"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copytree(Path(__file__).parent / "added_decision" / "largest", copy / "tasks" / "curation" / "largest")
    stage = copy / "tasks" / "curation" / "stage.py"
    before, after = '"representatives",', '"largest", "representatives",'
    assert stage.read_text().count(before) == 1
    stage.write_text(stage.read_text().replace(before, after))
    corpus = copy / "corpus"
    corpus.mkdir()
    words = "the parser reads a line of the file and it returns what it has found there to the caller of that part"
    for i in range(6):
        text = [f"{word}{i}" if n % 3 else word for n, word in enumerate(words.split())]
        (corpus / f"{i}.txt").write_text(" ".join(text * (3 + i)))
    return copy


@pytest.fixture(scope="module")
def ran(tree: Path) -> dict[str, Any]:
    path = str(Path(sys.executable).parent)
    environment = {"PYTHONPATH": str(tree), "KETCYCLE_HOME": str(tree / "home"), "PATH": path}
    command = [sys.executable, "-c", BOTH, str(tree / "corpus")]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_is_listed_with_its_arms_and_options(ran: dict[str, Any]) -> None:
    _, output = ran["shown"]["decisions --json"]
    [listed] = [d for d in json.loads(output) if d["decision"] == "curation/largest"]
    assert [arm["name"] for arm in listed["arms"]] == ["compare", "coins", "coins-exact", "chance"]
    assert listed["options"] == {"curation.largest.documents": 8}


def test_it_is_decided_reported_and_studied(ran: dict[str, Any]) -> None:
    [stage] = ran["report"]["stages"]
    [decision] = [s for s in stage["subtasks"] if s["name"] == "largest"]
    assert decision["chosen"] == "compare"
    assert decision["size"] == 5, "as set by the run's options"
    assert {row["arm"]: row["status"] for row in decision["rows"]} == dict.fromkeys(
        ("compare", "coins", "coins-exact", "chance"), "done"
    )
    assert stage["facts"]["longest_bytes"] > 100
    assert ran["study"]["subtask"] == "curation/largest"
    assert ran["study"]["instances"] == 6
    assert ran["study"]["predictions"]["verdict"].startswith("the largest value stays")
    for command in ("evidence --json", "report added"):
        status, output = ran["shown"][command]
        assert status == 0
        assert "largest" in output


def test_a_wrong_option_is_refused_with_the_nearest_name(ran: dict[str, Any]) -> None:
    status, output = ran["shown"]["run --set curation.largest.document=5"]
    assert status == 2
    assert "did you mean curation.largest.documents" in " ".join(output.split())

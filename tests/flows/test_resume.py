"""A run whose Dask workers die goes on by itself; a run that is continued does again what has changed, and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.runtime.inspect import list_calls
from infra.tracking import Tracking

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RUN = "w1"


@dataclass(frozen=True)
class Home:
    """A home with one run in it."""

    path: Path

    def run(self, *arguments: str, kill_workers_at: str = "") -> str:
        """Run and return the progress lines; at a line that holds the words, kill the Dask workers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", *arguments, "--home", str(self.path)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if kill_workers_at and kill_workers_at in line:
                kill_workers_at = ""
                for child in psutil.Process(process.pid).children():
                    if "multiprocessing" in " ".join(child.cmdline()) and "tracker" not in " ".join(child.cmdline()):
                        child.send_signal(signal.SIGKILL)
        assert process.wait() == 0, "".join(lines[-40:])
        assert not kill_workers_at, "the workers were killed"
        return "".join(lines)

    def stages(self) -> dict[str, Any]:
        run = json.loads((self.path / "runs" / RUN / "run.json").read_text())
        assert run["status"] == "done"
        return dict(run["stages"])

    def report(self) -> list[dict[str, Any]]:
        stages = json.loads((self.path / "runs" / RUN / "report.json").read_text())["stages"]
        return [row for stage in stages for subtask in stage["subtasks"] for row in subtask["rows"]]

    def calls(self) -> Counter[tuple[Any, ...]]:
        calls = list_calls(f"sqlite:///{self.path}/ledger.db", run=RUN, limit=10_000)
        assert {call["state"] for call in calls} == {"DONE"}
        return Counter((call["subtask"], call["arm"], call["ordinal"]) for call in calls)

    def mlflow(self) -> dict[str, dict[str, str]]:
        tracking = Tracking(f"sqlite:///{self.path}/mlflow/mlflow.db", self.path / "mlflow" / "artifacts")
        runs = tracking._client.search_runs([tracking._experiment])
        assert len({run.data.tags["ketcycle_stage"] for run in runs}) == len(runs), "no run twice"
        assert {run.info.status for run in runs} == {"FINISHED"}
        return {run.info.run_name: run.data.params for run in runs}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    arguments = ("--profile", "smoke", "--stages", "curation", "--run", RUN)
    home.run(*arguments, kill_workers_at="pose representatives again")
    return home


def test_a_run_survives_its_workers_and_pays_nothing_twice(home: Home) -> None:
    assert home.stages()["curation"]["status"] == "done"
    rows = home.report()
    assert [(row["arm"], row["reason"]) for row in rows if row["status"] != "done"] == []
    assert sum(row["role"] == "challenger" for row in rows) == 2
    assert set(home.calls().values()) == {1}


def test_other_parameters_do_again_what_they_change_and_say_so(home: Home) -> None:
    before, products = home.calls(), home.stages()["curation"]["refs"]
    lines = home.run("--resume", RUN, "--seed", "1", "--stages", "curation,preprocessing")
    assert "curation: seed changed (0 -> 1): runs again" in lines
    assert "reused: none; run again: curation: seed changed (0 -> 1)" in lines
    stages = home.stages()
    assert stages["curation"]["reason"] == "seed changed (0 -> 1)"
    assert stages["preprocessing"]["reason"] == ""
    assert stages["curation"]["refs"] == products, "the incumbents of this stage need no luck"
    assert [(row["arm"], row["reason"]) for row in home.report() if row["status"] != "done"] == []
    assert home.calls() == before + before, "another seed asks anew"
    assert set(home.mlflow()) == {RUN, "curation", "preprocessing"}
    assert home.mlflow()[RUN]["seed"] == "1"
    assert home.mlflow()["preprocessing"]["vocab_size"] == "1024"


def test_a_finished_run_that_is_continued_has_nothing_to_do(home: Home) -> None:
    lines = home.run("--resume", RUN, "--stages", "preprocessing")
    assert "preprocessing: done already, nothing to do" in lines
    stages = home.stages()
    assert list(stages) == ["curation", "preprocessing"], "a stage that is not run now stays in the record"
    assert stages["preprocessing"]["reused"]
    assert set(home.mlflow()) == {RUN, "curation", "preprocessing"}

"""Event in, run out: a real Prefect server with what `ketcycle deploy` puts there, and a real worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra import events
from infra.claims import Claims
from infra.compute import free_port
from infra.tracking import Tracking

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
DRIFT = {"model": "m", "window": "w1", "streak": "s1", "requests": 40, "p_value": 0.001, "state": "alert"}
TEXT = "The queue keeps what it was given, and the people who read the book know that it is so. " * 20


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.5)


class Installation:
    """A home with a Prefect server, the deployments and a worker."""

    def __init__(self, folder: Path) -> None:
        self.home, port = folder / "home", free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
        self.environment = kept | {
            "PREFECT_API_URL": self.url, "PREFECT_HOME": str(folder / "prefect"), "KETCYCLE_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true", "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT), "KETCYCLE_WORKERS": "1",
            "KETCYCLE_VERSION": "test",
        }  # fmt: skip
        self._log = (folder / "log").open("ab")
        self._started: list[subprocess.Popen[bytes]] = []
        self.begin("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        until(self._answers)
        self.first = self.deploy()
        self.begin("prefect", "worker", "start", "--pool", "ketcycle")

    def begin(self, *arguments: str) -> None:
        command = [sys.executable, "-m", *arguments]
        options: Any = {"cwd": ROOT, "env": self.environment, "stdout": self._log, "stderr": self._log}
        self._started.append(subprocess.Popen(command, start_new_session=True, **options))

    def deploy(self, *arguments: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "flows.cli", "deploy", "--json", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout)["changes"])

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        flows = {"name": {"any_": [flow]}}
        return list(self.ask("/flow_runs/filter", flows=flows, sort="EXPECTED_START_TIME_ASC"))

    def ended(self, flow: str, count: int) -> list[tuple[str, str]]:
        def over() -> bool:
            return sum(run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED") for run in self.runs(flow)) >= count

        until(over)
        return [(run["state"]["name"], run["state"]["message"]) for run in self.runs(flow)]

    def stop(self) -> None:
        for process in reversed(self._started):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
        self._log.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("answers"))
    yield installation
    installation.stop()


@pytest.fixture(autouse=True)
def _api(installed: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", installed.url)


def test_deploying_twice_is_deploying_once(installed: Installation) -> None:
    kinds = {change["kind"] for change in installed.first}
    assert kinds == {"pool", "queue", "limit", "deployment", "automation"}
    assert {change["action"] for change in installed.first} <= {"create", "update"}
    assert installed.deploy("--dry-run") == []
    switched = installed.deploy("--schedules", "on")
    assert {(change["kind"], change["detail"]) for change in switched} == {("schedule", "on")}
    assert installed.deploy() == []  # what people switched on stays on
    waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    until(lambda: len({run["deployment_id"] for run in installed.ask("/flow_runs/filter", flow_runs=waiting)}) == 6)
    installed.deploy("--schedules", "off")


def test_a_validated_model_gets_the_alias_once(installed: Installation, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{installed.home / 'mlflow' / 'mlflow.db'}", installed.home / "mlflow" / "artifacts")
    for version in (1, 2):
        folder = tmp_path / f"model-{version}"
        folder.mkdir()
        assert tracking.register("demo", folder, "challenger", {}) == version
    fact = {"name": "demo", "version": 2, "by": "gate", "reason": "better"}
    for once in ("first", "first", "told by somebody else"):
        assert events.emit("model.validated", fact, once=once)
    states = installed.ended("promote-on-validation", 2)
    assert sorted(state for state, _ in states) == ["Completed", "Skipped"]
    assert "champion of demo: nothing -> version 2 (gate: better)" in [said for _, said in states]
    found = tracking.pointed_at("demo", "champion")
    assert found is not None
    assert found[0] == 2
    time.sleep(5)  # a third run would be there by now
    runs = installed.runs("promote-on-validation")
    assert [run["parameters"]["model"] for run in runs] == [fact, fact]


def test_just_the_new_files_of_an_arrival_are_curated(installed: Installation) -> None:
    inbox = installed.home / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "a.txt").write_text(TEXT)
    events.emit("corpus.arrived", {"files": ["a.txt"]})
    ((state, said),) = installed.ended("curate-on-arrival", 1)
    assert (state, said.split("; ")[0]) == ("Completed", "1 of 1 files were new")
    (inbox / "b.txt").write_text(TEXT.replace("queue", "ledger"))
    events.emit("corpus.arrived", {"files": ["a.txt", "b.txt"]})
    events.emit("corpus.arrived", {"files": ["../home/ledger.db"]})
    states = installed.ended("curate-on-arrival", 3)
    assert ("Completed", "1 of 2 files were new") in [(state, said.split("; ")[0]) for state, said in states]
    assert any(state == "Failed" and "lies outside" in said for state, said in states)
    (second,) = [run for run in installed.runs("lifecycle") if len(run["parameters"]["config"]["corpus"]) == 1][1:]
    assert second["parameters"]["config"]["corpus"] == [str(inbox / "b.txt")]


def test_drift_in_the_cool_down_or_paused_trains_nothing(installed: Installation) -> None:
    ledger = f"sqlite:///{installed.home / 'ledger.db'}"
    Claims(ledger, "retrain-on-drift").claim("an earlier streak", "run-1", "ketcycle")
    events.emit("drift.detected", DRIFT | {"data": "monitoring/watch_windows@0123456789abcdef"})
    ((state, said),) = installed.ended("retrain-on-drift", 1)
    assert state == "Skipped"
    assert "cool-down: ketcycle was retrained 0.0 h ago by flow run run-1; 24 h must pass" in said
    (run,) = installed.runs("retrain-on-drift")
    assert run["parameters"]["drift"]["data"] == "monitoring/watch_windows@0123456789abcdef"
    (found,) = [a for a in installed.ask("/automations/filter") if "drift" in a["name"]]
    httpx.patch(f"{installed.url}/automations/{found['id']}", json={"enabled": False}).raise_for_status()
    assert installed.deploy() == []  # paused, and stays so
    events.emit("drift.detected", DRIFT | {"streak": "s2"})
    time.sleep(10)
    assert len(installed.runs("retrain-on-drift")) == 1


def test_the_clock_starts_what_is_scheduled(installed: Installation) -> None:
    (found,) = [d for d in installed.ask("/deployments/filter") if d["name"] == "corpus-watch"]
    (schedule,) = found["schedules"]
    change = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
    where = f"{installed.url}/deployments/{found['id']}/schedules/{schedule['id']}"
    httpx.patch(where, json=change).raise_for_status()
    until(
        lambda: any(r["auto_scheduled"] and r["state"]["type"] == "COMPLETED" for r in installed.runs("corpus-watch"))
    )
    changed = installed.deploy("--schedules", "off")
    assert {change["kind"] for change in changed} == {"deployment", "schedule"}, "what stands in the file comes back"

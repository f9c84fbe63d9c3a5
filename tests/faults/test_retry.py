"""*Retry* in the Prefect page, through the call that the page makes: a failed run of a deployment goes on.

A real server, the deployment of `prefect.yaml`, a real process worker.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.compute import free_port

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
WAIT_S = 600


@dataclass(frozen=True)
class Prefect:
    """A Prefect server with the deployments of the repository and a worker."""

    home: Path
    url: str

    def ask(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.url}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def flow_run(self, number: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/flow_runs/{number}", timeout=60).json())

    def wait_for(self, number: str, state: str, count: int) -> dict[str, Any]:
        def there() -> bool:
            run = self.flow_run(number)
            return run["run_count"] == count and run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")

        until(there)
        run = self.flow_run(number)
        assert run["state"]["type"] == state, run["state"]
        return run


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@pytest.fixture
def prefect(tmp_path: Path) -> Iterator[Prefect]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
    environment |= {
        "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "prefect"), "KETCYCLE_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true", "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    log = (tmp_path / "prefect.log").open("ab")
    command = [sys.executable, "-m", "prefect"]
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> None:
        started.append(subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        ))  # fmt: skip

    def do(*arguments: str) -> None:
        subprocess.run([*command, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)

    try:
        begin("server", "start", "--host", "127.0.0.1", "--port", str(port))
        until(lambda: answers(url))
        do("work-pool", "create", "--type", "process", "ketcycle")
        do("--no-prompt", "deploy", "--name", "nightly")
        # No --limit: a worker that has one dies when a run is retried before its process is gone (prefect 3.8.8).
        begin("worker", "start", "--pool", "ketcycle")
        yield Prefect(tmp_path / "home", url)
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)
        log.close()


def test_retry_goes_on_where_the_run_failed(prefect: Prefect) -> None:
    in_the_way = prefect.home / "lake" / "preprocessing"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder must be made")
    deployment = httpx.get(f"{prefect.url}/deployments/name/lifecycle/nightly", timeout=60).json()
    config = {"profile": "smoke", "stages": ["curation", "preprocessing"]}
    number = prefect.ask(f"/deployments/{deployment['id']}/create_flow_run", parameters={"config": config})["id"]
    failed = prefect.wait_for(number, "FAILED", 1)
    name = f"run-{number[:13]}"
    assert failed["name"] == f"lifecycle {name}"
    assert f"--resume {name}" in failed["state"]["message"]

    in_the_way.unlink()
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    assert prefect.ask(f"/flow_runs/{number}/set_state", state=retry)["status"] == "ACCEPT"
    prefect.wait_for(number, "COMPLETED", 2)
    run = json.loads((prefect.home / "runs" / name / "run.json").read_text())
    assert run["status"] == "done"
    assert {stage: (entry["status"], entry["reused"]) for stage, entry in run["stages"].items()} == {
        "curation": ("done", True),
        "preprocessing": ("done", False),
    }
    assert [path.name for path in (prefect.home / "runs").iterdir()] == [name]
    names = {run["name"] for run in prefect.ask("/flow_runs/filter", limit=50)}
    assert names == {f"lifecycle {name}", f"curation {name}", f"preprocessing {name}"}

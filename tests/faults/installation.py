"""A standing installation for tests: `ketcycle up` in a home and a work folder of its own, asked over its addresses."""

from __future__ import annotations

import json
import os
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.compute import free_port, read_note
from infra.installation.flow_runs import processes

ROOT = Path(__file__).parents[2]
ATTEMPTS, PATIENCE_S, POLL_S = 11, 240, 0.5
UNKEPT = httpx.Limits(max_keepalive_connections=0)  # a server that is started again knows no connection of before
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
DRIFT = {"model": "m", "window": "w1", "streak": "s1", "requests": 40, "p_value": 0.001, "state": "alert"}
SMOKE = {"config": {"profile": "smoke"}}
# Each deployment of its own flow, with the parameters of a run that lasts until it is killed.
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "lifecycle/nightly": SMOKE,
    "retrain-on-drift/retrain-on-drift": {"drift": DRIFT | {"streak": "killed"}, "rules": {"cool_down_h": 0}, **SMOKE},
    "curate-on-arrival/curate-on-arrival": {"arrival": {"files": ["a.txt"]}},
    "clean/clean": {},
    "promote-on-validation/promote-on-validation": {"model": {"name": "demo", "version": 1, "by": "a person"}},
    "drift-watch/drift-watch": {},
    "corpus-watch/corpus-watch": {},
    "quantum-dispatch/quantum-dispatch": {},
    "evidence-report/evidence-report": {},
    "status/status": {},
    "start-when-green/nightly-when-green": {"deployment": "status/status"},
    "curation/curation-alone": SMOKE,
    "pilot/grid": {},
}


def until(true: Callable[[], Any], seconds: float = 600) -> float:
    """Wait until something is true and return the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come true in time"
        time.sleep(POLL_S)
    return time.monotonic() - began


def corpus(text: str, documents: int = 120_000) -> str:
    """Return documents of shuffled words of a text as JSON lines, so many that their curation can be cut short."""
    words, rng = text.split(), random.Random(text)
    return "\n".join(json.dumps({"text": " ".join(rng.choices(words, k=80))}) for _ in range(documents))


class Installation:
    """What an operator has: commands, a page, and processes."""

    def __init__(self, folder: Path) -> None:
        self.home, self.work, self.port = folder / "home", folder / "work", free_port()
        self.work.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{self.port}/api"
        # Without certificates, which take tens of milliseconds to read at each request.
        self.client = httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), timeout=PATIENCE_S, limits=UNKEPT)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
        self.environment = kept | {
            "KETCYCLE_HOME": str(self.home), "PYTHONPATH": str(ROOT), "KETCYCLE_WORKERS": "1",
            "KETCYCLE_VERSION": "test", "PREFECT_WORKER_QUERY_SECONDS": "1",
        }  # fmt: skip

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `ketcycle` command."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done

    def up(self) -> None:
        """Start the services."""
        ports = [f"--{name}-port=0" for name in ("mlflow", "dask", "metrics")]
        self.command("up", "--detach", f"--prefect-port={self.port}", *ports)

    def down(self) -> None:
        """Stop the services."""
        self.command("down")

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        """Emit an event as an operator does."""
        self.command("emit", event, "--payload", json.dumps(payload))

    def start(self, deployment: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start a run of a deployment (flow/name) as the page does, and return it."""
        found = self.ask(f"/deployments/name/{deployment}", method="GET")
        wanted = {"parameters": parameters or {}, "state": {"type": "SCHEDULED"}}
        return dict(self.ask(f"/deployments/{found['id']}/create_flow_run", wanted))

    def answers(self, name: str, path: str) -> bool:
        """Return whether the service of a noted address answers."""
        try:
            return self.client.get(f"{read_note(self.home)[name]}{path}", timeout=5).is_success
        except (httpx.HTTPError, KeyError):
            return False

    def there(self, run: dict[str, Any]) -> bool:
        """Return whether the process of a flow run is there."""
        return run["id"] in processes()

    def answered(self, name: str, text: str) -> tuple[float, float]:
        """Emit the arrival of a new file; return the seconds until its run begins, and until it is completed."""
        began = time.monotonic()
        run = self.arrive(name, text)
        begun_s = time.monotonic() - began
        until(lambda: self.state(run)[0] == "COMPLETED")
        return begun_s, time.monotonic() - began

    def ended(self, run: dict[str, Any], *states: str) -> bool:
        """Return whether a flow run is in one of some states; a server that is being started again says nothing."""
        try:
            return self.state(run)[0] in (states or OVER)
        except httpx.HTTPError:
            return False

    def deploy(self, *arguments: str) -> list[dict[str, Any]]:
        """Deploy and return the changes."""
        return list(json.loads(self.command("deploy", "--json", *arguments).stdout)["changes"])

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """Ask the Prefect API; a busy server says 503, after which Prefect's own clients ask again too."""
        for attempt in range(ATTEMPTS):
            answer = self.client.request(method, f"{self.url}{path}", json=body or {})
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(attempt)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the flow runs of a flow, the oldest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.ask("/flow_runs/filter", wanted))

    def state(self, run: dict[str, Any]) -> tuple[str, str]:
        """Return type and message of the state of a flow run."""
        found = self.ask(f"/flow_runs/{run['id']}", method="GET")["state"]
        return str(found["type"]), str(found["message"])

    def seconds_until_end(self, run: dict[str, Any], began: datetime) -> float:
        """Return the seconds from a time until a flow run got its last state; a server that was down knows it too."""
        state = self.ask(f"/flow_runs/{run['id']}", method="GET")["state"]
        return (datetime.fromisoformat(state["timestamp"]) - began).total_seconds()

    def over(self, flow: str, count: int) -> list[tuple[str, str]]:
        """Wait until flow runs are over and return name and message of their states."""
        until(lambda: sum(run["state"]["type"] in OVER for run in self.runs(flow)) >= count)
        return [(run["state"]["name"], run["state"]["message"]) for run in self.runs(flow)]

    def arrive(self, name: str, text: str, *, until_it_runs: bool = True) -> dict[str, Any]:
        """Put a file into the inbox, emit its arrival, and return the flow run that answers it once it runs.

        With `until_it_runs=False` it is returned as soon as a worker has taken it.
        """
        (self.home / "inbox" / name).write_text(text)
        known = {run["id"] for run in self.runs("curate-on-arrival")}
        self.emit("corpus.arrived", {"files": [name]})
        found: list[dict[str, Any]] = []

        def running() -> bool:
            found[:] = [run for run in self.runs("curate-on-arrival") if run["id"] not in known]
            if not until_it_runs:
                return bool(found) and found[0]["state"]["type"] in ("PENDING", "RUNNING", *OVER)
            return bool(found) and found[0]["state"]["type"] == "RUNNING" and self.there(found[0])

        until(running)
        return found[0]

    def outcome(self, name: str, text: str) -> tuple[str, str]:
        """Put a file into the inbox, emit its arrival, wait for its flow run; return type and message of its state."""
        run = self.arrive(name, text, until_it_runs=False)
        until(lambda: self.ended(run))
        return self.state(run)

    def process(self, name: str) -> psutil.Process:
        """Return the process of a service: `up`, `server`, `worker`, `mlflow` or `dask` (a worker)."""
        leader = psutil.Process(read_note(self.home)["pid"])
        if name == "up":
            return leader
        marks = {
            "server": "prefect server start",
            "worker": "infra.processes.worker worker start",
            "mlflow": "mlflow server",
            "dask": "from multiprocessing.spawn",
        }
        for child in leader.children():
            if marks[name] in " ".join(child.cmdline()):
                return child
        raise AssertionError(f"no process of {name}")

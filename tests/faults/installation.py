"""A standing installation for tests: `ketcycle up` in a home and a work folder of its own, asked over its addresses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.compute import free_port, read_note
from infra.flow_runs import processes

ROOT = Path(__file__).parents[2]
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def until(true: Callable[[], Any], seconds: float = 600) -> float:
    """Wait until something is true and return the seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come true in time"
        time.sleep(0.3)
    return time.monotonic() - began


class Installation:
    """What an operator has: commands, a page, and processes."""

    def __init__(self, folder: Path) -> None:
        self.home, self.work, self.port = folder / "home", folder / "work", free_port()
        self.work.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{self.port}/api"
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

    def deploy(self, *arguments: str) -> list[dict[str, Any]]:
        """Deploy and return the changes."""
        return list(json.loads(self.command("deploy", "--json", *arguments).stdout)["changes"])

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """Ask the Prefect API."""
        answer = httpx.request(method, f"{self.url}{path}", json=body or {}, timeout=60)
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

    def over(self, flow: str, count: int) -> list[tuple[str, str]]:
        """Wait until flow runs are over and return name and message of their states."""
        until(lambda: sum(run["state"]["type"] in OVER for run in self.runs(flow)) >= count)
        return [(run["state"]["name"], run["state"]["message"]) for run in self.runs(flow)]

    def arrive(self, name: str, text: str) -> dict[str, Any]:
        """Put a file into the inbox, emit its arrival, and return the flow run that answers it once it runs."""
        (self.home / "inbox" / name).write_text(text)
        known = {run["id"] for run in self.runs("curate-on-arrival")}
        self.emit("corpus.arrived", {"files": [name]})
        found: list[dict[str, Any]] = []

        def running() -> bool:
            found[:] = [run for run in self.runs("curate-on-arrival") if run["id"] not in known]
            return bool(found) and found[0]["id"] in processes() and found[0]["state"]["type"] == "RUNNING"

        until(running)
        return found[0]

    def process(self, name: str) -> psutil.Process:
        """Return the process of a service: `up`, `server`, `worker` or `mlflow`."""
        leader = psutil.Process(read_note(self.home)["pid"])
        if name == "up":
            return leader
        marks = {"server": ("server", "start"), "worker": ("worker", "start"), "mlflow": ("mlflow", "server")}
        for child in leader.children():
            if all(part in child.cmdline() for part in marks[name]):
                return child
        raise AssertionError(f"no process of {name}")

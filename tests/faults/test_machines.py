"""An installation of several machines, one of them in namespaces of its own, while its parts are killed or cut off.

Server, scheduler, a Dask worker and a dispatcher are roles on this machine; a runner is on the other one, behind TLS.
The namespaces need root. A killed role is started again at once, as systemd or compose does it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from installation import PATIENCE_S, UNKEPT, Installation, corpus, until
from printed import Printed

from infra import settings
from infra.access import init_tls
from infra.compute import free_port, read_note

SERVER, AWAY, PLACE = "10.231.77.1", "10.231.77.2", "kc-away"
SPACE = ("ip", "netns", "exec", PLACE, "unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
TEXT = "The ledger keeps what it was given, and the people who read the book know that it is so. " * 20


def root(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.faults,
    pytest.mark.engine,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not root("unshare", "--net", "--pid", "--fork", "true"), reason="may make no namespaces"),
]


class Machines(Installation):
    """Roles in one home that two machines see, reached over TLS."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"https://{SERVER}:{self.port}/api"
        ports = {name: free_port() for name in ("mlflow", "scheduler", "metrics")}
        init_tls(self.home / "tls", [SERVER, AWAY])
        self.environment |= {f"KETCYCLE_{name.upper()}_PORT": str(port) for name, port in ports.items()} | {
            "KETCYCLE_PREFECT_PORT": str(self.port), "KETCYCLE_DASK_PORT": "0", "KETCYCLE_PREFECT_URL": self.url,
            "KETCYCLE_DASK_ADDRESS": f"tls://{SERVER}:{ports['scheduler']}",
        }  # fmt: skip
        secret = (self.home / "tls" / "secret").read_text().strip()
        verify = ssl.create_default_context(cafile=str(self.home / "tls" / "ca.pem"))
        self.client = httpx.Client(auth=(settings.USER, secret), verify=verify, timeout=PATIENCE_S, limits=UNKEPT)
        self.parts: dict[str, subprocess.Popen[bytes]] = {}

    def play(self, part: str, *around: str) -> None:
        """Start a role and wait until it is ready; `away` is a runner on the other machine."""
        role, host = ("runner", AWAY) if part == "away" else (part, SERVER)
        log = self.work / f"{part}.log"
        command = [*around, sys.executable, "-m", "flows.cli", "up", "--role", role, "--address", host]
        with log.open("wb") as output:
            started = subprocess.Popen(command, cwd=self.work, env=self.environment, stdout=output, stderr=output)
        self.parts[part] = started
        until(lambda: self.ready(part, role, log))

    def ready(self, part: str, role: str, log: Path) -> bool:
        assert self.parts[part].poll() is None, log.read_text()
        host = "away" if part == "away" else os.uname().nodename
        note = read_note(self.home / "roles" / f"{role}@{host}")
        if role == "runner":
            return "worker" in note  # it is published when its worker has the pool
        return bool(note) and (role not in ("server", "scheduler") or "ready" in log.read_text())

    def play_away(self) -> None:
        """Start the runner of the other machine."""
        self.play("away", *SPACE, "sh", "-c", 'hostname away; exec "$@"', "sh")

    def end(self, part: str, number: signal.Signals) -> None:
        """End a role with all of its processes."""
        started = self.parts.pop(part)
        if started.poll() is not None:  # ended by a test that failed
            return
        process = psutil.Process(started.pid)
        family = [process, *process.children(recursive=True)]
        # `unshare` passes no SIGTERM on: the command inside it ends its own processes.
        commands = [member for member in family if member.cmdline()[1:3] == ["-m", "flows.cli"]]
        for member in family if number == signal.SIGKILL else commands[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        psutil.wait_procs(family, timeout=60)

    def there(self, run: dict[str, Any]) -> bool:
        return True  # its process is on another machine


def cut(closed: bool) -> None:
    """Cut the other machine off the network, or connect it again."""
    assert root("ip", "link", "set", "kc-here", "down" if closed else "up")


def connect(commands: Sequence[str]) -> None:
    for command in commands:
        assert root(*command.split()), command


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    root("ip", "netns", "del", PLACE)
    connect(
        [
            f"ip netns add {PLACE}",
            f"ip link add kc-here type veth peer name kc-there netns {PLACE}",
            f"ip addr add {SERVER}/24 dev kc-here",
            "ip link set kc-here up",
            f"ip netns exec {PLACE} ip addr add {AWAY}/24 dev kc-there",
            f"ip netns exec {PLACE} ip link set kc-there up",
            f"ip netns exec {PLACE} ip link set lo up",
        ]
    )
    found = Machines(tmp_path_factory.mktemp("machines"))
    try:
        for part in ("server", "scheduler", "worker", "dispatcher"):
            found.play(part)
        found.play_away()
        yield found
    finally:
        for part in reversed([*found.parts]):
            found.end(part, signal.SIGTERM)
        root("ip", "netns", "del", PLACE)


@pytest.fixture(scope="module")
def ended() -> Iterator[Printed]:
    header = ("ends while a curation runs", "the run", "its message", "after, s", "next event: begins, s", "done, s")
    table = Printed("machines", header)
    yield table
    table.close()


ENDS = {
    "the dispatcher": ("dispatcher", ("COMPLETED",)),
    "the machine of the Dask worker": ("worker", ("COMPLETED",)),
    "the machine of the Dask scheduler": ("scheduler", ("FAILED", "CRASHED", "COMPLETED")),
    "the machine of the Prefect server and MLflow": ("server", ("COMPLETED", "CRASHED")),
    "the runner's machine": ("away", ("CRASHED",)),
    "the network of the runner's machine": ("network", ("CRASHED",)),
}


@pytest.mark.parametrize("what", ENDS)
def test_a_part_of_an_installation_may_end(machines: Machines, ended: Printed, what: str) -> None:
    """Where the runner's machine is lost, another runner answers the next event."""
    part, states = ENDS[what]
    name, text = what.replace(" ", "-").replace("'", ""), TEXT.replace("people", what)
    run = machines.arrive(f"{name}.jsonl", corpus(text))
    if part in ("away", "network"):
        machines.play("runner")
    began = datetime.now(UTC)
    if part == "network":
        cut(True)
    else:
        machines.end(part, signal.SIGKILL)
    if part not in ("away", "network"):
        machines.play(part)
    until(lambda: machines.ended(run))
    state, said = machines.state(run)
    ended_s = machines.seconds_until_end(run, began)
    assert state in states, said
    begun_s, done_s = machines.answered(f"{name}-next.txt", text.replace("know", "see"))
    if part == "network":
        cut(False)
    if part in ("away", "network"):
        machines.end("runner", signal.SIGTERM)
        if part == "away":
            machines.play_away()
    if state != "COMPLETED":
        last, reason = machines.outcome(f"{name}.jsonl", corpus(text))
        while "is going on in another process" in reason:  # on the machine that came back; nothing is done twice
            last, reason = machines.outcome(f"{name}.jsonl", corpus(text))
        assert last == "COMPLETED", reason
        assert reason.startswith("1 of 1 files were new")
    # A machine that comes back reports what it met meanwhile, but does not go on beside the run that took its place.
    last, reason = machines.state(run)
    assert last in (state, "FAILED")
    short = said.split("; run")[0].partition("\n")[0][:120]
    back = "" if last == state else f"; when it is back: {last.capitalize()}, {reason.partition(chr(10))[0][:120]}"
    ended.add(what, state.capitalize(), short + back, f"{ended_s:.0f}", f"{begun_s:.0f}", f"{done_s:.0f}")

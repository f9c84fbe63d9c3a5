"""Two hosts that share no folder: services on one, workers on the other, lake in S3, all tables in PostgreSQL.

Each is processes with a home and a work folder of their own, on addresses of their own. A worker process is killed in
the middle of curation, and all of a worker machine in the middle of training; the run ends as one in a single home that
nobody disturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest
import sqlalchemy as sa

from infra import compute, settings
from infra.access import init_tls
from infra.runtime.figures.inspect import list_calls
from infra.runtime.ledger.ledger import DONE, Ledger
from infra.runtime.ledger.schema import batches, parts
from tasks.contract import STAGES

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
RUN = "two"
RUNNING = ("run", "--profile", "smoke", "--run", RUN, "--verbose")
SERVER, WORKERS = "127.0.0.2", ("127.0.0.3", "127.0.0.4")
START_S = 180.0


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


def ketcycle(home: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Type a command in the work folder beside a home, where its `ketcycle.toml` is."""
    work = home.with_name(f"{home.name}-work")
    work.mkdir(exist_ok=True)
    with (work / f"{'-'.join(arguments[:3])}.log").open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments, "--home", str(home)],
            cwd=work, env={**environment(), **variables}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=output, text=True,
        )  # fmt: skip


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def said(home: Path, *arguments: str) -> str:
    return (home.with_name(f"{home.name}-work") / f"{'-'.join(arguments[:3])}.log").read_text()


def until(condition: Any, what: str, seconds: float = START_S) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(what)


def tables(postgres: str) -> dict[str, str]:
    """Return what sets a server to databases of its own, which are made."""
    server = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    names = {name: f"{name}_{uuid.uuid4().hex}" for name in ("prefect", "mlflow")}
    with server.connect() as connection:
        for name in names.values():
            connection.execute(sa.text(f"create database {name}"))
    server.dispose()
    base = postgres.rpartition("/")[0]
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"{base.replace('pg8000', 'asyncpg')}/{names['prefect']}",
        "KETCYCLE_TRACKING_URI": f"{base}/{names['mlflow']}",
    }


def kill_all(process: subprocess.Popen[str]) -> None:
    """Switch a machine off."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGSTOP)
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()


def left_by(home: Path, ledger: str) -> dict[str, Any]:
    """Return what must not depend on where a run went, nor on who was killed."""
    report = json.loads((home / "runs" / RUN / "report.json").read_text())
    subtasks = [(stage["stage"], subtask) for stage in report["stages"] for subtask in stage["subtasks"]]
    calls = list_calls(ledger, run=RUN, limit=10_000)
    return {
        "stages": {stage["stage"]: stage["status"] for stage in report["stages"]},
        "refs": {stage["stage"]: stage["refs"] for stage in report["stages"]},
        "decisions": {f"{stage}/{s['name']}": (s["chosen"], s["rule"], s["reason"]) for stage, s in subtasks},
        "arms": {
            f"{stage}/{s['name']}/{row['arm']}": [row[k] for k in ("status", "quality", "n", "circuits", "shots")]
            for stage, s in subtasks
            for row in s["rows"]
        },
        "calls": Counter(f"{c['stage']}/{c['subtask']}/{c['arm']} {c['ordinal']} {c['state']}" for c in calls),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("alone") / "home"
    with running(ketcycle(home, *RUNNING)) as process:
        assert process.wait(900) == 0, said(home, *RUNNING)
    return left_by(home, f"sqlite:///{home}/ledger.db")


@dataclass
class Hosts:
    """What runs where."""

    first: Path
    workers: dict[str, subprocess.Popen[str]]
    client: distributed.Client
    ledger: str

    def where(self, pattern: str) -> str:
        """Return the address of the worker machine in whose home there is a file like that."""
        homes = {address: self.first.with_name(f"b{i}") for i, address in enumerate(WORKERS)}
        return next((address for address, home in homes.items() if any(home.glob(pattern))), "")


@pytest.fixture
def hosts(bucket: str, postgres: str, tmp_path: Path) -> Iterator[Hosts]:
    first, ports = tmp_path / "a", {name: compute.free_port() for name in ("prefect", "mlflow", "scheduler")}
    shared = {
        "lake_url": bucket,
        "ledger_url": postgres,
        "prefect_url": f"https://{SERVER}:{ports['prefect']}/api",
        "tracking_uri": f"https://{SERVER}:{ports['mlflow']}",
        "dask_address": f"tls://{SERVER}:{ports['scheduler']}",
    }
    others = {f"{name}_port": port for name, port in ports.items()} | {"dask_port": 0, "metrics_port": 0}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in {**shared, **others}.items())
    homes = {address: tmp_path / f"b{i}" for i, address in enumerate(WORKERS)}
    init_tls(first / "tls", [SERVER, *WORKERS])
    for home in (first, *homes.values()):
        home.with_name(f"{home.name}-work").mkdir()
        (home.with_name(f"{home.name}-work") / "ketcycle.toml").write_text(text)
    with ExitStack() as stack:
        for role, variables in (("server", tables(postgres)), ("scheduler", {})):
            command = ("up", "--role", role, "--address", SERVER)
            process = stack.enter_context(running(ketcycle(first, *command, **variables)))
            until(lambda: "ready;" in said(first, "up", "--role", role) or process.poll() is not None, role)  # noqa: B023
            assert process.poll() is None, said(first, "up", "--role", role)
        machines = {}
        for address, home in homes.items():
            shutil.copytree(first / "tls", home / "tls", ignore=shutil.ignore_patterns("ca-key.pem"))
            start_worker = ("up", "--role", "worker", "--address", address, "--workers", "1")
            machines[address] = stack.enter_context(running(ketcycle(home, *start_worker)))
        loaded = settings.load(home=first, **shared)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_PROXY", ",".join((SERVER, *WORKERS)))
            stack.enter_context(compute.cluster(loaded))
        client = distributed.get_client()
        client.wait_for_workers(len(WORKERS), timeout=START_S)
        yield Hosts(first, machines, client, postgres)


def test_a_run_on_two_hosts_with_workers_killed_ends_as_on_one_undisturbed(
    undisturbed: dict[str, Any], hosts: Hosts
) -> None:
    with running(ketcycle(hosts.first, *RUNNING)) as process:

        def progress() -> str:
            assert process.poll() is None, said(hosts.first, *RUNNING)
            return said(hosts.first, *RUNNING)

        shards, checkpoints = "index/curation/shards/*", "**/lake/training/checkpoints/*/*/*.json"
        victim = until(lambda: progress() and hosts.where(shards), "a worker reads the corpus")
        address = next(name for name in hosts.client.scheduler_info(n_workers=-1)["workers"] if f"//{victim}:" in name)
        (pid,) = hosts.client.run(os.getpid, workers=[address]).values()
        os.kill(pid, signal.SIGKILL)
        victim = until(lambda: progress() and hosts.where(checkpoints), "a worker trains", 600)
        kill_all(hosts.workers[victim])
        assert process.wait(900) == 0, said(hosts.first, *RUNNING)
        lines = said(hosts.first, *RUNNING)
        assert lines.count("curation: prepare") == 2, "curation was interrupted"
        assert lines.count("training: publish") == 2, "training was interrupted"

    left = left_by(hosts.first, hosts.ledger)
    assert set(left["stages"]) == set(STAGES)
    for name in undisturbed:
        assert left[name] == undisturbed[name], name
    assert not (hosts.first / "lake").exists(), "the lake is in the store alone"
    assert {path.name for path in hosts.first.rglob("*.db")} == {"auth.db"}, "all other tables are in PostgreSQL"
    with Ledger(hosts.ledger, create=False).database.read() as connection:
        paid = connection.execute(sa.select(batches.c.tag).where(batches.c.state == DONE)).scalars().all()
        used = connection.execute(sa.select(parts.c.batch, parts.c.result.is_(None))).all()
    assert sorted(paid) == sorted({batch for batch, _ in used}), "each circuit was sent in one batch"
    assert not any(open_ for _, open_ in used)

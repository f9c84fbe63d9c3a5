"""Flow runs whose process is gone, on a real Prefect server; their processes only sleep."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from deployments.tables import make_tables
from infra.installation import flow_runs

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]  # the server makes its database


class Runs:
    """Flow runs of one deployment with room for one, in the pool of this installation."""

    def __init__(self, url: str) -> None:
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectNotFound

        self.client = SyncPrefectClient(url).__enter__()
        try:
            self.client.read_work_pool(flow_runs.POOL)
        except ObjectNotFound:
            self.client.create_work_pool(WorkPoolCreate(name=flow_runs.POOL, type="process"))
        flow = self.client.create_flow_from_name("looked-after")
        self.deployment = self.client.create_deployment(flow, "d", concurrency_limit=1, work_pool_name=flow_runs.POOL)

    def begin(self, *, running: bool = True) -> UUID:
        """Return a flow run that a worker took and, unless told otherwise, whose process reported that it runs."""
        from prefect.states import Pending, Running

        run = self.client.create_flow_run_from_deployment(self.deployment)
        taken: Any = self.client.set_flow_run_state(run.id, Pending())
        assert taken.status.value == "ACCEPT", taken.details
        if running:
            self.client.set_flow_run_state(run.id, Running())
        return run.id

    def inside(self, parent: UUID) -> UUID:
        """Return a flow run inside another one, as a flow that calls a flow makes it."""
        from prefect import flow, task
        from prefect.states import Running

        @task(name="inner")
        def inner() -> None: ...

        @flow(name="inner")
        def nested() -> None: ...

        around = self.client.create_task_run(inner, parent, dynamic_key=str(parent), name="inner")
        return self.client.create_flow_run(nested, parent_task_run_id=around.id, state=Running()).id

    def state(self, run: UUID) -> str:
        state = self.client.read_flow_run(run).state
        assert state is not None
        return state.type.value


@pytest.fixture(scope="module")
def runs(prefect_server: str) -> Iterator[Runs]:
    found = Runs(prefect_server)
    yield found
    found.client.__exit__(None, None, None)


@pytest.fixture
def supervisor(prefect_server: str) -> flow_runs.Supervisor:
    return flow_runs.Supervisor(prefect_server, lambda _: None)


def process_of(run: UUID, worker: str = "of a test") -> subprocess.Popen[bytes]:
    code = "import time; print('ready', flush=True); time.sleep(600)"
    environment = {**os.environ, flow_runs.MARK: str(run), flow_runs.STARTED_BY: worker}
    command = [sys.executable, "-c", code, "prefect.engine"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        said.readline()
    return process


@pytest.mark.slow  # the server makes its database
def test_a_run_whose_process_is_gone_crashes_and_frees_its_slot(runs: Runs, supervisor: flow_runs.Supervisor) -> None:
    run = runs.begin()
    nested = runs.inside(run)
    process = process_of(run)
    for _ in range(3):
        supervisor.look()
    assert runs.state(run) == "RUNNING", "its process is there"
    process.kill()
    process.wait()
    supervisor.look()
    assert runs.state(run) == "RUNNING", "one look may come between the end of a process and its worker's report"
    for _ in range(3):
        supervisor.look()
    assert (runs.state(run), runs.state(nested)) == ("CRASHED", "CRASHED")
    following = runs.begin()
    supervisor.end_dead()
    assert runs.state(following) == "CRASHED"


def test_a_run_that_an_ended_worker_had_taken_crashes_unless_its_process_appears(
    runs: Runs, supervisor: flow_runs.Supervisor
) -> None:
    run = runs.begin(running=False)
    for _ in range(3):
        supervisor.look()
    assert runs.state(run) == "PENDING", "its worker may be starting the process"
    supervisor.worker_ended()
    supervisor.look()
    process = process_of(run)  # begun by the worker just before it ended
    for _ in range(3):
        supervisor.look()
    assert runs.state(run) == "PENDING"
    process.kill()
    process.wait()
    for _ in range(2):
        supervisor.look()
    assert runs.state(run) == "CRASHED"


def test_runs_with_a_process_and_those_inside_them_get_heartbeats(runs: Runs, supervisor: flow_runs.Supervisor) -> None:
    run = runs.begin()
    nested = runs.inside(run)
    supervisor.look()  # no process yet, and no heartbeat
    process = process_of(run)
    supervisor.look()
    expected = {f"prefect.flow-run.{one}" for one in (run, nested)}
    found: list[str] = []
    while not expected <= set(found):  # the server stores events a moment later
        time.sleep(0.2)
        wanted = {"filter": {"event": {"name": [flow_runs.HEARTBEAT]}}}
        page = runs.client.request("POST", "/events/filter", json=wanted).json()["events"]
        found = [event["resource"]["prefect.resource.id"] for event in page]
    assert sorted(one for one in found if one in expected) == sorted(expected), "one for each"
    process.kill()
    process.wait()
    supervisor.end_dead()


def test_where_others_run_flows_a_machine_speaks_for_those_of_its_own_worker(
    prefect_server: str, runs: Runs, supervisor: flow_runs.Supervisor
) -> None:
    others, own = uuid4(), runs.begin()
    started = [process_of(others, "another machine's"), process_of(own, flow_runs.worker_name())]
    assert {str(others), str(own)} <= flow_runs.processes().keys()
    assert str(own) in (ours := flow_runs.processes(flow_runs.worker_name()))
    assert str(others) not in ours
    flow_runs.Supervisor(prefect_server, lambda _: None, alone=False).stop_runs(None)
    assert [process.poll() is None for process in started] == [True, False]
    assert runs.state(own) == "CRASHED"
    started[0].kill()
    started[0].wait()


def test_a_server_that_was_down_waits_for_the_next_heartbeat(tmp_path: Path) -> None:
    file = tmp_path / "prefect.db"
    make_tables(file, "prefect")
    past = "2026-01-01 00:00:00.000000"
    with closing(sqlite3.connect(file)) as connection, connection:
        for name in (flow_runs.SILENT, "another"):
            connection.execute(
                "INSERT INTO automation (id, name, description, trigger, actions) VALUES (?, ?, '', '{}', '[]')",
                (name, name),
            )
            connection.execute(
                'INSERT INTO automation_bucket (automation_id, trigger_id, bucketing_key, start, "end", count) '
                "VALUES (?, ?, '[]', ?, ?, 0)",
                (name, name, past, past),
            )
    flow_runs.forgive_silence(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        ends = dict(connection.execute('SELECT automation_id, "end" FROM automation_bucket'))
    left = datetime.fromisoformat(ends[flow_runs.SILENT]).replace(tzinfo=UTC) - datetime.now(UTC)
    assert flow_runs.SILENCE - timedelta(seconds=20) < left <= flow_runs.SILENCE
    assert ends["another"] == past
    flow_runs.forgive_silence(f"sqlite:///{tmp_path / 'none.db'}")  # no tables yet: nothing to do


def test_a_cancelled_run_that_does_not_end_is_stopped(
    runs: Runs, supervisor: flow_runs.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Cancelling

    run = runs.begin()
    process = process_of(run)
    runs.client.set_flow_run_state(run, Cancelling())
    supervisor.look()
    assert process.poll() is None, "its worker has the first word"
    monkeypatch.setattr(flow_runs, "CANCEL_S", 0.0)
    for _ in range(3):
        supervisor.look()
    process.wait(5)
    assert runs.state(run) == "CANCELLED"


def test_runs_end_before_the_services_stop(runs: Runs, supervisor: flow_runs.Supervisor) -> None:
    run = runs.begin()
    process = process_of(run)
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    supervisor.stop_runs(worker)
    assert worker.returncode is not None
    process.wait(5)
    assert runs.state(run) == "CRASHED"
    state = runs.client.read_flow_run(run).state
    assert state is not None
    assert "Retry" in str(state.message)


def test_a_server_that_does_not_answer_is_no_error() -> None:
    began = time.monotonic()
    flow_runs.Supervisor("http://127.0.0.1:9/api", lambda _: None).look()
    assert time.monotonic() - began < 30


RESTARTED = """
import threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from infra.compute import free_port
import flows
from prefect.client.orchestration import SyncPrefectClient

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"true")
    def log_message(self, *_): ...

port = free_port()
def late():
    time.sleep(2)
    HTTPServer(("127.0.0.1", port), Answer).serve_forever()
threading.Thread(target=late, daemon=True).start()
with SyncPrefectClient(f"http://127.0.0.1:{port}/api") as client:
    print(client.request("GET", "/health").status_code)
"""


@pytest.mark.parametrize("inside", [True, False])
def test_a_flow_run_outlasts_a_restart_of_the_server(inside: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != flow_runs.MARK}
    environment |= {flow_runs.MARK: "a run"} if inside else {}
    done = subprocess.run(
        [sys.executable, "-c", RESTARTED], env=environment, capture_output=True, text=True, timeout=90
    )
    assert (done.stdout.strip() == "200") is inside, done.stderr

"""Flow runs whose process is gone, on a real Prefect server; their processes only sleep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from infra import flow_runs

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

    def begin(self) -> UUID:
        """Return a flow run that a worker took and whose process reported that it runs."""
        from prefect.states import Pending, Running

        run = self.client.create_flow_run_from_deployment(self.deployment)
        taken = self.client.set_flow_run_state(run.id, Pending())
        assert taken.status.value == "ACCEPT", taken.details
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


def process_of(run: UUID) -> subprocess.Popen[bytes]:
    code = "import time; print('ready', flush=True); time.sleep(600)"
    environment = {**os.environ, flow_runs.MARK: str(run)}
    command = [sys.executable, "-c", code, "prefect.engine"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
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

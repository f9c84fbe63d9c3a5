"""Flow runs whose process is gone: found on the machine that ran them, and ended in Prefect.

Prefect learns of a process that died from the worker that started it. Where that worker died too, or the whole
installation was stopped, the flow run would stay `Running` and keep its place in the limits of its deployment.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psutil

from infra.compute import stop_families
from infra.settings import environment

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("ketcycle.flow_runs")

POOL = "ketcycle"  # of processes
HEARTBEAT = "prefect.flow-run.heartbeat"
SILENT = "ketcycle: silent flow run -> Crashed"  # name of the automation that ends flow runs without heartbeats
# Heartbeats are sent every 5 s: by `ketcycle up` or the runner of the machine (`Supervisor`) and by runs of the
# lifecycle (flows.lifecycle.cancel). A run that is gone ends within a minute; a server that hangs longer than this, and
# does not end, also ends live ones: it judges before it reads the heartbeats that waited.
SILENCE = timedelta(seconds=45)
# Modules that are the process of a flow run: the first prepares its folder and then becomes the second (or the third).
ENGINES = ("prefect.runner._workspace_supervisor", "prefect.engine", "prefect.flow_engine")
MARK, STARTED_BY = "PREFECT__FLOW_RUN_ID", "PREFECT__WORKER_NAME"
MOST = 200  # flow runs that are looked at together
CANCEL_S = 12.0  # for a flow run that is being cancelled
START_S = 45.0  # for a worker to start the process of a flow run that it took
PATIENCE_S, LAST_S = 10.0, 30.0  # for an answer of the server at each look, and before it stops
DIED = "its process is gone; Retry continues the run"
STOPPED = "stopped with the services of its installation; Retry continues the run"


def worker_name() -> str:
    """Return the name of the Prefect worker of this machine."""
    return f"{POOL} on {socket.gethostname()}"


def processes(worker: str = "") -> dict[str, psutil.Process]:
    """Return the processes of flow runs on this machine that belong to this user, by the id of the flow run.

    Args:
        worker: only those that the worker of this name started; a machine also sees the processes of its containers.
    """
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if not any(part in ENGINES for part in process.cmdline()):
                continue
            given = process.environ()
            if MARK in given and worker in ("", given.get(STARTED_BY)):
                found[given[MARK]] = process
    return found


class Supervisor:
    """Looks after the flow runs of a Prefect server.

    Args:
        url: of the server's API.
        show: takes a line for people.
        alone: whether all flow runs of the server have their process on this machine; where others run some, a flow
            run without a process here is left to the heartbeat automation.
    """

    def __init__(self, url: str, show: Callable[[str], None], alone: bool = True) -> None:
        self._url, self._show, self._alone = url, show, alone
        self._missing: set[UUID] = set()  # active flow runs that had no process at the last look
        self._inside: set[UUID] = set()  # active flow runs whose parent had ended at the last look
        self._worker_ended = datetime.min.replace(tzinfo=UTC)

    def end_dead(self) -> None:
        """End every active flow run that has no process here; no worker may be starting one meanwhile."""
        with self._client() as client:
            active = _active(client)
            self._end(client, self._without_process(active, self._processes() if active else {}), DIED)

    def worker_ended(self) -> None:
        """Say that the worker ended just now: flow runs that it had taken get no time for their process to start."""
        self._worker_ended = datetime.now(UTC)

    def look(self) -> None:
        """End the flow runs whose process was gone at two looks, and stop those that do not end when cancelled.

        A run that was being cancelled becomes `Cancelled`, any other `Crashed`. Flow runs that were started
        without a deployment are left to the heartbeat automation. Those whose process is here, and those inside them,
        get a heartbeat: Prefect's own, every 30 s, would be missed if the server took long to answer.
        """
        with self._client() as client:
            active = _active(client)
            # Read after the flow runs: a run becomes active after its process.
            alive = self._processes() if active else {}
            self._end(client, _stop_cancelled(active, alive), "it did not end by itself and was stopped")
            gone = [run for run in self._without_process(active, alive) if not self._starting(run)]
            self._end(client, [run for run in gone if run.id in self._missing], DIED)
            self._missing = {run.id for run in gone}
            around = _around(client, active)
            self._end_inside(client, active, alive, around)
            beat(client, [run.id for run in active if _is(run, "RUNNING") and _works(run.id, alive, around)])

    def stop_runs(self, worker: subprocess.Popen[bytes] | None) -> None:
        """End all flow runs of a server that is about to stop; the worker goes first, so that it starts no other."""
        if worker is not None:
            worker.kill()
            worker.wait()
        with self._client(LAST_S) as client:
            alive = self._processes()
            ours = [run for run in _active(client) if self._alone or str(run.id) in alive]
            stop_families([alive[str(run.id)] for run in ours if str(run.id) in alive])
            # One that was interrupted may have reported it, without saying by what.
            now = [client.read_flow_run(run.id) for run in ours]
            self._end(client, [run for run in now if not _is(run, "COMPLETED", "FAILED", "CANCELLED")], STOPPED)

    def _processes(self) -> dict[str, psutil.Process]:
        return processes("" if self._alone else worker_name())

    @contextmanager
    def _client(self, patience_s: float = PATIENCE_S) -> Iterator[SyncPrefectClient]:
        from prefect.client.orchestration import SyncPrefectClient

        try:
            with SyncPrefectClient(
                self._url,
                auth_string=environment("PREFECT_API_AUTH_STRING"),
                api_key=environment("PREFECT_API_KEY"),
                httpx_settings={"timeout": patience_s},
            ) as client:
                yield client
        except Exception as error:  # noqa: BLE001  (a server that cannot be asked is asked again at the next look)
            log.warning("the flow runs of %s could not be looked at: %s", self._url, error)

    def _without_process(self, active: Sequence[FlowRun], alive: Mapping[str, psutil.Process]) -> list[FlowRun]:
        """Return the flow runs of deployments without a process."""
        ours = [run for run in active if run.deployment_id and run.work_pool_name == POOL] if self._alone else []
        return [run for run in ours if str(run.id) not in alive]

    def _starting(self, run: FlowRun) -> bool:
        """Return whether a worker has taken a flow run and may still be starting its process."""
        since = max(_ago(START_S), self._worker_ended)
        return _is(run, "PENDING") and run.state is not None and run.state.timestamp > since

    def _end_inside(
        self,
        client: SyncPrefectClient,
        active: Sequence[FlowRun],
        alive: Mapping[str, psutil.Process],
        around: Mapping[UUID, UUID],
    ) -> None:
        """End the flow runs inside one that had ended at two looks: its process alone would have ended them."""
        going = {run.id for run in active}
        orphans = set()
        for run in active:
            parent = around.get(run.id)
            if parent is None or parent in going or str(parent) in alive:
                continue
            state = client.read_flow_run(parent).state
            if state is None or not state.is_final():
                continue
            orphans.add(run.id)
            if run.id in self._inside:
                self._end(client, [run], "the flow run around it has ended")
        self._inside = orphans

    def _end(self, client: SyncPrefectClient, runs: Sequence[FlowRun], why: str) -> None:
        from prefect.states import Cancelled, Crashed

        for run in runs:
            state: State[None] = (
                Cancelled(message=f"cancelled: {why}") if _is(run, "CANCELLING") else Crashed(message=why)
            )
            client.set_flow_run_state(run.id, state, force=True)
            self._show(f"flow run {run.name} is {state.name}: {why}")


def _active(client: SyncPrefectClient) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    types = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=types)), limit=MOST)


def _is(run: FlowRun, *states: str) -> bool:
    return run.state is not None and run.state.type.value in states


def outlast_restarts() -> None:
    """Let Prefect's clients in this process retry while the server is being started again.

    They do so only after they were connected once, and each new client begins anew. In the process of a flow run the
    address is right: its worker took the run from there.
    """
    from prefect.client import base

    for client in (base.PrefectHttpxSyncClient, base.PrefectHttpxAsyncClient):
        setattr(client, "_has_connected", property(lambda _: True, lambda *_: None))  # noqa: B010  (typed as a bool)


def beat(client: SyncPrefectClient, runs: Collection[UUID]) -> None:
    """Emit a heartbeat of running flow runs, as Prefect does, which cannot do it more often than every 30 s."""
    if not runs:
        return
    events = [
        {
            "id": str(uuid4()),
            "event": HEARTBEAT,
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }
        for run in runs
    ]
    client.request("POST", "/events", json=events)


def forgive_silence(database: str) -> None:
    """Give flow runs time for their next heartbeat before a Prefect server that was down judges them.

    Call it before the server starts: the server checks heartbeats at once, and none could arrive while it was down.

    Args:
        database: SQLAlchemy URL of the server's database.
    """
    import sqlalchemy as sa

    automations = sa.table("automation", sa.column("id"), sa.column("name"))
    buckets = sa.table("automation_bucket", sa.column("automation_id"), sa.column("end", sa.DateTime(timezone=True)))
    silent = sa.select(automations.c.id).where(automations.c.name == SILENT)
    try:
        engine = sa.create_engine(database)
        until = datetime.now(UTC) + SILENCE
        if engine.dialect.name == "sqlite":
            until = until.replace(tzinfo=None)  # as Prefect keeps it there
        late = buckets.c.automation_id.in_(silent), buckets.c.end < until
        with engine.begin() as connection:
            connection.execute(buckets.update().where(*late).values(end=until))
    except (sa.exc.SQLAlchemyError, ImportError) as error:  # no tables yet, or no driver
        log.info("heartbeats in Prefect's database are not renewed: %s", error)


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def _around(client: SyncPrefectClient, active: Sequence[FlowRun]) -> dict[UUID, UUID]:
    """Return the flow run around each one that is inside another."""
    tasks = {run.id: run.parent_task_run_id for run in active if run.parent_task_run_id is not None}
    found = {run: client.read_task_run(task).flow_run_id for run, task in tasks.items()}
    return {run: parent for run, parent in found.items() if parent is not None}


def _works(run: UUID, alive: Mapping[str, psutil.Process], around: Mapping[UUID, UUID]) -> bool:
    """Return whether the process of a flow run, or of one around it, is alive."""
    return str(run) in alive or (run in around and _works(around[run], alive, around))


def _stop_cancelled(active: Sequence[FlowRun], alive: Mapping[str, psutil.Process]) -> list[FlowRun]:
    """Stop the processes of flow runs that are being cancelled for too long, and return these flow runs."""
    since = _ago(CANCEL_S)
    late = [run for run in active if _is(run, "CANCELLING") and run.state is not None and run.state.timestamp < since]
    stopped = [run for run in late if str(run.id) in alive]
    stop_families([alive[str(run.id)] for run in stopped])
    return stopped

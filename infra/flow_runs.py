"""Flow runs whose process is gone: found on the machine that ran them, and ended in Prefect.

Prefect learns of a process that died from the worker that started it. Where that worker died too, or the whole
installation was stopped, the flow run would stay `Running` and keep its place in the limits of its deployment.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import psutil

from infra.compute import stop_families

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("ketcycle.flow_runs")

POOL = "ketcycle"
ENGINES = ("prefect.engine", "prefect.flow_engine")  # modules that are the process of a flow run
MARK = "PREFECT__FLOW_RUN_ID"
MOST = 200  # flow runs that are looked at together
CANCEL_S = 12.0  # for a flow run that is being cancelled
PATIENCE_S, LAST_S = 10.0, 30.0  # for an answer of the server at each look, and before it stops
DIED = "its process is gone; Retry continues the run"
STOPPED = "stopped with the services of its installation; Retry continues the run"


def processes() -> dict[str, psutil.Process]:
    """Return the processes of flow runs on this machine that belong to this user, by the id of the flow run."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(part in ENGINES for part in process.cmdline()) and (run := process.environ().get(MARK)):
                found[run] = process
    return found


class Supervisor:
    """Looks after the flow runs of a Prefect server that serves this machine alone.

    Args:
        url: of the server's API.
        show: takes a line for people.
    """

    def __init__(self, url: str, show: Callable[[str], None]) -> None:
        self._url, self._show = url, show
        self._missing: set[UUID] = set()  # active flow runs that had no process at the last look
        self._inside: set[UUID] = set()  # active flow runs whose parent had ended at the last look

    def end_dead(self) -> None:
        """End every active flow run that has no process here; no worker may be starting one meanwhile."""
        with self._client() as client:
            self._end(client, _without_process(_active(client)), DIED)

    def look(self) -> None:
        """End the flow runs whose process was gone at two looks, and stop those that do not end when cancelled.

        A run that somebody was cancelling becomes `Cancelled`, any other `Crashed`. Flow runs that were started
        without a deployment are left to the heartbeat automation.
        """
        with self._client() as client:
            active = _active(client)
            self._end(client, _stop_cancelled(active), "cancelled, and stopped because it did not end by itself")
            gone = [run for run in _without_process(active) if not _is(run, "PENDING")]
            self._end(client, [run for run in gone if run.id in self._missing], DIED)
            self._missing = {run.id for run in gone}
            self._end_inside(client, active)

    def stop_runs(self, worker: subprocess.Popen[bytes] | None) -> None:
        """End all flow runs of a server that is about to stop; the worker goes first, so that it starts no other."""
        if worker is not None:
            worker.kill()
            worker.wait()
        with self._client(LAST_S) as client:
            ids = {str(run.id) for run in _active(client)}
            stop_families([process for run, process in processes().items() if run in ids])
            self._end(client, _active(client), STOPPED)

    @contextmanager
    def _client(self, patience_s: float = PATIENCE_S) -> Iterator[SyncPrefectClient]:
        from prefect.client.orchestration import SyncPrefectClient

        try:
            with SyncPrefectClient(self._url, httpx_settings={"timeout": patience_s}) as client:
                yield client
        except Exception as error:  # noqa: BLE001  (a server that cannot be asked is asked again at the next look)
            log.warning("the flow runs of %s could not be looked at: %s", self._url, error)

    def _end_inside(self, client: SyncPrefectClient, active: Sequence[FlowRun]) -> None:
        """End the flow runs inside one that had ended at two looks: its process alone would have ended them."""
        orphans = set()
        inside = [(run, run.parent_task_run_id) for run in active if run.parent_task_run_id is not None]
        alive = processes() if inside else {}
        for run, around in inside:
            parent = client.read_task_run(around).flow_run_id
            state = client.read_flow_run(parent).state if parent else None
            if state is None or not state.is_final() or str(parent) in alive:
                continue
            orphans.add(run.id)
            if run.id in self._inside:
                self._end(client, [run], "the flow run around it has ended")
        self._inside = orphans

    def _end(self, client: SyncPrefectClient, runs: Sequence[FlowRun], why: str) -> None:
        from prefect.states import Cancelled, Crashed

        for run in runs:
            state: State[None] = Cancelled(message=why) if _is(run, "CANCELLING") else Crashed(message=why)
            client.set_flow_run_state(run.id, state, force=True)
            self._show(f"flow run {run.name} is {state.name}: {why}")


def _active(client: SyncPrefectClient) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    types = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=types)), limit=MOST)


def _is(run: FlowRun, state: str) -> bool:
    return run.state is not None and run.state.type.value == state


def _without_process(active: Sequence[FlowRun]) -> list[FlowRun]:
    """Return the flow runs of deployments that have no process; call it after they were read, for they start first."""
    ours = [run for run in active if run.deployment_id and run.work_pool_name == POOL]
    alive = processes() if ours else {}
    return [run for run in ours if str(run.id) not in alive]


def _stop_cancelled(active: Sequence[FlowRun]) -> list[FlowRun]:
    """Stop the processes of flow runs that are being cancelled for too long, and return these flow runs."""
    since = datetime.now(UTC) - timedelta(seconds=CANCEL_S)
    late = [run for run in active if _is(run, "CANCELLING") and run.state is not None and run.state.timestamp < since]
    alive = processes() if late else {}
    stopped = [run for run in late if str(run.id) in alive]
    stop_families([alive[str(run.id)] for run in stopped])
    return stopped

"""Stops the work and the remote jobs of a run that is cancelled by Ctrl-C, SIGTERM, or *Cancel* on the Prefect page."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from infra import engine, settings
from infra.installation.flow_runs import beat
from infra.processes.stopping import stop_everywhere
from infra.runtime.cancel import cancel_run

log = logging.getLogger("ketcycle.lifecycle")

LOOK_S = 5.0
_pressed: set[str] = set()  # cancelled flow runs of this process whose state is not `Cancelled` yet


@contextmanager
def cancellable(run_id: str) -> Iterator[None]:
    """Stop the run's work and cancel its remote jobs if it is interrupted, or if its flow run is cancelled.

    For a flow run without a Prefect worker *Cancel* only sets the state, so a thread polls the state. A flow run that
    gets a final state from elsewhere is interrupted too. The thread also emits heartbeats of this flow run and of its
    parent flow run.
    """
    over, watcher = threading.Event(), None
    if engine.in_flow():
        from prefect.runtime import flow_run

        around = str(flow_run.root_flow_run_id or flow_run.id)
        watcher = threading.Thread(target=_watch, args=(str(flow_run.id), around, over), daemon=True)
        watcher.start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            stop_everywhere(run_id)
            cancelled = cancel_run(settings.load(), run_id)
            log.warning("run %s is stopped; %d quantum calls cancelled", run_id, cancelled)
        raise
    finally:
        over.set()
        if watcher:
            watcher.join()


def on_cancellation(flow: Any, flow_run: Any, state: Any) -> None:
    """Cancel the remote jobs of a flow run whose process was stopped by a Prefect worker."""
    del flow, state
    from flows.lifecycle.config import RunConfig, named_after

    given = flow_run.parameters.get("config") or {}
    config = given if isinstance(given, RunConfig) else RunConfig(**given)
    cancel_run(settings.load(), config.run_id or named_after(str(flow_run.id)))


def on_crashed(flow: Any, flow_run: Any, state: Any) -> None:
    """Set a flow run that was interrupted by *Cancel* to `Cancelled` instead of `Crashed`."""
    del flow, state
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    if str(flow_run.id) in _pressed:
        _pressed.remove(str(flow_run.id))
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message="cancelled, with its remote jobs"), force=True)


def _watch(flow_run_id: str, around: str, over: threading.Event) -> None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    with get_client(sync_client=True) as client:
        while not over.wait(LOOK_S):
            try:
                state = client.read_flow_run(UUID(flow_run_id)).state
                if state is not None and state.is_running():
                    beat(client, {UUID(flow_run_id), UUID(around)})
            except (httpx.HTTPError, PrefectException) as error:  # the run continues without the server
                log.debug("the state of the flow run could not be read: %s", error)
                continue
            if state is not None and (state.is_cancelling() or state.is_final()):
                # A flow run marked `Crashed`, e.g. on a disconnected machine, must stop: its successor may be running.
                if not state.is_crashed():
                    _pressed.add(flow_run_id)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

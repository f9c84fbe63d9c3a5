"""Drains the runtime queue: sends the calls of processes that have ended, and stores their results."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from prefect import flow

from flows.lifecycle.answers import named_by_time
from flows.lifecycle.pending import complete_pending
from infra import settings
from infra.errors import BadInput
from infra.runtime.figures.inspect import lanes_to_drain
from infra.runtime.queue import Runtime
from infra.settings import Settings


@flow(name="quantum-dispatch", flow_run_name=named_by_time)
def dispatch(backend: str = "") -> int:
    """Send all waiting calls and fetch the results of open jobs; return the number of jobs.

    A backend whose lease another process holds is skipped. Arms that waited for results are executed again, which may
    add calls. SIGTERM ends the flow after the current write.

    Args:
        backend: only this one; empty = all with open calls, in parallel.
    """
    loaded, sent = settings.load(), 0
    with _stopped_by_sigterm() as stop:
        while not stop.is_set():
            jobs = _drain(loaded, backend, stop)
            sent += jobs
            completed = [] if stop.is_set() else complete_pending(loaded)
            if not jobs and all(item.status == "pending" for item in completed):
                break
    return sent


def _drain(loaded: Settings, backend: str, stop: threading.Event) -> int:
    try:
        lanes = [backend] if backend else lanes_to_drain(loaded.ledger)
    except BadInput:  # no quantum call was ever made
        return 0
    runtimes = [Runtime(loaded.ledger, lane, home=loaded.home, projection=loaded.projection_device) for lane in lanes]
    with ThreadPoolExecutor(max(1, len(runtimes))) as threads:
        return sum(threads.map(lambda runtime: runtime.drain(stop), runtimes))


@contextmanager
def _stopped_by_sigterm() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets; only the main thread can handle signals, elsewhere it is never set."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)

"""Drains the runtime queue: what callers that are gone have left behind is sent, fetched and stored."""

from __future__ import annotations

from prefect import flow

from flows.pending import complete_pending
from infra import settings
from infra.runtime.queue import Runtime


@flow(name="quantum-dispatch")
def dispatch(backend: str = "aer") -> int:
    """Dispatch all that waits for a backend, unless someone leads already; return the number of jobs sent.

    Arms that were waiting for the results go on, which may ask for more.
    """
    loaded = settings.load()
    runtime, sent = Runtime(loaded.ledger, backend, home=loaded.home, projection=loaded.projection_device), 0
    while True:
        jobs = runtime.drain()
        sent += jobs
        completed = complete_pending(loaded)
        if not jobs and all(item.status == "pending" for item in completed):
            return sent

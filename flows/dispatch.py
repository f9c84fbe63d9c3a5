"""Drains the runtime queue: what callers that are gone have left behind is sent, fetched and stored."""

from __future__ import annotations

from prefect import flow

from infra import settings
from infra.runtime.queue import Runtime


@flow(name="quantum-dispatch")
def dispatch(backend: str = "aer") -> int:
    """Dispatch all that waits for a backend, unless someone leads already; return the number of jobs sent."""
    loaded = settings.load()
    return Runtime(loaded.ledger, backend, home=loaded.home, projection=loaded.projection_device).drain()

"""The queue's figures as Prometheus reads them: calls, jobs, QPU seconds billed and reserved, budget, age of the queue.

Read from the ledger at each request, so they hold for all processes and outlive any of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.access import Certificate
from infra.errors import BadInput
from infra.runtime.figures.attention import read_attention
from infra.runtime.ledger.budget import remaining
from infra.runtime.ledger.ledger import OPEN, PREPARED, STATES, Ledger
from infra.runtime.ledger.schema import batches, calls


class QueueCollector(Collector):
    """Collects the figures of one ledger; none where there is no ledger yet.

    Args:
        location: path or URL of the ledger.
    """

    def __init__(self, location: str | Path) -> None:
        self._location = location

    def collect(self) -> Iterable[Metric]:
        """Read the ledger once and yield the figures."""
        try:
            ledger = Ledger(self._location, create=False)
        except BadInput:  # it appears with the first quantum call
            return
        with ledger.database.read() as connection:
            yield from _calls(connection)
            yield from _jobs(connection)
            yield from _attention(connection)
        yield from _budget(ledger)


def _calls(connection: sa.Connection) -> Iterable[Metric]:
    by_state = GaugeMetricFamily("ketcycle_queue_calls", "Calls in the ledger.", labels=("backend", "state"))
    query = sa.select(calls.c.backend, calls.c.state, sa.func.count()).group_by(calls.c.backend, calls.c.state)
    found = {(backend, state): count for backend, state, count in connection.execute(query)}
    for backend in sorted({backend for backend, _ in found}):
        for state in STATES:
            by_state.add_metric((backend, state), found.get((backend, state), 0))
    yield by_state
    age = GaugeMetricFamily(
        "ketcycle_queue_oldest_open_call_seconds", "Age of the oldest open call.", labels=("backend",)
    )
    oldest = sa.select(calls.c.backend, sa.func.min(calls.c.created)).where(calls.c.state.in_(OPEN))
    waiting = {
        backend: time.time() - created for backend, created in connection.execute(oldest.group_by(calls.c.backend))
    }
    for backend in sorted({backend for backend, _ in found}):
        age.add_metric((backend,), max(0.0, waiting.get(backend, 0.0)))
    yield age


def _jobs(connection: sa.Connection) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("ketcycle_queue_jobs", "Jobs sent, by what became of them.", labels=("backend", "state"))
    billed = CounterMetricFamily("ketcycle_queue_qpu_billed_seconds", "QPU seconds billed.", labels=("backend",))
    estimated = CounterMetricFamily(
        "ketcycle_queue_qpu_estimated_seconds", "QPU seconds estimated before sending.", labels=("backend",)
    )
    sums = [sa.func.coalesce(sa.func.sum(column), 0.0) for column in (batches.c.billed_s, batches.c.estimate_s)]
    query = sa.select(batches.c.lane, batches.c.state, sa.func.count(), *sums).where(batches.c.state != PREPARED)
    totals: dict[str, list[float]] = {}
    for backend, state, count, billed_s, estimate_s in connection.execute(
        query.group_by(batches.c.lane, batches.c.state).order_by(batches.c.lane, batches.c.state)
    ):
        jobs.add_metric((backend, state), count)
        total = totals.setdefault(backend, [0.0, 0.0])
        total[0] += billed_s
        total[1] += estimate_s
    for backend, (billed_s, estimate_s) in totals.items():
        billed.add_metric((backend,), billed_s)
        estimated.add_metric((backend,), estimate_s)
    yield from (jobs, billed, estimated)


def _attention(connection: sa.Connection) -> Iterable[Metric]:
    unknown = GaugeMetricFamily("ketcycle_queue_unknown_jobs", "Batches of unknown outcome.", labels=("backend",))
    flagged = GaugeMetricFamily(
        "ketcycle_queue_flagged_jobs", "Batches with duplicates or an implausible bill.", labels=("backend",)
    )
    reserved = GaugeMetricFamily(
        "ketcycle_queue_reserved_seconds", "QPU seconds reserved, by age.", labels=("backend", "age")
    )
    for row in read_attention(connection):
        unknown.add_metric((row["backend"],), row["unknown"])
        flagged.add_metric((row["backend"],), row["flagged"])
        for age, seconds in row["reserved_s"].items():
            reserved.add_metric((row["backend"], age), seconds)
    yield from (unknown, flagged, reserved)


def _budget(ledger: Ledger) -> Iterable[Metric]:
    left = GaugeMetricFamily("ketcycle_queue_budget_left", "What a limit leaves.", labels=("scope", "unit"))
    for (scope, unit), value in remaining(ledger).items():
        left.add_metric((scope, unit), value)
    yield left


def serve_metrics(
    location: str | Path,
    port: int,
    host: str = "127.0.0.1",
    certificate: Certificate | None = None,
    more: Sequence[Collector] = (),
) -> tuple[str, Callable[[], None]]:
    """Serve the figures; return the address and what stops it.

    Args:
        location: path or URL of the ledger; it need not be there yet.
        port: 0 = any free one.
        host: address to listen on.
        certificate: for TLS; clients then need one of the same authority.
        more: further collectors.
    """
    registry = CollectorRegistry()
    for collector in (QueueCollector(location), *more):
        registry.register(collector)
    tls: dict[str, Any] = {}
    if certificate:
        files = {"certfile": certificate.chain, "keyfile": certificate.key, "client_cafile": certificate.authority}
        tls = {"client_auth_required": True, **{name: str(path) for name, path in files.items()}}
    server, thread = start_http_server(port, addr=host, registry=registry, **tls)

    def stop() -> None:
        _stop(server, thread)

    return f"{'https' if certificate else 'http'}://{host}:{server.server_port}/metrics", stop


def _stop(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()

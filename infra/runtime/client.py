"""The runtime queue as a library: submit circuits under a run's name, and fetch their results from any process.

    queue = Queue("ledger.db", "ibm:torino", run="h2")
    print(queue.estimate([circuit]))                # QPU seconds and dollars, before anything is sent
    job_id = queue.submit([circuit], shots=1000)    # recorded, and sent by a thread of this process
    counts = queue.attach(job_id).result(timeout=600)[0].data.meas.get_counts()   # here or in another process

A call is known by its run and name. The same call of the same run is answered from the ledger, with a warning; another
run's name makes a new one. What is out when the process ends is followed by the next process that waits, by
`ketcycle queue drain`, or by the deployment `queue`.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.runtime.backends.projection import project
from infra.runtime.backends.registry import open_backend
from infra.runtime.circuits.payload import circuit_digest
from infra.runtime.circuits.pubs import decode_outlines, estimator_requests, sampler_requests
from infra.runtime.figures.inspect import full_key
from infra.runtime.jobs import QueuedJob
from infra.runtime.ledger.ledger import DONE, Call
from infra.runtime.queue import QueuedEstimator, QueuedSampler, Runtime, Scope
from infra.runtime.submission import tariff_of

STAGE = "library"


class CountsReplayed(UserWarning):
    """A call was made before under the same run and name: its recorded counts are returned, nothing is executed."""


@dataclass(frozen=True)
class Estimate:
    """What a call is expected to cost before it is sent.

    Attributes:
        backend: where it would run.
        executions: circuits times shots.
        qpu_s: QPU seconds; on a simulator those that the projection device would take.
        usd: price of these seconds.
        billed: whether they will be billed, or are a projection.
    """

    backend: str
    executions: int
    qpu_s: float
    usd: float
    billed: bool


class Queue:
    """A backend behind a ledger, for scripts.

    Args:
        ledger: path or SQLAlchemy URL.
        backend: `aer`, `noisy:<fake device>`, `ibm:<device>` or `provider:<module>:<device>`.
        run: name under which calls are recorded; a budget can be set for each run.
        seed: of simulators.
        send: send calls at once, from a thread of this process; else they wait until a process waits for a result, for
            `ketcycle queue drain`, or for the deployment `queue`.
        options: options of the backend.
    """

    def __init__(
        self,
        ledger: str | Path,
        backend: str = "aer",
        *,
        run: str = "script",
        seed: int = 0,
        send: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.runtime = Runtime(ledger, backend, options=dict(options or {}), eager=send)
        self.run, self.seed = run, seed
        self._lock, self._count = threading.Lock(), 0
        self._held: list[str] | None = None

    def sampler(self, name: str = "sampler") -> QueuedSampler:
        """Return a `BaseSamplerV2` whose calls go through the queue.

        Args:
            name: under which its calls are recorded.
        """
        return self.runtime.sampler(self._scope(name))

    def estimator(self, name: str = "estimator") -> QueuedEstimator:
        """Return a `BaseEstimatorV2` whose calls go through the queue.

        Args:
            name: under which its calls are recorded.
        """
        return self.runtime.estimator(self._scope(name))

    def submit(
        self,
        pubs: Iterable[Any],
        *,
        shots: int | None = None,
        precision: float | None = None,
        name: str | None = None,
    ) -> str:
        """Record a call and return its id; with a precision it is one of an estimator, else of a sampler.

        Args:
            pubs: circuits, or tuples as Qiskit's primitives take them.
            shots: of a sampler, for PUBs that do not say.
            precision: of an estimator, target standard error for PUBs that do not say; 0 = exact, on `aer` only.
            name: of the call within its run; None = its number in this object.

        Raises:
            BadInput: both shots and a precision, or what the backend cannot run.
            ReplayDiverged: a call of this run and name was made before with something else in it.
        """
        if shots is not None and precision is not None:
            raise BadInput("shots are for a sampler, a precision is for an estimator; give one of them")
        with self._lock:
            name, self._count = name or f"call {self._count}", self._count + 1
        runtime = self.runtime if self._held is None else replace(self.runtime, eager=False)
        if precision is None:
            job = runtime.sampler(self._scope(name)).run(pubs, shots=shots)
        else:
            job = runtime.estimator(self._scope(name)).run(pubs, precision=precision)
        if self._held is not None:
            self._held.append(str(job.job_id()))
        if job.reused:
            text = f"{name!r} of run {self.run!r} was made before: its recorded results are returned; use another run"
            warnings.warn(text, CountsReplayed, stacklevel=2)
        return str(job.job_id())

    def attach(self, job_id: str) -> QueuedJob:
        """Return a call made by any process, to wait for its result or to cancel it; it can be awaited.

        Args:
            job_id: what `submit` returned, or its first characters.

        Raises:
            BadInput: no such call, or several.
        """
        ledger = self.runtime.open()
        row = ledger.find(full_key(ledger.database.url, job_id))
        if row is None or row["outline"] is None:
            raise BadInput(f"call {job_id} was recorded by an older version; repeat it under another run")
        scope = {name: row[name] for name in ("run", "stage", "subtask", "problem", "arm", "repetition")}
        fields = {name: row[name] for name in Call.__dataclass_fields__ if name not in ("scope", "options")}
        call = Call(scope=scope, options=json.loads(row["options"]), **fields)
        outlines = decode_outlines(call.primitive, call.outline or "[]")
        return QueuedJob(ledger, call, outlines, self.runtime.manner, None, reused=row["state"] == DONE)

    def estimate(self, pubs: Iterable[Any], *, shots: int | None = None, precision: float | None = None) -> Estimate:
        """Return what a call is expected to cost as one job; nothing is recorded or sent.

        Args:
            pubs: as for `submit`.
            shots: as for `submit`.
            precision: as for `submit`.
        """
        runtime, backend, ledger = self.runtime, open_backend(self.runtime.backend), self.runtime.open()
        if precision is None:
            requests = sampler_requests(pubs, runtime.default_shots if shots is None else shots)
        else:
            requests = estimator_requests(pubs, precision)
        executions = sum(request.circuits * request.shots for request in requests)
        once_s, own_s = 0.0, 0.0
        for request in requests:
            digest, count = circuit_digest(request.circuit), request.circuits * request.shots
            if backend.priced:
                alone_s = backend.estimate_qpu_s(request.circuit, digest, 1)
                own_s += max(0.0, backend.estimate_qpu_s(request.circuit, digest, count) - alone_s)
                once_s = max(once_s, alone_s)
            else:
                own_s += project(request.circuit, digest, runtime.projection, ledger).qpu_s(count, max(executions, 1))
        tariff = tariff_of(ledger, backend)
        qpu_s = (once_s + own_s) * (tariff.factor if tariff else 1.0)
        usd = qpu_s * (tariff.usd_per_s if tariff else 0.0)
        return Estimate(backend.name, executions, qpu_s, usd, tariff is not None)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold back what is submitted in the block, so that it travels in as few jobs as the backend allows."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held and self.runtime.eager:
                self.attach(held[-1]).send()

    def _scope(self, name: str) -> Scope:
        return Scope(self.run, STAGE, "calls", "", name, seed=self.seed)

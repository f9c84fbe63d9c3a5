"""The quantum runtime queue as a Qiskit V2 primitive.

An algorithm is handed a sampler or an estimator and does not know that a ledger, a queue or a device exists. Every
call is recorded before it leaves; a call that was finished once is answered from the ledger, so after a crash the
algorithm is simply executed again. Counts depend on the caller's scope and seed only, never on other callers in the
same job.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2

from infra.energy.usage import Usage
from infra.errors import BadInput, BudgetExceeded, ConcurrentCall, ReplayDiverged, RuntimeQueueError
from infra.events import emit
from infra.runtime.backends.contract import Backend, derive_seed
from infra.runtime.backends.registry import calibration_of, canonical_name, is_remote, open_backend
from infra.runtime.circuits.payload import circuit_digest, encode_circuit, fingerprint
from infra.runtime.circuits.pubs import Request, encode_outlines, estimator_requests, sampler_requests
from infra.runtime.dispatcher import Manner, lead
from infra.runtime.jobs import QueuedJob
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import CANCELLED, DONE, FAILED, Call, Ledger, Part
from infra.runtime.overhead import OVERHEAD
from infra.runtime.parcels import CIRCUIT_CACHE

# A call that surely takes less is simulated by the thread that waits; a longer one could not be interrupted there.
SHORT_S = 1.0  # expected by the backend
SHORT = 1e8  # gates x amplitudes x executions


@dataclass(frozen=True)
class Scope:
    """The caller of the queue: one execution of one arm on one problem.

    Attributes:
        run: the run.
        stage: the stage.
        subtask: the subtask.
        problem: content key of the problem.
        arm: the arm.
        repetition: number of this execution of the same arm on the same problem.
        seed: seed of the run; with all of the above but the run it determines the counts.
        variant: distinguishes executions that are equal otherwise; another variant makes other calls, with the same
            counts.
    """

    run: str
    stage: str
    subtask: str
    problem: str
    arm: str
    repetition: int = 0
    seed: int = 0
    variant: str = ""


@dataclass(frozen=True)
class Runtime:
    """A backend and the ledger that its calls are recorded in. Picklable; opens its connections where it is used.

    Attributes:
        ledger: path or SQLAlchemy URL.
        backend: `aer` or `noisy:<fake device>`.
        home: folder that a relative ledger path lies below.
        projection: fake device on which QPU time is projected.
        default_shots: shots where neither the call nor the PUB gives a number.
        default_precision: standard error of expectation values where none is given; 0 = exact, on `aer` only.
        reuse: answer from finished calls of *other* runs with the same circuits and the same seed; on `aer` only.
        options: options of the backend; those without effect there are recorded as such.
        linger_s: how long a leader lets further callers join a job; None = the backend's own time.
        simulation_limit_s: CPU seconds that a call may be expected to simulate; beyond it the call is refused.
        lease_s: seconds without a sign of life after which another machine takes a leader over.
        resend_after_s: seconds after which a batch of which no job is listed is sent again; it must be longer than the
            backend may take to list a job. None = twice that time; infinity = never: a person looks for its job.
        retry_failed: send calls again that failed for a reason that stays, or whose job was paid and whose result is
            unusable; without, a person does (`ketcycle queue retry`).
        eager: send a call when it is made, from a thread of this process, not when its result is waited for.
        durable: wait for the disk at each write; None = where jobs leave this machine: a lost write could pay twice.

    Raises:
        BadInput: a backend that does not exist, or an option that it does not allow.
    """

    ledger: str | Path
    backend: str = "aer"
    home: Path | None = None
    projection: str = "fake_torino"
    default_shots: int = 1024
    default_precision: float = 0.0
    reuse: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    linger_s: float | None = None
    simulation_limit_s: float = 1200.0
    lease_s: float = 60.0
    resend_after_s: float | None = None
    retry_failed: bool = False
    eager: bool = False
    durable: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", canonical_name(self.backend))
        if self.reuse and self.backend != "aer":
            raise BadInput(f"reuse across runs is for aer only: on {self.backend} fresh shots matter")

    @property
    def calibration(self) -> str:
        """Name of the backend's state that results depend on."""
        return calibration_of(self.backend)

    def sampler(self, scope: Scope, deadline: float | None = None) -> QueuedSampler:
        """Return a sampler for one execution of an arm.

        Args:
            scope: the caller.
            deadline: seconds since the epoch after which a result is not waited for.
        """
        return QueuedSampler(self, scope, deadline)

    def estimator(self, scope: Scope, deadline: float | None = None) -> QueuedEstimator:
        """Return an estimator for one execution of an arm.

        Args:
            scope: the caller.
            deadline: seconds since the epoch after which a result is not waited for.
        """
        return QueuedEstimator(self, scope, deadline)

    def open(self) -> Ledger:
        """Return the ledger, opened once per process."""
        location = str(self.ledger)
        if self.home is not None and "://" not in location:
            location = str(self.home / location)
        durable = is_remote(self.backend) if self.durable is None else self.durable
        return _ledger(location, durable=durable)

    @property
    def manner(self) -> Manner:
        """How a leader of this runtime leads."""
        return Manner(self.lease_s, self.linger_s, self.resend_after_s)

    def drain(self, stop: threading.Event | None = None, *, send: bool = True) -> int:
        """Dispatch all that waits for this backend, and follow what is out, unless another process does.

        Args:
            stop: ends it after the current write.
            send: whether calls that wait are sent; without, only requested cancellations are carried out.

        Returns:
            The jobs sent or followed.
        """
        lane = Lane.acquire(self.open(), self.backend, self.lease_s)
        manner = replace(self.manner, send=send, thorough=send)
        return lead(lane, open_backend(self.backend), lambda: True, manner, stop) if lane else 0


@lru_cache(maxsize=8)
def _ledger(location: str, *, durable: bool) -> Ledger:
    return Ledger(location, durable=durable)


def dispatched_usage() -> Usage:
    """Return what this process has spent on the queue so far, for all callers: CPU and elapsed time, memory.

    Circuits and shots are not counted. An arm's own consumption is the process's increase minus the increase of this,
    plus the `usage` of its sampler and estimator.
    """
    return OVERHEAD.read()


class _Queued:
    """What sampler and estimator share: replay key, fingerprint, usage. One thread at a time."""

    primitive = ""

    def __init__(self, runtime: Runtime, scope: Scope, deadline: float | None) -> None:
        self._runtime, self._scope, self._deadline = runtime, scope, deadline
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._jobs: list[QueuedJob] = []
        self._asked: Counter[Scope] = Counter()

    @contextmanager
    def asking_as(self, scope: Scope) -> Iterator[None]:
        """Make the calls of the block under another scope, so that calls which several arms share are made once."""
        own, self._scope = self._scope, scope
        try:
            yield
        finally:
            self._scope = own

    @property
    def usage(self) -> Usage:
        """What the calls answered so far used; a replayed call counts with its original quantities."""
        return sum((job.usage for job in self._jobs), Usage())

    @property
    def reused(self) -> bool:
        """Whether a call was answered from the ledger."""
        return any(job.reused for job in self._jobs)

    @property
    def prepare_cpu_s(self) -> float:
        """CPU seconds that compiling the circuits of these calls cost when it was done, each circuit once."""
        costs: dict[str, float] = {}
        for job in self._jobs:
            costs |= job.prepare_cpu_s
        return sum(costs.values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        me = threading.get_ident()
        advice = f"the {self.primitive} of arm {self._scope.arm!r} was called by two threads at once; give each its own"
        if not self._lock.acquire(blocking=False):
            raise ConcurrentCall(advice)
        try:
            if self._thread not in (None, me) and any(job.open for job in self._jobs):
                raise ConcurrentCall(advice)
            self._thread = me
            yield
        finally:
            self._lock.release()

    def _submit(self, requests: Sequence[Request]) -> QueuedJob:
        runtime, backend, ledger = self._runtime, open_backend(self._runtime.backend), self._runtime.open()
        digests = [circuit_digest(request.circuit) for request in requests]
        call = self._call(backend, digests, requests)
        for digest, request in zip(digests, requests, strict=True):
            CIRCUIT_CACHE.put(digest, request.circuit)
        expects_new = backend.local and ledger.expects_new(call.scope["run"])
        existing = None if expects_new else ledger.find(call.key)
        if existing is None and not (runtime.reuse and ledger.adopt(call)):
            expected_s = self._refuse_hopeless(backend, requests, call.key)
            missing = ledger.missing_circuits(digests)
            stored = {d: encode_circuit(r.circuit) for d, r in zip(digests, requests, strict=True) if d in missing}
            parts = _cut(call.key, backend, digests, requests)
            if ledger.prepare(call, parts, stored):
                here = backend.local and expected_s < SHORT_S and _work(requests) < SHORT
                return self._job(call, requests, reused=False, parts=len(parts) if here else None)
        existing = existing or ledger.find(call.key)
        if existing is None:
            raise RuntimeQueueError(f"call {call.key} is no longer in the ledger; was the file replaced?")
        if existing["fingerprint"] != call.fingerprint:
            raise ReplayDiverged(
                f"call {call.ordinal} of {call.scope['subtask']}/{call.scope['arm']} in run {call.scope['run']} "
                f"differs from the recorded one (fingerprint {call.fingerprint[:12]}, recorded "
                f"{existing['fingerprint'][:12]}); "
                "the arm is not deterministic, or its code, options or backend changed: start a new run"
            )
        given_up = existing["permanent"] and not runtime.retry_failed
        if not given_up and (existing["state"] in (FAILED, CANCELLED) or existing["cancel_requested"] is not None):
            ledger.prepare_again(call.key)
        return self._job(call, requests, reused=existing["state"] == DONE)

    def _refuse_hopeless(self, backend: Backend, requests: Sequence[Request], key: str) -> float:
        """Refuse a call that would take too long to simulate, unless it was recorded before; return how long."""
        expected_s = sum(backend.expected_cpu_s(r.circuit, r.circuits, r.shots) for r in requests)
        if expected_s > self._runtime.simulation_limit_s and self._runtime.open().find(key) is None:
            executions = sum(r.circuits * r.shots for r in requests)
            raise BudgetExceeded(
                f"{backend.name}: {executions:,} shots of {requests[0].circuit.num_qubits} qubits take about "
                f"{expected_s / 3600:.1f} h to simulate, the limit is {self._runtime.simulation_limit_s / 60:.0f} min; "
                "use fewer shots or qubits, a smaller profile, aer, or raise KETCYCLE_SIMULATION_LIMIT_S"
            )
        return expected_s

    def _job(self, call: Call, requests: Sequence[Request], *, reused: bool, parts: int | None = None) -> QueuedJob:
        runtime = self._runtime
        outlines = [request.outline for request in requests]
        ledger, deadline = runtime.open(), self._deadline
        job = QueuedJob(ledger, call, outlines, runtime.manner, deadline, reused=reused, parts=parts)
        if runtime.eager and not reused:
            job.send()
        self._jobs.append(job)
        self._asked[self._scope] += 1
        return job

    def _call(self, backend: Backend, digests: Sequence[str], requests: Sequence[Request]) -> Call:
        scope, runtime = dict(vars(self._scope)), self._runtime
        seed, run, variant = scope.pop("seed"), scope.pop("run"), scope.pop("variant")
        ordinal = self._asked[self._scope]
        effective = backend.effective(runtime.options)
        ignored = {name: value for name, value in runtime.options.items() if name not in effective}
        header = {"primitive": self.primitive, "backend": backend.name, "options": dict(runtime.options), "seed": seed}
        pubs = [(digest, request.arrays, request.settings) for digest, request in zip(digests, requests, strict=True)]
        mark = fingerprint(header, pubs)
        # The run is left out: two runs with the same seed give the same counts.
        asked = (*scope.values(), self.primitive, ordinal)
        if not backend.local:
            _tell_of_calibration(backend.name, backend.calibration)
        return Call(
            key=_hash(run, variant, *asked)[:32],
            scope={"run": run, **scope},
            ordinal=ordinal,
            primitive=self.primitive,
            backend=backend.name,
            calibration=backend.calibration,
            fingerprint=mark,
            content=_hash(mark, seed, backend.calibration, *asked),
            seed=derive_seed(seed, *asked),
            executions=sum(request.circuits * request.shots for request in requests),
            projection=runtime.projection,
            options={"effective": effective, "not_effective": ignored},
            outline=encode_outlines([request.outline for request in requests]),
        )


@lru_cache
def _tell_of_calibration(backend: str, calibration: str) -> None:
    """Announce a calibration when this process meets it first; met by many, it is one event."""
    emit("backend.calibrated", {"backend": backend, "calibration": calibration}, once=calibration)


class QueuedSampler(_Queued, BaseSamplerV2):  # type: ignore[misc]  # the library is not typed
    """A Qiskit V2 sampler whose calls go through the ledger."""

    primitive = "sampler"

    def run(self, pubs: Iterable[Any], *, shots: int | None = None) -> QueuedJob:
        """Record the call and return its job; nothing runs before somebody waits for a result.

        Args:
            pubs: circuits, or tuples of circuit, parameter values, shots.
            shots: for PUBs that do not say.

        Raises:
            ConcurrentCall: another thread uses this sampler.
            ReplayDiverged: the same call of this run was made before with something else in it.
        """
        made = list(pubs)  # what a generator does here is the caller's own work
        with self._alone(), OVERHEAD.counted():
            default = self._runtime.default_shots if shots is None else shots
            return self._submit(sampler_requests(made, default))


class QueuedEstimator(_Queued, BaseEstimatorV2):  # type: ignore[misc]  # the library is not typed
    """A Qiskit V2 estimator whose calls go through the ledger."""

    primitive = "estimator"

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> QueuedJob:
        """Record the call and return its job; nothing runs before somebody waits for a result.

        Args:
            pubs: tuples of circuit, observables, parameter values, precision.
            precision: target standard error for PUBs that do not say; 0 = exact, on `aer` only. The effective one is
                in the metadata of each result.

        Raises:
            ConcurrentCall: another thread uses this estimator.
            ReplayDiverged: the same call of this run was made before with something else in it.
        """
        made = list(pubs)  # what a generator does here is the caller's own work
        with self._alone(), OVERHEAD.counted():
            default = self._runtime.default_precision if precision is None else precision
            return self._submit(estimator_requests(made, default))


def _work(requests: Sequence[Request]) -> float:
    """Return gates x amplitudes x executions, which a simulation does not exceed."""
    sizes = [float(len(r.circuit.data) * 2.0 ** min(r.circuit.num_qubits, 1000)) for r in requests]
    return sum(size * r.circuits * max(1, r.shots) for size, r in zip(sizes, requests, strict=True))


def _cut(key: str, backend: Backend, digests: Sequence[str], requests: Sequence[Request]) -> list[Part]:
    """Cut the PUBs into parts that fit into a job."""
    parts = []
    for position, (digest, request) in enumerate(zip(digests, requests, strict=True)):
        size = backend.limits.sets_per_part(request.shots)
        for number, start in enumerate(range(0, request.circuits, size)):
            count = min(size, request.circuits - start)
            data = request.encode(start, start + count)
            part = Part(key, position, number, start, digest, data, count, request.shots)
            parts.append(_estimated(part, backend, request) if backend.priced else part)
    return parts


def _estimated(part: Part, backend: Backend, request: Request) -> Part:
    """Add the seconds that a part is expected to be billed; what one execution takes is what a job costs once."""
    once_s, all_s = (backend.estimate_qpu_s(request.circuit, part.circuit, n) for n in (1, part.executions))
    return replace(part, estimate_s=all_s, overhead_s=min(once_s, all_s))


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

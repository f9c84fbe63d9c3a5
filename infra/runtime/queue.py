"""The quantum runtime queue, seen as a Qiskit V2 primitive.

An algorithm is handed a sampler or an estimator and does not know that a ledger, a queue or a device exists. Every
call is written down before it leaves; a call that was finished once is answered from the ledger, so after a crash the
algorithm is simply executed again. Counts depend on the caller's scope and seed only, never on who else was served.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from qiskit.primitives import BaseEstimatorV2, BasePrimitiveJob, BaseSamplerV2, PrimitiveResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from infra.energy.usage import Usage
from infra.errors import (
    BackendFailed,
    BadInput,
    BudgetExceeded,
    ConcurrentCall,
    ReplayDiverged,
    RuntimeQueueError,
    StillQueued,
)
from infra.runtime.backends import Backend, calibration_of, canonical_name, derive_seed, open_backend
from infra.runtime.dispatcher import CIRCUIT_CACHE, OVERHEAD, Leader, lead
from infra.runtime.lane import Lane
from infra.runtime.ledger import CANCELLED, DONE, FAILED, FINAL, SUBMITTED, UNKNOWN, Call, Ledger, Part
from infra.runtime.payload import circuit_digest, encode_circuit, fingerprint
from infra.runtime.pubs import EstimatorRequest, Request, SamplerRequest

PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.1


@dataclass(frozen=True)
class Scope:
    """Who asks: one execution of one arm on one problem.

    Attributes:
        run: the run.
        stage: the stage.
        subtask: the subtask.
        problem: content key of the problem.
        arm: the arm.
        repetition: number of this execution of the same arm on the same problem.
        seed: seed of the run; with all of the above but the run it determines the counts.
        variant: what else tells this execution from others; another one makes other calls, with the same counts.
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
    """Where circuits run and where that is written down. Picklable; opens its connections where it is used.

    Attributes:
        ledger: path or SQLAlchemy URL.
        backend: `aer` or `noisy:<fake device>`.
        home: folder that a relative ledger path lies below.
        projection: fake device on which QPU time is projected.
        default_shots: shots where neither the call nor the PUB says.
        default_precision: target standard error of expectation values where neither says; 0 = exact, on `aer` only.
        reuse: answer from finished calls of *other* runs that ask the same with the same seed; on `aer` only.
        options: options of the backend; those without effect there are recorded as such.
        linger_s: how long a leader lets further callers join a job; None = the backend's own time.
        simulation_limit_s: CPU seconds that a call may be expected to simulate; beyond it the call is refused.
        lease_s: seconds without a sign of life after which another machine takes a leader over.
        durable: wait for the disk at each write; None = on hardware only, where a lost write could pay twice.

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
    durable: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", canonical_name(self.backend))
        if self.reuse and self.backend != "aer":
            raise BadInput(f"reuse across runs is for aer only: on {self.backend} fresh shots matter")

    @property
    def calibration(self) -> str:
        """What names the state of the backend that results depend on."""
        return calibration_of(self.backend)

    def sampler(self, scope: Scope, deadline: float | None = None) -> QueuedSampler:
        """Return a sampler for one execution of an arm.

        Args:
            scope: who asks.
            deadline: seconds since the epoch after which a result is not waited for.
        """
        return QueuedSampler(self, scope, deadline)

    def estimator(self, scope: Scope, deadline: float | None = None) -> QueuedEstimator:
        """Return an estimator for one execution of an arm.

        Args:
            scope: who asks.
            deadline: seconds since the epoch after which a result is not waited for.
        """
        return QueuedEstimator(self, scope, deadline)

    def open(self) -> Ledger:
        """Return the ledger, opened once per process."""
        location = str(self.ledger)
        if self.home is not None and "://" not in location:
            location = str(self.home / location)
        durable = self.backend.startswith("ibm:") if self.durable is None else self.durable
        return _ledger(location, durable=durable)

    def drain(self) -> int:
        """Dispatch all that waits for this backend unless someone else does; return the jobs sent."""
        lane = Lane.acquire(self.open(), self.backend, self.lease_s)
        return lead(lane, open_backend(self.backend), lambda: True, self.linger_s) if lane else 0


@lru_cache(maxsize=8)
def _ledger(location: str, *, durable: bool) -> Ledger:
    return Ledger(location, durable=durable)


def dispatched_usage() -> Usage:
    """Return what this process has spent on the queue so far, for any caller: CPU and elapsed time, memory.

    The counts of circuits and shots are no part of it. An arm's own consumption is the process's increase minus the
    increase of this, plus the `usage` of its sampler and estimator.
    """
    return OVERHEAD.read()


class _Queued:
    """What sampler and estimator share: replay key, fingerprint, books. One thread at a time."""

    primitive = ""

    def __init__(self, runtime: Runtime, scope: Scope, deadline: float | None) -> None:
        self._runtime, self._scope, self._deadline = runtime, scope, deadline
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._jobs: list[QueuedJob] = []

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
        existing = ledger.find(call.key)
        if existing is None and not (runtime.reuse and ledger.adopt(call)):
            self._refuse_hopeless(backend, requests)
            missing = ledger.missing_circuits(digests)
            stored = {d: encode_circuit(r.circuit) for d, r in zip(digests, requests, strict=True) if d in missing}
            if ledger.prepare(call, _cut(call.key, backend, digests, requests), stored):
                return self._job(call, requests, reused=False)
        existing = existing or ledger.find(call.key)
        if existing is None:
            raise RuntimeQueueError(f"call {call.key} has vanished from the ledger; was the file replaced?")
        if existing["fingerprint"] != call.fingerprint:
            raise ReplayDiverged(
                f"call {call.ordinal} of {call.scope['subtask']}/{call.scope['arm']} in run {call.scope['run']} asks "
                f"something else than when it was first made (fingerprint {call.fingerprint[:12]}, recorded "
                f"{existing['fingerprint'][:12]}); the arm is not deterministic, or its code, options or backend "
                "changed: start a new run"
            )
        if existing["state"] in (FAILED, CANCELLED):
            ledger.prepare_again(call.key)
        return self._job(call, requests, reused=existing["state"] == DONE)

    def _refuse_hopeless(self, backend: Backend, requests: Sequence[Request]) -> None:
        expected_s = sum(backend.expected_cpu_s(r.circuit, r.circuits, r.shots) for r in requests)
        if expected_s > self._runtime.simulation_limit_s:
            executions = sum(r.circuits * r.shots for r in requests)
            raise BudgetExceeded(
                f"{backend.name}: {executions:,} shots of {requests[0].circuit.num_qubits} qubits take about "
                f"{expected_s / 3600:.1f} h to simulate, the limit is {self._runtime.simulation_limit_s / 60:.0f} min; "
                "use fewer shots or qubits, a smaller profile, aer, or raise KETCYCLE_SIMULATION_LIMIT_S"
            )

    def _job(self, call: Call, requests: Sequence[Request], *, reused: bool) -> QueuedJob:
        job = QueuedJob(self._runtime, call, requests, self._deadline, reused=reused)
        self._jobs.append(job)
        return job

    def _call(self, backend: Backend, digests: Sequence[str], requests: Sequence[Request]) -> Call:
        scope, runtime = asdict(self._scope), self._runtime
        seed, run, variant = scope.pop("seed"), scope.pop("run"), scope.pop("variant")
        ordinal = len(self._jobs)
        effective = backend.effective(runtime.options)
        ignored = {name: value for name, value in runtime.options.items() if name not in effective}
        header = {"primitive": self.primitive, "backend": backend.name, "options": dict(runtime.options), "seed": seed}
        pubs = [(digest, request.arrays, request.settings) for digest, request in zip(digests, requests, strict=True)]
        mark = fingerprint(header, pubs)
        # The run is left out: two runs with the same seed give the same counts.
        asked = (*scope.values(), self.primitive, ordinal)
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
        )


class QueuedSampler(_Queued, BaseSamplerV2):  # type: ignore[misc]  # the library is not typed
    """A Qiskit V2 sampler whose calls go through the ledger."""

    primitive = "sampler"

    def run(self, pubs: Iterable[Any], *, shots: int | None = None) -> QueuedJob:
        """Write the call down and return its job; nothing runs before someone waits for a result.

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
            return self._submit([SamplerRequest(SamplerPub.coerce(pub, default)) for pub in made])


class QueuedEstimator(_Queued, BaseEstimatorV2):  # type: ignore[misc]  # the library is not typed
    """A Qiskit V2 estimator whose calls go through the ledger."""

    primitive = "estimator"

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> QueuedJob:
        """Write the call down and return its job; nothing runs before someone waits for a result.

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
            return self._submit([EstimatorRequest(EstimatorPub.coerce(pub, default)) for pub in made])


class QueuedJob(BasePrimitiveJob):  # type: ignore[misc]  # the library is not typed
    """A call in the ledger.

    Attributes:
        reused: whether the call was finished before this process asked.
        usage: what the call used, once its result is there.
        prepare_cpu_s: CPU seconds of compiling, by circuit.
    """

    def __init__(
        self, runtime: Runtime, call: Call, requests: Sequence[Request], deadline: float | None, *, reused: bool
    ) -> None:
        super().__init__(call.key)
        self.reused, self.usage = reused, Usage()
        self.prepare_cpu_s: dict[str, float] = {}
        self.open = True
        self._runtime, self._call, self._requests, self._deadline = runtime, call, requests, deadline
        self._ledger = runtime.open()
        self._result: PrimitiveResult | None = None

    def result(self) -> PrimitiveResult:
        """Wait for the result; if nobody leads, lead meanwhile.

        Raises:
            StillQueued: the deadline has passed; the call stays in the ledger.
            BackendFailed: the backend answered with an error.
            BadInput: the backend cannot run the circuit.
        """
        if self._result is None:
            with OVERHEAD.counted(elapsed=False):
                self._wait()
                self._collect()
        return self._result

    def status(self) -> str:
        """Return the state in the ledger."""
        return self._ledger.state(self._call.key)[0]

    def done(self) -> bool:
        """Whether the result is there."""
        return self.status() == DONE

    def running(self) -> bool:
        """Whether the call is with the backend."""
        return self.status() == SUBMITTED

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self.status() == CANCELLED

    def in_final_state(self) -> bool:
        """Whether nothing more will happen to the call."""
        return self.status() in FINAL

    def cancel(self) -> bool:
        """Ask for the call to be cancelled and say whether it was still open.

        What waits is cancelled at once; a job that is out is cancelled by who leads, with its last caller.
        """
        return self._ledger.request_cancel(key=self._call.key) > 0

    def _wait(self) -> None:
        pause, leader = PAUSE_S, None
        while True:
            state, error = self._ledger.state(self._call.key)
            if state in FINAL:
                self.open = False
                _raise_unless_done(self._call, state, error)
                return
            if leader is not None and not leader.is_alive():
                leader.check()
                leader = None
            left = None if self._deadline is None else self._deadline - time.time()
            if left is not None and left <= 0:
                raise StillQueued(f"call {self._call.key} is {state} at its deadline; it stays in the ledger")
            leader = leader or Leader.start_if_free(
                self._ledger, self._call.backend, self._call.key, self._runtime.lease_s, self._runtime.linger_s
            )
            step = pause if left is None else min(pause, left)
            if leader is None:
                time.sleep(step)
            else:
                leader.join(step)
            pause = min(1.5 * pause, LONGEST_PAUSE_S)

    def _collect(self) -> None:
        stored = self._ledger.results(self._call.key)
        pubs = []
        for position, request in enumerate(self._requests):
            pieces = [piece for piece in stored if piece["position"] == position]
            metadata = {"call": self._call.key, "backend": self._call.backend, "reused": self.reused}
            pubs.append(request.assemble([piece["result"] for piece in pieces], metadata))
        self.usage = sum((Usage(**piece["usage"]) for piece in stored), Usage())
        for piece in stored:
            self.prepare_cpu_s |= piece["facts"].get("prepare_cpu_s", {})
        self._result = PrimitiveResult(pubs, metadata={"version": 2, "options": dict(self._call.options)})


def _raise_unless_done(call: Call, state: str, error: str | None) -> None:
    if state == DONE:
        return
    where = f"call {call.ordinal} of {call.scope['subtask']}/{call.scope['arm']} on {call.backend}"
    if state == FAILED and error is not None and error.startswith("BadInput: "):
        raise BadInput(f"{where}: {error.removeprefix('BadInput: ')}")
    if state == FAILED:
        raise BackendFailed(f"{where} failed: {error}")
    if state == UNKNOWN:
        raise BackendFailed(f"{where} has an unknown outcome ({error}); look at the backend before sending it again")
    raise RuntimeQueueError(f"{where} was cancelled: {error}")


def _cut(key: str, backend: Backend, digests: Sequence[str], requests: Sequence[Request]) -> list[Part]:
    """Cut the PUBs into parts that fit into a job."""
    parts = []
    for position, (digest, request) in enumerate(zip(digests, requests, strict=True)):
        size = backend.limits.sets_per_part(request.shots)
        for number, start in enumerate(range(0, request.circuits, size)):
            count = min(size, request.circuits - start)
            data = request.encode(start, start + count)
            parts.append(Part(key, position, number, start, digest, data, count, request.shots))
    return parts


def _hash(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

"""Sends what waits in the ledger and brings back what came of it, for every caller alike.

Whoever holds a lane's lease leads: takes the calls that wait, sends them in as few jobs as the limits allow, stores
each result with what it used. There is no dispatcher process; a caller that waits leads in a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
from qiskit import QuantumCircuit

from infra.energy.usage import Usage
from infra.errors import KetcycleError, RuntimeQueueError
from infra.runtime.backends import SEED_STEP, Backend, Executed, JobState, Task, derive_seed, open_backend
from infra.runtime.estimate import is_lower_bound, project
from infra.runtime.lane import Batch, Delivery, Item, Lane, LeaseLost
from infra.runtime.ledger import CANCELLED, FAILED, FINAL, SUBMITTING, UNKNOWN, Ledger
from infra.runtime.observables import decode_observables
from infra.runtime.payload import decode_arrays, decode_circuit, encode_arrays

log = logging.getLogger("ketcycle.queue")

FLUSH_S = 0.5
CIRCUITS = 512


class Overhead:
    """CPU time, elapsed time and memory that this process spends on the queue, for anybody.

    A settled arm takes the increase during its run out of its own consumption and adds what its own calls used.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Usage()
        self._open: dict[int, tuple[float, float | None]] = {}

    @contextmanager
    def counted(self, *, elapsed: bool = True) -> Iterator[None]:
        """Count the work of this thread until the end of the block; blocks within blocks count once.

        Args:
            elapsed: count elapsed time and memory too; not where the thread only waits.
        """
        ident = threading.get_ident()
        if ident in self._open:
            yield
            return
        with self._lock:
            self._open[ident] = (time.thread_time(), time.perf_counter() if elapsed else None)
        try:
            yield
        finally:
            with self._lock:
                self._total = self._total + _since(*self._open.pop(ident), time.thread_time())

    def read(self) -> Usage:
        """Return the sum so far, blocks still open included."""
        with self._lock:
            total = self._total
            for ident, (cpu, wall) in self._open.items():
                # The lock keeps the thread inside its block, so its clock exists.
                total = total + _since(cpu, wall, time.clock_gettime(time.pthread_getcpuclockid(ident)))
            return total


def _since(cpu: float, wall: float | None, now: float) -> Usage:
    elapsed = 0.0 if wall is None else time.perf_counter() - wall
    memory_gb = psutil.Process().memory_info().rss / 1e9 if elapsed else 0.0
    return Usage(cpu_s=now - cpu, wall_s=elapsed, rss_gb_s=memory_gb * elapsed)


OVERHEAD = Overhead()


class CircuitCache:
    """Circuits by digest, kept by the callers of this process so that its leader need not read them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._circuits: OrderedDict[str, QuantumCircuit] = OrderedDict()

    def put(self, digest: str, circuit: QuantumCircuit) -> None:
        """Keep a copy; the caller may go on changing its circuit."""
        with self._lock:
            if digest not in self._circuits:
                self._circuits[digest] = circuit.copy()
                if len(self._circuits) > CIRCUITS:
                    self._circuits.popitem(last=False)

    def get(self, ledger: Ledger, digests: set[str]) -> dict[str, QuantumCircuit]:
        """Return circuits, the unknown ones from the ledger."""
        with self._lock:
            found = {digest: self._circuits[digest] for digest in digests if digest in self._circuits}
        if missing := digests - set(found):
            for digest, data in ledger.circuits(missing).items():
                found[digest] = decode_circuit(data)
                self.put(digest, found[digest])
        return found


CIRCUIT_CACHE = CircuitCache()


def lead(lane: Lane, backend: Backend, wanted: Callable[[], bool], linger_s: float | None = None) -> int:
    """Dispatch until nothing waits or nobody here wants more, then hand the lease on; return the jobs sent.

    Args:
        lane: whose lease is held.
        backend: where the lane leads.
        wanted: asked between jobs whether to go on.
        linger_s: how long to let further callers join a job; the backend's own time by default.
    """
    sent = 0
    try:
        with OVERHEAD.counted(), _kept_alive(lane):
            for batch in lane.left_behind():
                sent += _recover(lane, backend, batch)
            while True:
                time.sleep(backend.linger_s if linger_s is None else linger_s)
                batches = lane.claim(backend.name, backend.limits)
                for batch in batches:
                    _send(lane, backend, batch)
                    sent += 1
                if not batches or not wanted():
                    return sent
    except LeaseLost as error:
        log.warning("%s; its batch is the new leader's now", error)
        return sent
    finally:
        lane.release()


class Leader(threading.Thread):
    """Leads for everybody until the call that started it is answered."""

    _lock = threading.Lock()
    _leading: set[tuple[str, str]] = set()  # noqa: RUF012  (one for the process)

    def __init__(self, lane: Lane, key: str, linger_s: float | None) -> None:
        super().__init__(name=f"ketcycle-dispatch-{lane.name}", daemon=True)
        self._lane, self._key, self._linger_s = lane, key, linger_s
        self._error: Exception | None = None

    @classmethod
    def start_if_free(
        cls, ledger: Ledger, backend: str, key: str, lease_s: float, linger_s: float | None
    ) -> Leader | None:
        """Start leading unless another thread of this process, or another process, leads."""
        spot = (ledger.database.url, backend)
        with cls._lock:
            if spot in cls._leading:
                return None
            lane = Lane.acquire(ledger, backend, lease_s)
            if lane is None:
                return None
            cls._leading.add(spot)
        leader = cls(lane, key, linger_s)
        leader.start()
        return leader

    def run(self) -> None:
        """Lead, and keep what went wrong for the caller."""
        try:
            lead(self._lane, open_backend(self._lane.name), self._unanswered, self._linger_s)
        except Exception as error:  # seam: the caller that waits raises it
            self._error = error
        finally:
            with self._lock:
                self._leading.discard((self._lane.ledger.database.url, self._lane.name))

    @classmethod
    def forget(cls) -> None:
        """Start anew: nobody leads in this process."""
        cls._lock, cls._leading = threading.Lock(), set()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def _unanswered(self) -> bool:
        return self._lane.ledger.state(self._key)[0] not in FINAL


def _recover(lane: Lane, backend: Backend, batch: Batch) -> int:
    """Go on with what an earlier leader left: follow the job if there is one, never send it twice."""
    jobs = (batch.job_id,) if batch.job_id else backend.find(batch.tag)
    alive = [job for job in jobs if backend.status(job) is not JobState.LOST]
    if alive:
        log.info("batch %s is followed further as job %s", batch.tag, alive[0])
        if batch.state == SUBMITTING:
            lane.submitted(batch.tag, alive[0])
        for surplus in alive[1:]:
            backend.cancel(surplus)
        _fetch(lane, backend, batch, alive[0])
        return 1
    if backend.local:
        lane.put_back(batch.tag, "its leader died with the job")
    else:
        lane.close(batch.tag, UNKNOWN, "it may or may not have been sent, and no job is found under its tag")
    return 0


def _send(lane: Lane, backend: Backend, batch: Batch) -> None:
    circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
    try:
        job_id = backend.submit(batch.tag, [_task(item, circuits[item.part.circuit]) for item in batch.items])
    except Exception as error:  # seam: whatever a backend raises ends this batch, not the leader
        log.exception("batch %s was not sent", batch.tag)
        if backend.local:
            lane.close(batch.tag, FAILED, _sentence(error))
        else:  # the answer may have been lost, not the job
            _recover(lane, backend, batch)
        return
    lane.submitted(batch.tag, job_id)
    _fetch(lane, backend, batch, job_id, circuits)


def _fetch(
    lane: Lane, backend: Backend, batch: Batch, job_id: str, circuits: Mapping[str, QuantumCircuit] | None = None
) -> None:
    """Wait for a job and store its results as they come."""
    while (state := backend.status(job_id)) in (JobState.QUEUED, JobState.RUNNING):
        lane.renew()
        time.sleep(backend.poll_s)
    if state is not JobState.DONE:
        ends = {JobState.FAILED: FAILED, JobState.CANCELLED: CANCELLED, JobState.LOST: UNKNOWN}
        lane.close(batch.tag, ends[state], f"job {job_id} is {state}")
        return
    if circuits is None:
        circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
    waiting: list[Delivery] = []
    last = time.monotonic()
    items = {item.slot: item for item in batch.items}
    for slot, outcome in backend.results(job_id):
        if slot not in items:
            continue  # an earlier leader stored it before it died
        item = items[slot]
        waiting.append(_delivery(lane.ledger, item, circuits[item.part.circuit], outcome, batch.size))
        if time.monotonic() - last > FLUSH_S:
            lane.deliver(waiting)
            waiting, last = [], time.monotonic()
    lane.deliver(waiting, last_of=batch.tag)


def _task(item: Item, circuit: QuantumCircuit) -> Task:
    arrays = decode_arrays(item.part.request)
    seed = derive_seed(item.seed, item.part.position) + SEED_STEP * item.part.start
    common = (item.primitive, circuit, item.part.circuit, arrays["sets"], item.part.shots, seed)
    options = item.options.get("effective", {})
    if item.primitive == "sampler":
        return Task(*common, options=options)
    observables = decode_observables(bytes(arrays["observables"]).decode())
    pairs = [(int(index), observables[which]) for index, which in arrays["pairs"]]
    return Task(*common, precision=float(arrays["precision"]), pairs=pairs, options=options)


def _delivery(
    ledger: Ledger, item: Item, circuit: QuantumCircuit, outcome: Executed | Exception, in_job: int
) -> Delivery:
    part = item.part
    if isinstance(outcome, Exception):
        trace = None if isinstance(outcome, KetcycleError) else outcome
        log.warning("call %s, PUB %d failed: %s", part.call, part.position, outcome, exc_info=trace)
        return Delivery(part, error=_sentence(outcome))
    projection = project(circuit, part.circuit, item.projection, ledger)
    executions = part.circuits * part.shots
    usage = Usage(
        cpu_s=outcome.cpu_s,
        simulation_cpu_s=outcome.cpu_s,
        wall_s=outcome.wall_s,
        rss_gb_s=outcome.rss_gb_s,
        qpu_s_billed=outcome.qpu_s_billed,
        qpu_s_projected=projection.qpu_s(executions, item.call_executions),
        jobs=1 / in_job,
        circuits=part.circuits,
        shots=executions,
        two_qubit_gates=projection.two_qubit_gates * part.circuits,
    )
    facts: dict[str, Any] = {**outcome.facts, "prepare_cpu_s": dict(outcome.prepare_cpu_s)}
    facts["projection"] = {
        "device": item.projection,
        "two_qubit_gates": projection.two_qubit_gates,
        "duration_s": projection.duration_s,
        "lower_bound": is_lower_bound(circuit),
        "error": projection.error or ("an exact value has no number of shots" if executions == 0 else None),
    }
    return Delivery(part, encode_arrays(outcome.arrays), usage.asdict(), facts)


def _renew_after_fork() -> None:
    """Forget what belonged to the parent's threads, which do not exist in the child."""
    OVERHEAD.__init__()  # type: ignore[misc]
    CIRCUIT_CACHE.__init__()  # type: ignore[misc]
    Leader.forget()


os.register_at_fork(after_in_child=_renew_after_fork)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeQueueError) else str(error)


@contextmanager
def _kept_alive(lane: Lane) -> Iterator[None]:
    """Renew the lease while the work of the block writes nothing for long."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(lane.ttl_s / 3):
            try:
                lane.renew()
            except RuntimeQueueError as error:  # the leader finds out at its next write
                log.warning("the lease of %s was not renewed: %s", lane.name, error)
                return

    keeper = threading.Thread(target=renew, name="ketcycle-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()

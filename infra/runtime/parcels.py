"""Between the ledger and a backend: parts become tasks, and results are checked against them before they are stored."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit

from infra.energy.usage import Usage
from infra.errors import BadAnswer, KetcycleError, RuntimeQueueError
from infra.runtime.backends.contract import SEED_STEP, Executed, Task, derive_seed
from infra.runtime.backends.projection import is_lower_bound, project
from infra.runtime.circuits.observables import Measurements, decode_observables, shots_for
from infra.runtime.circuits.payload import decode_arrays, decode_circuit, encode_arrays
from infra.runtime.ledger.batch import Delivery, Item
from infra.runtime.ledger.charges import billed
from infra.runtime.ledger.ledger import Ledger

log = logging.getLogger("ketcycle.queue")

CIRCUITS = 2048


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


def task_of(item: Item, circuit: QuantumCircuit) -> Task:
    """Return the request to the backend for a part."""
    arrays = decode_arrays(item.part.request)
    seed = derive_seed(item.seed, item.part.position) + SEED_STEP * item.part.start
    common = (item.primitive, circuit, item.part.circuit, arrays["sets"], item.part.shots, seed)
    options = item.options.get("effective", {})
    if item.primitive == "sampler":
        return Task(*common, options=options)
    observables = decode_observables(bytes(arrays["observables"]).decode())
    pairs = [(int(index), observables[which]) for index, which in arrays["pairs"]]
    return Task(*common, precision=float(arrays["precision"]), pairs=pairs, options=options)


@dataclass(frozen=True)
class Job:
    """A finished job, as far as the results of its parts need it.

    Attributes:
        tag: of its batch.
        size: parts in it.
        billed_s: billing seconds that it is charged; None while that is not known.
        usd_per_s: dollars of such a second where the backend bills dollars; None where it bills QPU seconds.
    """

    tag: str
    size: int
    billed_s: float | None = None
    usd_per_s: float | None = None


def delivery_of(
    ledger: Ledger, item: Item, circuit: QuantumCircuit, outcome: Executed | Exception, job: Job
) -> Delivery:
    """Return what is stored of what a backend answered for a part, with what it used.

    Args:
        ledger: where projections are kept.
        item: the part.
        circuit: its circuit.
        outcome: the answer.
        job: the job.

    Raises:
        BadAnswer: the result belongs to another job.
    """
    part = item.part
    if isinstance(outcome, Executed):
        try:
            if outcome.measured:
                outcome = replace(outcome, arrays=_values(item, circuit.num_qubits, outcome.measured))
            _check(item, circuit, outcome, job.tag)
        except _Unlike as error:
            return Delivery(part, error=f"the result does not match the request: {error}", permanent=True)
    if isinstance(outcome, Exception):
        trace = None if isinstance(outcome, KetcycleError) else outcome
        log.warning("call %s, PUB %d failed: %s", part.call, part.position, outcome, exc_info=trace)
        return Delivery(part, error=sentence(outcome))
    projection = project(circuit, part.circuit, item.projection, ledger)
    executions = part.circuits * part.shots
    usage = Usage(
        cpu_s=outcome.cpu_s,
        simulation_cpu_s=outcome.cpu_s,
        wall_s=outcome.wall_s,
        rss_gb_s=outcome.rss_gb_s,
        **billed((job.billed_s or 0.0) * outcome.share, job.usd_per_s),
        qpu_s_projected=projection.qpu_s(executions, item.call_executions),
        sub_jobs=projection.sub_jobs(executions, item.call_executions),
        jobs=1 / job.size,
        circuits=part.circuits,
        shots=executions,
        two_qubit_gates=projection.two_qubit_gates * part.circuits,
        two_qubit_depth=projection.two_qubit_depth * part.circuits,
        qubit_shots=circuit.num_qubits * executions,
    )
    facts: dict[str, Any] = {**outcome.facts, "prepare_cpu_s": dict(outcome.prepare_cpu_s)}
    if outcome.share:
        facts |= {"share": outcome.share, "job_billed_s": job.billed_s, "usd_per_s": job.usd_per_s}
    facts["projection"] = {
        "device": item.projection,
        "two_qubit_gates": projection.two_qubit_gates,
        "two_qubit_depth": projection.two_qubit_depth,
        "duration_s": projection.duration_s,
        "lower_bound": is_lower_bound(circuit),
        "error": projection.error or ("an exact value has no number of shots" if executions == 0 else None),
    }
    return Delivery(part, encode_arrays(outcome.arrays), usage.asdict(), facts, arrays=outcome.arrays)


class _Unlike(Exception):
    """A result does not have the requested form."""


def _values(item: Item, qubits: int, measured: Mapping[tuple[str, int], NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    """Return the expectation values of a part from what was measured for it."""
    task = task_of(item, QuantumCircuit())
    plan, shots = Measurements.plan(task.pairs), shots_for(task.precision)
    for basis, index in ((basis, index) for basis, sets in plan.sets.items() for index in sets):
        bits = measured.get((basis, index))
        if bits is None or bits.shape[1:] != (qubits,) or len(bits) < shots:
            shape = None if bits is None else bits.shape
            raise _Unlike(
                f"{shots} shots of {qubits} qubits in the basis {basis} were asked, of the shape {shape} came"
            )
    return plan.values(measured)


def _check(item: Item, circuit: QuantumCircuit, outcome: Executed, tag: str) -> None:
    """Compare a result with what was asked: job, circuit, registers, parameter sets, shots, values."""
    part, arrays = item.part, outcome.arrays
    if outcome.origin is not None:
        origin, digest = outcome.origin
        if origin != tag:
            raise BadAnswer(f"the result belongs to batch {origin}, not to {tag}")
        if digest != part.circuit:
            raise _Unlike(f"it is of circuit {digest[:12]}, not of {part.circuit[:12]}")
    if item.primitive == "sampler":
        sizes = {register.name: register.size for register in circuit.cregs}
        if set(arrays) != set(sizes):
            raise _Unlike(f"registers {sorted(arrays)} came back, {sorted(sizes)} were measured")
        for name, size in sizes.items():
            _check_bits(name, arrays[name], (part.circuits, part.shots, math.ceil(size / 8)), size)
        return
    pairs = len(decode_arrays(part.request)["pairs"])
    for name in ("evs", "stds"):
        found = arrays.get(name)
        if found is None or found.shape != (pairs,):
            shape = None if found is None else found.shape
            raise _Unlike(f"{pairs} expectation values were asked for, {name} has the shape {shape}")
    if not np.isfinite(arrays["evs"]).all():
        raise _Unlike("an expectation value is not a finite number")


def _check_bits(name: str, bits: NDArray[Any], shape: tuple[int, int, int], size: int) -> None:
    if bits.shape != shape or bits.dtype != np.uint8:
        sets, shots, _ = shape
        raise _Unlike(f"register {name} has the shape {bits.shape}, {sets} parameter sets of {shots} shots were asked")
    if size % 8 and bits.size and int(bits[..., 0].max()) >> (size % 8):
        raise _Unlike(f"register {name} has {size} bits, and a value came back that needs more")


def sentence(error: Exception) -> str:
    """Return an error as it is kept in the ledger; the caller raises it again by its name."""
    return f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeQueueError) else str(error)


def _renew_after_fork() -> None:
    """A thread of the parent may have held the lock."""
    CIRCUIT_CACHE.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_renew_after_fork)

"""Between the ledger and a backend: parts become tasks, what was executed becomes deliveries."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from typing import Any

from qiskit import QuantumCircuit

from infra.energy.usage import Usage
from infra.errors import KetcycleError, RuntimeQueueError
from infra.runtime.backends.contract import SEED_STEP, Executed, Task, derive_seed
from infra.runtime.backends.projection import is_lower_bound, project
from infra.runtime.circuits.observables import decode_observables
from infra.runtime.circuits.payload import decode_arrays, decode_circuit, encode_arrays
from infra.runtime.ledger.lane import Delivery, Item
from infra.runtime.ledger.ledger import Ledger

log = logging.getLogger("ketcycle.queue")

CIRCUITS = 512


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
    """Return what a backend is asked for a part."""
    arrays = decode_arrays(item.part.request)
    seed = derive_seed(item.seed, item.part.position) + SEED_STEP * item.part.start
    common = (item.primitive, circuit, item.part.circuit, arrays["sets"], item.part.shots, seed)
    options = item.options.get("effective", {})
    if item.primitive == "sampler":
        return Task(*common, options=options)
    observables = decode_observables(bytes(arrays["observables"]).decode())
    pairs = [(int(index), observables[which]) for index, which in arrays["pairs"]]
    return Task(*common, precision=float(arrays["precision"]), pairs=pairs, options=options)


def delivery_of(
    ledger: Ledger, item: Item, circuit: QuantumCircuit, outcome: Executed | Exception, in_job: int
) -> Delivery:
    """Return what is written down of what a backend answered for a part, with what it used.

    Args:
        ledger: where projections are kept.
        item: the part.
        circuit: its circuit.
        outcome: the answer.
        in_job: parts in the job.
    """
    part = item.part
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
        qpu_s_billed=outcome.qpu_s_billed,
        qpu_s_projected=projection.qpu_s(executions, item.call_executions),
        sub_jobs=projection.sub_jobs(executions, item.call_executions),
        jobs=1 / in_job,
        circuits=part.circuits,
        shots=executions,
        two_qubit_gates=projection.two_qubit_gates * part.circuits,
        qubit_shots=circuit.num_qubits * executions,
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


def sentence(error: Exception) -> str:
    """Return an error as it is kept in the ledger; the caller raises it again by its name."""
    return f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeQueueError) else str(error)


def _renew_after_fork() -> None:
    """A thread of the parent may have held the lock."""
    CIRCUIT_CACHE.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_renew_after_fork)

"""What a circuit would cost on a device that is not there: two-qubit gates and billed seconds, from its ISA form.

Usage = 2 s for each sub-job + (repetition delay + circuit duration) x executions (IBM, "Estimate job run time"). Five
recorded jobs were billed 1.7 to 5.5 times that. A call counts as one job, split where a job's limit of executions
says so; who else happened to travel in the same job changes nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Protocol

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction
from qiskit.exceptions import QiskitError
from qiskit.transpiler import PassManager, generate_preset_pass_manager

from infra.runtime.backends.snapshots import fake_device
from infra.runtime.backends.usage import LEVEL, SEED_TRANSPILER, shannon_gates, sub_jobs, usage_s

DENSE_QUBITS = 5
KEPT = 4096  # projections in memory; the others are read from the store

_lock = threading.Lock()
_known: OrderedDict[tuple[str, str], Projection] = OrderedDict()


@dataclass(frozen=True)
class Projection:
    """A circuit on a device.

    Attributes:
        two_qubit_gates: of its ISA form.
        duration_s: of one execution.
        error: why the device cannot run it; then the figures are 0.
    """

    two_qubit_gates: int = 0
    duration_s: float = 0.0
    error: str | None = None

    def qpu_s(self, executions: int, call_executions: int) -> float:
        """Return the projected seconds of some executions of a call, its overhead shared by executions.

        Args:
            executions: circuits times shots of this part.
            call_executions: the same of the whole call.
        """
        if self.error is not None or executions == 0:
            return 0.0
        return usage_s(call_executions, self.duration_s) * executions / call_executions

    def sub_jobs(self, executions: int, call_executions: int) -> float:
        """Return the share in the sub-jobs of a call, for the same arguments as `qpu_s`."""
        if self.error is not None or executions == 0:
            return 0.0
        return sub_jobs(call_executions) * executions / call_executions


class Store(Protocol):
    """Keeps projections for other processes; the ledger is one."""

    def projection(self, circuit: str, device: str, /) -> tuple[int, float, str | None] | None:
        """Return two-qubit gates, seconds and error of a circuit on a device, or None where it was never computed."""
        ...

    def store_projection(
        self, circuit: str, device: str, two_qubit_gates: int, duration_s: float, error: str | None, /
    ) -> None:
        """Keep a projection."""
        ...


def project(circuit: QuantumCircuit, digest: str, device: str, store: Store) -> Projection:
    """Return the projection of a circuit, computed once for each circuit and device and kept in the store."""
    epoch = f"{device} level {LEVEL} seed {SEED_TRANSPILER}"
    with _lock:
        if (digest, epoch) not in _known:
            stored = store.projection(digest, epoch)
            if stored is None:
                made = _compile(circuit, device)
                store.store_projection(digest, epoch, made.two_qubit_gates, made.duration_s, made.error)
                stored = (made.two_qubit_gates, made.duration_s, made.error)
            _known[digest, epoch] = Projection(*stored)
            if len(_known) > KEPT:
                _known.popitem(last=False)
        return _known[digest, epoch]


def _compile(circuit: QuantumCircuit, device: str) -> Projection:
    target = fake_device(device).target
    if circuit.num_qubits > target.num_qubits:
        return Projection(error=f"{circuit.num_qubits} qubits, {device} has {target.num_qubits}")
    rest, dense = _without_dense(circuit)
    try:
        isa = _compiler(device).run(rest)
        gates = sum(shannon_gates(qubits) for qubits in dense)
        duration_s = float(isa.estimate_duration(target, unit="s")) + gates * _two_qubit_s(device)
        return Projection(isa.num_nonlocal_gates() + gates, duration_s)
    except QiskitError as error:  # e.g. a branch, whose duration is not known before it is run
        return Projection(error=str(error))


def is_lower_bound(circuit: QuantumCircuit) -> bool:
    """Say whether the projection of a circuit leaves out the routing of dense unitaries."""
    return any(_is_dense(item) for item in circuit.data)


def _is_dense(item: CircuitInstruction) -> bool:
    return bool(item.name == "unitary" and len(item.qubits) >= DENSE_QUBITS)


def _without_dense(circuit: QuantumCircuit) -> tuple[QuantumCircuit, list[int]]:
    """Take out dense unitaries, whose synthesis takes minutes; they count by the closed form, a lower bound."""
    rest, dense = circuit.copy_empty_like(), []
    for item in circuit.data:
        if _is_dense(item):
            dense.append(len(item.qubits))
        else:
            rest.append(item)
    return rest, dense


@lru_cache(maxsize=8)
def _two_qubit_s(device: str) -> float:
    """Return the median duration of a two-qubit gate of a device."""
    target = fake_device(device).target
    found = [
        properties.duration
        for name in target.operation_names
        if target.operation_from_name(name).num_qubits == 2
        for properties in target[name].values()
        if properties is not None and properties.duration
    ]
    return float(median(found))


@lru_cache(maxsize=8)
def _compiler(device: str) -> PassManager:
    target = fake_device(device).target
    return generate_preset_pass_manager(LEVEL, target=target, seed_transpiler=SEED_TRANSPILER)

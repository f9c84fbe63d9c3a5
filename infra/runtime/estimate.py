"""What a circuit would cost on a device that is not there: two-qubit gates and billed seconds, from its ISA form.

Usage = 2 s for each sub-job + (repetition delay + circuit duration) x executions (IBM, "Estimate job run time"). Five
recorded jobs were billed 1.7 to 5.5 times that. A call counts as one job, split where a job's limit of executions
says so; who else happened to travel in the same job changes nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from math import ceil
from statistics import median

from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction
from qiskit.exceptions import QiskitError
from qiskit.transpiler import PassManager, generate_preset_pass_manager

from infra.runtime.backends import fake_device
from infra.runtime.ledger import Ledger

SUB_JOB_S = 2.0
REP_DELAY_S = 250e-6
MAX_EXECUTIONS = 5_000_000
LEVEL = 2
SEED_TRANSPILER = 11
DENSE_QUBITS = 5

_lock = threading.Lock()
_known: dict[tuple[str, str], Projection] = {}


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


def usage_s(executions: int, duration_s: float, rep_delay_s: float = REP_DELAY_S) -> float:
    """Return the billed seconds of a call by the vendor's formula, without any correction by earlier bills.

    Args:
        executions: circuits times shots.
        duration_s: of one execution.
        rep_delay_s: between two executions.
    """
    return SUB_JOB_S * ceil(executions / MAX_EXECUTIONS) + (rep_delay_s + duration_s) * executions


def project(circuit: QuantumCircuit, digest: str, device: str, ledger: Ledger) -> Projection:
    """Return the projection of a circuit, computed once for each circuit and device and kept in the ledger."""
    epoch = f"{device} level {LEVEL} seed {SEED_TRANSPILER}"
    with _lock:
        if (digest, epoch) not in _known:
            stored = ledger.projection(digest, epoch)
            if stored is None:
                made = _compile(circuit, device)
                ledger.store_projection(digest, epoch, made.two_qubit_gates, made.duration_s, made.error)
                stored = (made.two_qubit_gates, made.duration_s, made.error)
            _known[digest, epoch] = Projection(*stored)
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


def shannon_gates(qubits: int) -> int:
    """Return the two-qubit gates of a dense unitary by quantum Shannon decomposition, before routing.

    23/48 4^n - 3/2 2^n + 4/3 (Shende, Bullock, Markov, IEEE TCAD 25, 1000 (2006), table 1).
    """
    return int((23 * 4**qubits - 72 * 2**qubits + 64) / 48)


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


@cache
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


@cache
def _compiler(device: str) -> PassManager:
    target = fake_device(device).target
    return generate_preset_pass_manager(LEVEL, target=target, seed_transpiler=SEED_TRANSPILER)

"""What a circuit would cost on a device that is not there: two-qubit gates and billed seconds, from its ISA form.

Usage = 2 s for each sub-job + (repetition delay + circuit duration) x executions (IBM, "Estimate job run time"). Five
recorded jobs were billed 1.7 to 5.5 times that. A call counts as one job, split where a job's limit of executions
says so; other circuits in the same job change nothing.

Circuits that differ only in the entries of dense unitaries are compiled once: a unitary drawn from their pattern stands
for all. Its synthesis takes as many gates, and only what routing happens to save differs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction
from qiskit.circuit.library import UnitaryGate
from qiskit.exceptions import QiskitError
from qiskit.transpiler import PassManager, generate_preset_pass_manager
from scipy.sparse.csgraph import connected_components

from infra.runtime.backends.snapshots import fake_device
from infra.runtime.backends.usage import LEVEL, SEED_TRANSPILER, Projection, shannon_gates
from infra.runtime.circuits.payload import circuit_digest

DENSE_QUBITS = 5
TYPICAL_QUBITS = 3  # up to DENSE_QUBITS a unitary is compiled, and takes as many gates as almost all of its pattern
KEPT = 4096  # projections in memory; the others are read from the store

_lock = threading.Lock()
_known: OrderedDict[tuple[str, str], Projection] = OrderedDict()


class Store(Protocol):
    """Keeps projections for other processes; the ledger is one."""

    def projection(self, circuit: str, device: str, /) -> Projection | None:
        """Return the projection of a circuit on a device, or None where it was never computed."""
        ...

    def store_projection(self, circuit: str, device: str, projection: Projection, /) -> None:
        """Keep a projection."""
        ...


def project(circuit: QuantumCircuit, digest: str, device: str, store: Store) -> Projection:
    """Return the projection of a circuit, computed once for each circuit and device and kept in the store.

    Circuits that differ only in the entries of dense unitaries share one.
    """
    if any(map(_has_typical, circuit.data)):
        digest = circuit_digest(circuit, _typical_of)
    epoch = f"{device} level {LEVEL} seed {SEED_TRANSPILER}"
    with _lock:
        if (digest, epoch) not in _known:
            stored = store.projection(digest, epoch)
            if stored is None:
                stored = _compile(_typical(circuit), device)
                store.store_projection(digest, epoch, stored)
            _known[digest, epoch] = stored
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
        depth = isa.depth(lambda item: len(item.qubits) == 2 and item.name != "barrier")
        duration_s = float(isa.estimate_duration(target, unit="s")) + gates * _two_qubit_s(device)
        return Projection(isa.num_nonlocal_gates() + gates, duration_s, two_qubit_depth=depth + gates)
    except QiskitError as error:  # e.g. a branch, whose duration is not known before it is run
        return Projection(error=str(error))


def is_lower_bound(circuit: QuantumCircuit) -> bool:
    """Say whether the projection of a circuit leaves out the routing of dense unitaries."""
    return any(_is_dense(item) for item in circuit.data)


def _is_dense(item: CircuitInstruction) -> bool:
    return bool(item.name == "unitary" and len(item.qubits) >= DENSE_QUBITS)


def _has_typical(item: CircuitInstruction) -> bool:
    return bool(item.name == "unitary" and TYPICAL_QUBITS <= len(item.qubits) < DENSE_QUBITS)


def _typical(circuit: QuantumCircuit) -> QuantumCircuit:
    """Return a circuit with each unitary that has a typical one replaced by it."""
    found = circuit.copy()
    for place, item in enumerate(circuit.data):
        if _has_typical(item):
            found.data[place] = item.replace(operation=UnitaryGate(_drawn(np.asarray(item.operation.params[0]))))
    return found


def _typical_of(name: str, matrix: NDArray[Any]) -> NDArray[Any]:
    """Return the typical matrix in place of that of an operation, if it has one."""
    return _drawn(matrix) if name == "unitary" and 2**TYPICAL_QUBITS <= len(matrix) < 2**DENSE_QUBITS else matrix


def _drawn(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a unitary with the zeros of another, real where that is real.

    Each dense block of its rows and columns is drawn from Haar measure, always the same one for its size. Other blocks
    stay as they are, such as the single entries of a permutation or of phases.
    """
    drawn, used = matrix.copy(), np.abs(matrix) > 1e-12
    real = not np.iscomplexobj(matrix) or not matrix.imag.any()
    for rows, columns in _dense_blocks(used.tobytes(), len(used)):
        drawn[np.ix_(rows, columns)] = _haar(len(rows), real=real)
    return drawn


@lru_cache(maxsize=64)
def _dense_blocks(used: bytes, size: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return rows and columns of the blocks of a square pattern that are larger than one entry and have no zero."""
    pattern = np.frombuffer(used, bool).reshape(size, size)
    none = np.zeros_like(pattern)
    blocks, of = connected_components(np.block([[none, pattern], [pattern.T, none]]))
    found = []
    for block in range(blocks):
        rows, columns = (np.flatnonzero(part == block) for part in np.split(of, 2))
        if len(rows) == len(columns) > 1 and pattern[np.ix_(rows, columns)].all():
            found.append((rows, columns))
    return found


@lru_cache(maxsize=64)
def _haar(size: int, *, real: bool) -> NDArray[Any]:
    from scipy.stats import ortho_group, unitary_group  # they take half a second to import

    group = ortho_group if real else unitary_group
    return np.asarray(group.rvs(size, random_state=size))


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

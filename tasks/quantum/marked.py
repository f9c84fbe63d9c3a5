"""Grover's search (Grover, STOC 1996) for one marked entry of 2^n, as one circuit template for all entries.

The chance of success is `tasks.quantum.grover.success` with one marked entry; all others share the rest equally. The
marked entry is given by angles: RX by 0 or pi before and after a controlled phase, so that a device compiles one
circuit and binds it for every entry. The oracle is `tabulated`: building it requires the marked entry, so the
evaluations that found the entry are part of the cost.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

if TYPE_CHECKING:
    from numpy.typing import NDArray


def best_iterations(size: int) -> int:
    """Return the number of iterations with the highest success probability for one of `size` entries."""
    return max(1, round(math.pi / (4 * math.asin(1 / math.sqrt(size))) - 0.5))


@cache
def marked_search(qubits: int, iterations: int) -> QuantumCircuit:
    """Return the measured template; its parameters are the angles of `marks`, one for each qubit.

    Raises:
        ValueError: fewer than two qubits or no iteration.
    """
    if qubits < 2 or iterations < 1:
        raise ValueError(f"a search has at least 2 qubits and 1 iteration, not {qubits} and {iterations}")
    angles = ParameterVector("mark", qubits)
    circuit = QuantumCircuit(qubits, name=f"marked{qubits}x{iterations}")
    circuit.h(range(qubits))
    for _ in range(iterations):
        for qubit in range(qubits):
            circuit.rx(angles[qubit], qubit)
        _flip_phase_of_ones(circuit)
        for qubit in range(qubits):
            circuit.rx(-angles[qubit], qubit)
        circuit.h(range(qubits))
        circuit.x(range(qubits))
        _flip_phase_of_ones(circuit)
        circuit.x(range(qubits))
        circuit.h(range(qubits))
    circuit.measure_all()
    return circuit


def _flip_phase_of_ones(circuit: QuantumCircuit) -> None:
    last = circuit.num_qubits - 1
    circuit.h(last)
    circuit.mcx(list(range(last)), last)
    circuit.h(last)


def marks(entries: NDArray[np.integer], qubits: int) -> NDArray[np.float64]:
    """Return the angles (m, qubits) that mark each entry: pi where its bit is 0."""
    ones = np.asarray(entries)[:, None] >> np.arange(qubits) & 1
    return np.asarray(np.pi * (1.0 - ones), np.float64)

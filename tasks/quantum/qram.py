"""A bucket-brigade memory that loads up to 16 numbers as amplitudes, in qubits and gates.

The address in superposition routes one excitation through a tree to the leaf that it names (Giovannetti, Lloyd,
Maccone, arXiv 0708.1879; in Toffoli and CNOT as in Di Matteo, Gheorghiu, Mosca, arXiv 1902.01329). The leaf of cell i
turns a flag qubit by its angle, then the route is undone. If the flag is measured as 1, the state is `sum_i x_i |i>`;
this has probability `mean(x^2) / max(x^2)`, so loading a vector takes `max(x^2) / mean(x^2)` preparations on average.

N cells take `log2 N + N + 1` qubits and `16 N - 14` two-qubit gates. With parallel routers the depth
would grow with a power of log N only, but all N leaves must exist and stay coherent: this memory is not free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import ParameterVector

from tasks.quantum.encodings import FloatArray, append_unloading

LARGEST = 16  # cells


def qram_circuit(cells: int) -> QuantumCircuit:
    """Return the measured template: load, then apply the inverse preparation of the vector given by `x`.

    Registers `address`, `flag` and `tree` are measured into those of the same names. Given flag 1 and tree 0, address
    0 has probability |<x|loaded>|^2. Parameters: `a` from `qram_parameters`, `x` from `encodings.unloading_angles`.

    Raises:
        ValueError: the number of cells is no power of two from 2 to 16.
    """
    if cells not in (2, 4, 8, LARGEST):
        raise ValueError(f"a memory has 2, 4, 8 or {LARGEST} cells, not {cells}")
    bits = cells.bit_length() - 1
    address, tree, flag = QuantumRegister(bits, "q"), QuantumRegister(cells, "t"), QuantumRegister(1, "f")
    circuit = QuantumCircuit(address, tree, flag, name=f"qram{cells}")
    circuit.h(address)
    route = _route(bits)
    circuit.compose(route, [*address, *tree], inplace=True)
    angles = ParameterVector("a", 2 * cells)
    for cell, leaf in enumerate(tree):
        circuit.ry(angles[2 * cell], flag[0])
        circuit.cx(leaf, flag[0])
        circuit.ry(angles[2 * cell + 1], flag[0])
        circuit.cx(leaf, flag[0])
    circuit.compose(route.inverse(), [*address, *tree], inplace=True)
    append_unloading(circuit, bits)
    for quantum, name in ((address, "address"), (tree, "tree"), (flag, "flag")):
        classical = ClassicalRegister(len(quantum), name)
        circuit.add_register(classical)
        circuit.measure(quantum, classical)
    return circuit


def _route(bits: int) -> QuantumCircuit:
    """Send one excitation from the root to the leaf named by the address."""
    route = QuantumCircuit(bits + (1 << bits))
    route.x(bits)
    for level in range(bits):
        for node in range(1 << level):
            here, there = bits + node, bits + node + (1 << level)
            route.ccx(level, here, there)
            route.cx(there, here)
    return route


def qram_angles(values: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the angle of each cell (m, N) for the rows of values, none of them zero throughout."""
    rows = np.asarray(values, np.float64)
    return np.asarray(2 * np.arcsin(rows / np.abs(rows).max(axis=1, keepdims=True)))


def qram_parameters(angles: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the parameters `a` (m, 2 N) of `qram_circuit` for the angles of the cells: half of each, to and fro."""
    halves = np.asarray(angles, np.float64) / 2
    return np.stack([halves, -halves], axis=-1).reshape(len(halves), -1)


def qram_values(angles: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the unit vectors (m, N) that the angles load."""
    sines = np.sin(np.asarray(angles, np.float64) / 2)
    return np.asarray(sines / np.linalg.norm(sines, axis=1, keepdims=True))


def success_probability(angles: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the probability that the flag is measured as 1, for each row of angles."""
    return np.asarray(np.square(np.sin(np.asarray(angles, np.float64) / 2)).mean(axis=1))

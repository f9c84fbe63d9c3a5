"""Approximate loading: staircases of RY and CZ whose angles are compiled for each vector.

A layer is a staircase of n - 1 CZ from the highest qubit to the lowest, each followed by RY on both of its qubits. L
layers make a matrix-product state of bond dimension at most 2^L with `n + 2 L (n - 1)` angles and `L (n - 1)` CZ,
against `2^n - 1` and `2^n - n - 1` of the exact tree (`encodings`). Staircases as matrix-product states: Ran, arXiv
1908.07958; angles after layers of the network: Rudolph et al., arXiv 2209.00595.

The overlap with the target is `A cos(t/2) + B sin(t/2)` in every single angle t, so its best value is known: sweeps of
such steps (Ostaszewski, Grant, Benedetti, arXiv 1905.09692) never lower the fidelity. They run on state
vectors, many at once: compiling is classical work, `O(2^n)` for each angle, and is charged to the arm that loads.

Like the exact tree the circuit is one template: a vector determines only its angles.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

from tasks.quantum.encodings import FloatArray

SPREAD = 1.0  # standard deviation of the initial angles; with 0.05 or 0.3 the sweeps reach a lower fidelity

Gate = tuple[int, int]  # an RY on (qubit, -1), or a CZ on both


@cache
def staircase_gates(qubits: int, layers: int) -> tuple[Gate, ...]:
    """Return the gates in order of time.

    Raises:
        ValueError: `layers` is less than 1.
    """
    if layers < 1:
        raise ValueError(f"a staircase has at least 1 layer, not {layers}")
    gates: list[Gate] = [(qubit, -1) for qubit in range(qubits)]
    for _ in range(layers):
        for low in reversed(range(qubits - 1)):
            gates += [(low + 1, low), (low + 1, -1), (low, -1)]
    return tuple(gates)


def staircase_angles(qubits: int, layers: int) -> int:
    """Return the number of angles of a staircase."""
    return qubits + 2 * layers * (qubits - 1)


def staircase_circuit(qubits: int, layers: int) -> QuantumCircuit:
    """Return the template, without measurement, with the parameters `a`."""
    angles = iter(ParameterVector("a", staircase_angles(qubits, layers)))
    circuit = QuantumCircuit(qubits, name=f"staircase{qubits}x{layers}")
    for first, second in staircase_gates(qubits, layers):
        if second < 0:
            circuit.ry(next(angles), first)
        else:
            circuit.cz(first, second)
    return circuit


def staircase_states(angles: NDArray[np.floating[Any]], qubits: int, layers: int) -> FloatArray:
    """Return the states (m, 2^n) of the rows of angles (m, p)."""
    states = np.zeros((len(angles), 1 << qubits))
    states[:, 0] = 1.0
    column = 0
    for gate in staircase_gates(qubits, layers):
        if gate[1] < 0:
            states = _turn(states, gate[0], angles[:, column])
            column += 1
        else:
            states = states * _signs(qubits, gate)
    return states


def fit_staircase(
    targets: NDArray[np.floating[Any]], layers: int, passes: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Compile the angles (m, p) for unit vectors (m, 2^n); return them with the fidelities reached (m,).

    Args:
        targets: unit vectors to be loaded, (m, 2^n).
        layers: number of layers of the staircase.
        passes: number of times that every angle is set, backwards and forwards through the circuit.
        rng: random generator of the initial angles.
    """
    size = targets.shape[1]
    qubits = size.bit_length() - 1
    angles = rng.normal(scale=SPREAD, size=(len(targets), staircase_angles(qubits, layers)))
    state, goal = staircase_states(angles, qubits, layers), np.asarray(targets, np.float64)
    steps: list[tuple[Gate, int]] = []
    for gate in staircase_gates(qubits, layers):
        steps.append((gate, sum(before[1] < 0 for before, _ in steps)))
    # `state` is the circuit up to the gate applied to 0, `goal` the target after the inverses of all later gates.
    for _ in range(passes):
        for (qubit, other), column in reversed(steps):
            if other >= 0:
                signs = _signs(qubits, (qubit, other))
                state, goal = state * signs, goal * signs
                continue
            state = _turn(state, qubit, -angles[:, column])
            angles[:, column] = _best(goal, state, qubit)
            goal = _turn(goal, qubit, -angles[:, column])
        for (qubit, other), column in steps:
            if other >= 0:
                signs = _signs(qubits, (qubit, other))
                state, goal = state * signs, goal * signs
                continue
            goal = _turn(goal, qubit, angles[:, column])
            angles[:, column] = _best(goal, state, qubit)
            state = _turn(state, qubit, angles[:, column])
    return angles, np.square((state * goal).sum(axis=1))


def _best(goal: FloatArray, state: FloatArray, qubit: int) -> FloatArray:
    """Return the angle that brings each state nearest to its goal."""
    g, s = (rows.reshape(len(rows), -1, 2, 1 << qubit) for rows in (goal, state))
    straight = np.einsum("mhbl,mhbl->m", g, s)
    turned = np.einsum("mhl,mhl->m", g[:, :, 1], s[:, :, 0]) - np.einsum("mhl,mhl->m", g[:, :, 0], s[:, :, 1])
    return np.asarray(2 * np.arctan2(turned, straight))


def _turn(states: FloatArray, qubit: int, angles: NDArray[np.floating[Any]]) -> FloatArray:
    """Apply RY with a separate angle to each state."""
    shaped = states.reshape(len(states), -1, 2, 1 << qubit)
    c, s = np.cos(angles / 2)[:, None, None], np.sin(angles / 2)[:, None, None]
    turned = np.empty_like(shaped)
    turned[:, :, 0] = c * shaped[:, :, 0] - s * shaped[:, :, 1]
    turned[:, :, 1] = s * shaped[:, :, 0] + c * shaped[:, :, 1]
    return turned.reshape(states.shape)


@cache
def _signs(qubits: int, gate: Gate) -> FloatArray:
    indices = np.arange(1 << qubits)
    return np.asarray(1.0 - 2.0 * ((indices >> gate[0]) & (indices >> gate[1]) & 1))

"""Amplitude encoding of real vectors as one parametric circuit: a tree of multiplexed RY rotations.

A vector determines only the angles of the circuit, which have a closed form. Thousands of vectors are therefore
submitted as one template with a table of parameters, and the circuit is synthesised and transpiled once. Loading
prepares a state and does not store it: every use costs `2^n - 1` rotations and `2^n - n - 1` CZ.

Tree and Gray-code multiplexer: Mottonen, Vartiainen, Bergholm, Salomaa, arXiv quant-ph/0407010. Every multiplexer
here leaves out its closing gate. That gate is diagonal and commutes to the end of the circuit, where it is a fixed
pattern of signs on the state, which the angles include at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector

FloatArray = NDArray[np.float64]


def qubits_for(dimension: int) -> int:
    """Return the qubits that `dimension` amplitudes need (at least 1).

    Raises:
        ValueError: the dimension is not positive.
    """
    if dimension < 1:
        raise ValueError(f"an amplitude encoding needs at least 1 dimension, not {dimension}")
    return max(1, (dimension - 1).bit_length())


def amplitude_angles(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the angles (m, 2^n - 1) with which `amplitude_circuit(n)` prepares the rows of (m, d), signs included.

    Rows are padded with zeros to 2^n >= d and scaled to unit length.

    Raises:
        ValueError: the input is not a matrix, has a value that is not finite, or a row of zeros, which is no state.
    """
    rows = _padded(vectors)
    levels = tree_angles(rows * _closing_signs(qubits_for(rows.shape[1])))
    return np.hstack([gray_transform(level) for level in levels])


def tree_angles(vectors: NDArray[np.floating[Any]]) -> list[FloatArray]:
    """Return the RY angles of the tree, level by level (m, 2^l), by the state of the qubits above the target.

    Raises:
        ValueError: as `amplitude_angles`.
    """
    signed = _padded(vectors)
    norms = np.abs(signed)
    levels: list[FloatArray] = [2 * np.arctan2(signed[:, 1::2], signed[:, 0::2])]
    while norms.shape[1] > 2:
        norms = np.hypot(norms[:, 0::2], norms[:, 1::2])
        levels.insert(0, 2 * np.arctan2(norms[:, 1::2], norms[:, 0::2]))
    return levels


def tree_states(levels: Sequence[FloatArray]) -> FloatArray:
    """Return the unit vectors (m, 2^n) of the angles of the tree, level by level as `tree_angles` gives them."""
    states = np.ones((len(levels[0]), 1))
    for angles in levels:
        halves = np.stack([np.cos(angles / 2), np.sin(angles / 2)], axis=-1)
        states = (states[:, :, None] * halves).reshape(len(states), -1)
    return states


def _padded(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"expected a matrix with one vector a row, got {rows.ndim} dimension(s)")
    if not np.isfinite(rows).all() or (len(rows) and not np.abs(rows).sum(axis=1).all()):
        raise ValueError("every row must be finite and must not be zero")
    padded = np.zeros((len(rows), 1 << qubits_for(rows.shape[1])))
    padded[:, : rows.shape[1]] = rows
    return padded


def amplitude_circuit(qubits: int) -> QuantumCircuit:
    """Return the template, without measurement, that prepares a real state from the angles of `amplitude_angles`."""
    angles = ParameterVector("a", (1 << qubits) - 1)
    circuit = QuantumCircuit(qubits, name=f"amplitude{qubits}")
    for level in range(qubits):
        _append(circuit, level, [angles[i] for i in _slots(level)])
    return circuit


def overlap_circuit(qubits: int) -> QuantumCircuit:
    """Return the measured compute-uncompute template for a pair of real states.

    Outcome 0 has probability |<x|y>|^2; the other outcomes mean nothing. The last multiplexer of the preparation and
    the first of the inverse act on one qubit under the same controls and are one multiplexer of the difference of
    angles: at 8 qubits 382 rotations and 367 CZ in place of 510 and 508.
    """
    last = qubits - 1
    inner = (1 << last) - 1
    angles = ParameterVector("a", 2 * inner + (1 << last))
    circuit = QuantumCircuit(qubits, name=f"overlap{qubits}")
    for level in range(last):
        _append(circuit, level, [angles[i] for i in _slots(level)])
    _append(circuit, last, [angles[i] for i in _slots(last)])
    offset = inner + (1 << last)
    for level in reversed(range(last)):
        # The signs are turned in `overlap_angles`, so that the template holds bare parameters only.
        _append(circuit, level, [angles[offset + i] for i in _slots(level)], backwards=True)
    circuit.measure_all()
    return circuit


def overlap_angles(left: FloatArray, right: FloatArray) -> FloatArray:
    """Join two tables of `amplitude_angles` row by row into the parameters of `overlap_circuit`.

    Raises:
        ValueError: the tables differ in shape.
    """
    if left.shape != right.shape:
        raise ValueError(f"left ({left.shape}) and right ({right.shape}) should have the same shape")
    inner = left.shape[1] // 2
    return np.hstack([left[:, :inner], left[:, inner:] - right[:, inner:], -right[:, :inner]])


def append_unloading(circuit: QuantumCircuit, qubits: int) -> None:
    """Append the inverse of the preparation to the first qubits, with the parameters `x` of `unloading_angles`.

    A state psi is then measured as 0 with probability |<x|psi>|^2, the fidelity of what another loader prepared.
    """
    angles = ParameterVector("x", (1 << qubits) - 1)
    for level in reversed(range(qubits)):
        target = qubits - 1 - level
        controls = range(target + 1, qubits)
        append_multiplexer(circuit, target, controls, [angles[i] for i in _slots(level)], backwards=True)


def unloading_angles(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the parameters `x` (m, 2^n - 1) of `append_unloading` for the rows of (m, d).

    Raises:
        ValueError: as `amplitude_angles`.
    """
    return -amplitude_angles(vectors)


def _slots(level: int) -> range:
    """Positions of a level's angles in the table."""
    return range((1 << level) - 1, (2 << level) - 1)


def _append(circuit: QuantumCircuit, level: int, angles: list[Any], *, backwards: bool = False) -> None:
    """Append the multiplexed RY of one level of the tree."""
    target = circuit.num_qubits - 1 - level
    append_multiplexer(circuit, target, range(target + 1, circuit.num_qubits), angles, backwards=backwards)


def append_multiplexer(
    circuit: QuantumCircuit, target: int, controls: Sequence[int], angles: Sequence[Any], *, backwards: bool = False
) -> None:
    """Append a multiplexed RY from its Gray-code angles, the closing CZ of the last control left out.

    Args:
        circuit: circuit that is extended.
        target: qubit that is rotated.
        controls: qubits whose state chooses the rotation.
        angles: 2^controls angles, as `gray_transform` returns them.
        backwards: append the gates in the inverse order.
    """
    for position in range(len(angles)):
        step = len(angles) - 1 - position if backwards else position
        if position:
            # Between rotation i-1 and rotation i the Gray code flips the bit given by the trailing zeros of i.
            later = step + 1 if backwards else step
            circuit.cz(controls[(later & -later).bit_length() - 1], target)
        circuit.ry(angles[step], target)


def gray_transform(angles: FloatArray) -> FloatArray:
    """Turn the angle of each control pattern (m, 2^l) into the angle of each rotation between Gray-code CZs."""
    count = angles.shape[1]
    indices = np.arange(count)
    gray = indices ^ (indices >> 1)
    signs = 1.0 - 2.0 * (np.bitwise_count(gray[:, None] & indices[None, :]) & 1)
    return np.asarray(angles @ signs.T / count)


def _closing_signs(qubits: int) -> FloatArray:
    """Signs of the closing gates left out, CZ of the top qubit with every other one."""
    top = 1 << (qubits - 1)
    indices = np.arange(1 << qubits)
    below = np.bitwise_count(indices & (top - 1)) & 1
    return np.where(indices & top, 1.0 - 2.0 * below, 1.0)

"""Measurement of a loaded real vector in an orthonormal basis of k directions, as one parametric circuit.

A dense unitary would do, but it costs about 4^n 23/48 two-qubit gates and is compiled anew for every basis: 45,000
gates and 45 CPU seconds at 8 qubits. Only k of its rows matter. They are an isometry, reduced here by cosine-sine
decompositions to multiplexed RY rotations in a fixed order, about k 2^n of them (the parameter count of the isometry),
with all angles as parameters. So the template never changes: at 8 qubits and k = 4, loading included, 1,141 rotations
and 1,107 CZ.

Isometries and their gate counts: Iten, Colbeck, Kukuljan, Home, Christandl, arXiv 1501.06911. Cosine-sine
decomposition: Mottonen, Vartiainen, Bergholm, Salomaa, arXiv quant-ph/0404089.

Every multiplexer leaves out its closing CZ, which is a pattern of signs. The pattern commutes with a later multiplexer
if an angle changes sign wherever the pattern differs between the two states of the target, and it has no effect on the
measurement. Bits that a reduction has brought to 0 are treated as 0, because they are 0 in all outcomes below k.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from scipy.linalg import cossin, null_space

from tasks.quantum.encodings import FloatArray, append_multiplexer, gray_transform, qubits_for, tree_angles

Step = tuple[int, tuple[int, ...]]  # target and controls; bit p of an angle's index is the state of controls[p]


def basis_circuit(qubits: int, directions: int) -> QuantumCircuit:
    """Return the measured template for real vectors of 2^qubits amplitudes and `directions` orthonormal rows.

    Outcome i below `directions` has probability (b_i . x)^2 with the angles of `basis_angles`.
    """
    steps = _steps(qubits, _padding(directions))
    angles = ParameterVector("a", sum(1 << len(controls) for _, controls in steps))
    circuit = QuantumCircuit(qubits, name=f"basis{qubits}x{directions}")
    at = 0
    for target, controls in steps:
        append_multiplexer(circuit, target, controls, [angles[i] for i in range(at, at + (1 << len(controls)))])
        at += 1 << len(controls)
    circuit.measure_all()
    return circuit


def basis_angles(vectors: NDArray[np.floating[Any]], basis: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the parameters (m, p) of `basis_circuit` for every row of (m, d) measured in the rows of `basis` (k, d).

    Raises:
        ValueError: basis rows and vectors differ in length, or the rows are not orthonormal.
    """
    if basis.shape[1] != np.shape(vectors)[1]:
        raise ValueError(f"basis rows ({basis.shape[1]}) should be as long as the vectors ({np.shape(vectors)[1]})")
    if not np.allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-8):
        raise ValueError("the rows of the basis should be orthonormal")
    qubits, width = qubits_for(basis.shape[1]), _padding(len(basis))
    loading, turning = tree_angles(vectors), list(_reduction(_completed(basis, qubits, width)))
    steps = _steps(qubits, width)
    # Both act on qubit 0 under all the others, in another order of them.
    joint = loading[-1][:, _bits(steps[qubits - 1][1]) >> 1] + turning[0]
    columns = []
    for flips, angles in zip(_flips(qubits, width), [*loading[:-1], joint, *turning[1:]], strict=True):
        columns.append(np.broadcast_to(gray_transform(np.atleast_2d(angles * flips)), (len(vectors), len(flips))))
    return np.hstack(columns)


def _padding(directions: int) -> int:
    """The next power of two."""
    return 1 << (directions - 1).bit_length()


def _completed(basis: NDArray[np.floating[Any]], qubits: int, width: int) -> FloatArray:
    """Return the columns (2^n, width): the basis padded with zeros and completed to a power of two of directions."""
    rows = np.zeros((len(basis), 1 << qubits))
    rows[:, : basis.shape[1]] = basis
    missing = width - len(rows)
    return np.vstack([rows, null_space(rows)[:, :missing].T]).T if missing else rows.T


@cache
def _steps(qubits: int, width: int) -> tuple[Step, ...]:
    """All multiplexers in order of time; the last of the loading is the first of the reduction."""
    register = tuple(range(width.bit_length() - 1))
    loading: list[Step] = [(target, tuple(range(target + 1, qubits))) for target in reversed(range(1, qubits))]
    turning: list[Step] = []
    for pivot in range(len(register), qubits):
        others = tuple(range(pivot + 1, qubits))
        turning += _rotation_steps(register, (*others, pivot))
        turning.append((pivot, (*others, *register)))
    turning += _rotation_steps(register, ())
    return (*loading, *turning)


def _rotation_steps(register: tuple[int, ...], controls: tuple[int, ...]) -> list[Step]:
    """Multiplexers of a multiplexed rotation matrix on a register."""
    if len(register) < 2:
        return [(bit, controls) for bit in register]
    lower, top = register[:-1], register[-1]
    inner = _rotation_steps(lower, (*controls, top))
    return [*inner, (top, (*controls, *lower)), *inner]


def _reduction(columns: FloatArray) -> Iterator[FloatArray]:
    """Yield the angles, by control pattern, of the multiplexers that take columns (2^n, k) to the first k unit ones.

    In each stage the blocks of k rows are joined in pairs, X = [U1 C; U2 S] W R. Turning by U1 and U2, then C and S
    into 1 and 0, leaves one block W R of the pair.
    """
    k = columns.shape[1]
    blocks = columns.reshape(-1, k, k)
    while len(blocks) > 1:
        halves = blocks.reshape(-1, 2 * k, k)
        turns: tuple[list[FloatArray], list[FloatArray]] = ([], [])
        planes, left = np.empty((k, len(halves))), np.empty((len(halves), k, k))
        for index, pair in enumerate(halves):
            joined, triangle = np.linalg.qr(pair, mode="complete")
            (u1, u2), theta, (w, _) = cossin(joined, p=k, q=k, separate=True)
            cosines, sines = np.cos(theta), np.sin(theta)
            for u, row, kept in ((u1, cosines, turns[0]), (u2, sines, turns[1])):
                if np.linalg.det(u) < 0:
                    u[:, -1] *= -1
                    row[-1] *= -1
                kept.append(u.T)
            planes[:, index] = -2 * np.arctan2(sines, cosines)
            left[index] = w @ triangle[:k]
        yield from _rotation_angles(np.stack([*turns[0], *turns[1]]))
        yield planes.ravel()
        blocks = left
    last = blocks[0].T
    if np.linalg.det(last) < 0:
        last = np.vstack([last[:-1], -last[-1:]])  # one outcome's sign, which is not measured
    yield from _rotation_angles(last[None])


def _rotation_angles(matrices: FloatArray) -> Iterator[FloatArray]:
    """Yield the angles of `_rotation_steps` for rotation matrices (patterns, m, m) of determinant 1."""
    count, m, _ = matrices.shape
    if m == 1:
        return
    if m == 2:
        yield 2 * np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
        return
    half = m // 2
    outer, inner = np.empty((2, count, half, half)), np.empty((2, count, half, half))
    planes = np.empty((half, count))
    for index, matrix in enumerate(matrices):
        left, theta, right = cossin(matrix, p=half, q=half, separate=True)
        cosines, sines = np.cos(theta), np.sin(theta)
        odd = [np.linalg.det(factor) < 0 for factor in (*left, *right)]
        for factor in (f for f, flip in zip(left, odd[:2], strict=True) if flip):
            factor[:, -1] *= -1
        for factor in (f for f, flip in zip(right, odd[2:], strict=True) if flip):
            factor[-1] *= -1
        # The signs taken out turn the last plane; their product is 1, so it stays a rotation.
        cosines[-1] *= -1 if odd[0] != odd[2] else 1
        sines[-1] *= -1 if odd[1] != odd[2] else 1
        outer[:, index], inner[:, index] = left, right
        planes[:, index] = 2 * np.arctan2(sines, cosines)
    yield from _rotation_angles(inner.reshape(-1, half, half))
    yield planes.ravel()
    yield from _rotation_angles(outer.reshape(-1, half, half))


def _bits(controls: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the basis state of every control pattern, all other qubits 0."""
    patterns = np.arange(1 << len(controls))
    states = np.zeros_like(patterns)
    for place, bit in enumerate(controls):
        states |= ((patterns >> place) & 1) << bit
    return states


@cache
def _flips(qubits: int, width: int) -> tuple[FloatArray, ...]:
    """Return for each step the signs of its angles that make up for the closing gates left out before it."""
    states = np.arange(1 << qubits)
    signs = np.ones(1 << qubits)
    found = []
    for target, controls in _steps(qubits, width):
        zero = _bits(controls)
        found.append(signs[zero] * signs[zero | (1 << target)])
        if controls:
            signs = signs * (1.0 - 2.0 * ((states >> controls[-1]) & (states >> target) & 1))
    return tuple(found)

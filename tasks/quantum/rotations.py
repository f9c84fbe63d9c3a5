"""Orthogonal matrices applied to real vectors by amplitude-encoded circuits, and how the results are read.

A block of b = 2^n components is loaded as the amplitudes of n qubits, the orthogonal matrix acts as a gate, and every
basis state is measured. The frequencies are the squares of the result, so its signs are lost. Two ways to read them:

* `magnitudes`: the square roots, with the signs that the *input* had (Aizpurua et al. 2026, arXiv 2605.05914). The
  result is `sign(x) |Q x|`, which is not linear in x.
* `signed`: one more qubit holds the equal superposition u as a reference, and a Hadamard gate on it makes the two
  halves interfere: `p(0, j) - p(1, j) = (Q x)_j u_j`. The estimate is unbiased and linear; its variance at S shots is
  `b (p(0, j) + p(1, j)) / S` at most.

Vectors of one block share a template; one call holds a PUB for each block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qiskit import QuantumCircuit
from qiskit.circuit.library import UnitaryGate
from qiskit.primitives import BaseSamplerV2

from tasks.quantum.encodings import amplitude_angles, amplitude_circuit, qubits_for

FloatArray = NDArray[np.float64]


def rotate_by_circuits(
    matrices: FloatArray, vectors: FloatArray, sampler: BaseSamplerV2, shots: int, *, signed: bool
) -> FloatArray:
    """Estimate `Q_n x` for every block n of every vector.

    Args:
        matrices: (blocks, b, b) orthogonal, b a power of two.
        vectors: (m, blocks * b); a block of zeros stays zero and takes no circuit.
        sampler: where the circuits run: one call, one circuit for each block and vector.
        shots: samples of each circuit.
        signed: whether a reference qubit recovers the signs.

    Returns:
        (m, blocks * b).

    Raises:
        ValueError: the shapes do not match, or b is no power of two of at least 2.
    """
    blocks, size, _ = matrices.shape
    if size < 2 or size & (size - 1) or vectors.shape[1:] != (blocks * size,):
        raise ValueError(f"blocks {matrices.shape} and vectors {vectors.shape} do not match, or b is no power of two")
    parts = np.asarray(vectors, np.float64).reshape(len(vectors), blocks, size)
    norms = np.linalg.norm(parts, axis=2)
    used = [np.flatnonzero(norms[:, n]) for n in range(blocks)]
    jobs = [
        (block_circuit(matrix, signed=signed), amplitude_angles(loaded(parts[rows, n], signed=signed)))
        for n, (matrix, rows) in enumerate(zip(matrices, used, strict=True))
        if len(rows)
    ]
    results = iter(sampler.run(jobs, shots=shots).result() if jobs else ())
    found = np.zeros_like(parts)
    for n, rows in enumerate(used):
        if len(rows):
            outcomes = np.asarray(next(results).data.meas.array)[..., -1]
            cells = 2 * size if signed else size
            frequencies = np.stack([(outcomes == cell).mean(axis=-1) for cell in range(cells)], axis=-1)
            found[rows, n] = read(frequencies, parts[rows, n], signed=signed)
    return found.reshape(vectors.shape)


def block_circuit(matrix: FloatArray, *, signed: bool) -> QuantumCircuit:
    """Return the measured template that loads a vector and applies a matrix to it."""
    size = len(matrix)
    qubits = qubits_for(2 * size if signed else size)
    circuit = amplitude_circuit(qubits)
    if signed:
        whole = np.eye(2 * size)
        whole[:size, :size] = matrix
        circuit.append(UnitaryGate(whole), range(qubits))
        circuit.h(qubits - 1)
    else:
        circuit.append(UnitaryGate(matrix), range(qubits))
    circuit.measure_all()
    return circuit


def loaded(vectors: FloatArray, *, signed: bool) -> FloatArray:
    """Return the amplitudes (m, b or 2 b) that are loaded for vectors (m, b) without zero rows."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if not signed:
        return np.asarray(units)
    return np.asarray(np.hstack([units, np.full_like(units, units.shape[1] ** -0.5)]) / np.sqrt(2))


def read(frequencies: FloatArray, vectors: FloatArray, *, signed: bool) -> FloatArray:
    """Return the estimates (m, b) from the frequencies (m, 2 b or b) of the outcomes, and the loaded vectors."""
    size, norms = vectors.shape[1], np.linalg.norm(vectors, axis=1, keepdims=True)
    if signed:
        return np.asarray(norms * np.sqrt(size) * (frequencies[:, :size] - frequencies[:, size:]))
    return np.asarray(np.sign(vectors) * norms * np.sqrt(frequencies))


def exact_frequencies(matrix: FloatArray, vectors: FloatArray, *, signed: bool) -> FloatArray:
    """Return the probabilities of the outcomes of `block_circuit`, (m, b or 2 b)."""
    turned = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ matrix.T
    if not signed:
        return np.asarray(turned**2)
    reference = turned.shape[1] ** -0.5
    return np.hstack([(turned + reference) ** 2, (turned - reference) ** 2]) / 4

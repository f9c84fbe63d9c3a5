"""Fidelities |<x|y>|^2 of amplitude-encoded real vectors by compute-uncompute, all pairs as one parametric job.

Compute-uncompute is used instead of the SWAP test: at equal shots its variance is F/(1+F) of that of the SWAP test, and
it needs no second copy. It estimates the squared cosine, a quadratic polynomial kernel that one matrix product gives
classically.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.primitives import BaseSamplerV2

from tasks.quantum.encodings import amplitude_angles, overlap_angles, overlap_circuit, qubits_for

FloatArray = NDArray[np.float64]


def estimate_pairs(
    vectors: NDArray[np.floating[Any]], pairs: NDArray[np.integer[Any]], sampler: BaseSamplerV2, shots: int
) -> FloatArray:
    """Estimate the fidelity of each pair (p, 2) of rows of `vectors`: p circuits, one PUB, one job.

    Raises:
        ValueError: no shots, or pairs that are not (p, 2).
    """
    if shots < 1:
        raise ValueError(f"an estimate needs at least 1 shot, not {shots}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs should be (p, 2), not {pairs.shape}")
    if not len(pairs):
        return np.zeros(0)
    angles = amplitude_angles(vectors)
    values = overlap_angles(angles[pairs[:, 0]], angles[pairs[:, 1]])
    circuit = overlap_circuit(qubits_for(vectors.shape[1]))
    outcomes = sampler.run([(circuit, values)], shots=shots).result()[0].data.meas.array
    return np.asarray((outcomes == 0).all(axis=-1).mean(axis=-1), np.float64)


def estimate_overlaps(
    left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]], sampler: BaseSamplerV2, shots: int
) -> FloatArray:
    """Estimate the fidelity of every row of `left` (l, d) with every row of `right` (r, d): (l, r), one job."""
    i, j = np.divmod(np.arange(len(left) * len(right)), max(1, len(right)))
    pairs = np.stack([i, len(left) + j], axis=1)
    return estimate_pairs(np.vstack([left, right]), pairs, sampler, shots).reshape(len(left), len(right))


def gram(vectors: NDArray[np.floating[Any]], sampler: BaseSamplerV2, shots: int) -> FloatArray:
    """Estimate the symmetric matrix of fidelities from n(n-1)/2 circuits in one job; the diagonal is exactly 1.

    Shot noise may cause negative eigenvalues; the matrix is not projected to a positive semidefinite one.
    """
    upper = np.triu_indices(len(vectors), 1)
    result = np.eye(len(vectors))
    result[upper] = estimate_pairs(vectors, np.stack(upper, axis=1), sampler, shots)
    return np.maximum(result, result.T)


def exact_fidelities(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> FloatArray:
    """Return what `estimate_overlaps` estimates, without shot noise: the squared cosines (l, r)."""
    a, b = (np.asarray(m, np.float64) / np.linalg.norm(m, axis=1, keepdims=True) for m in (left, right))
    return np.asarray(np.square(a @ b.T))

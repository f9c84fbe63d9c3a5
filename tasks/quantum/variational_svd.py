"""Variational singular value decomposition of small matrices (Wang, Song, Wang, arXiv 2006.02336) for many at once.

Two circuits U and V, layers of RY on every qubit with CZ around the ring, are trained so that
`sum_j w_j <j|U^T M V|j>` with falling weights w is as large as possible (Ky Fan); the columns of U and V are then the
singular vectors. The loss is computed exactly, on a computer: on a device every term would be an expectation of a
matrix that is no unitary, and building a unitary that contains M takes the decomposition that is looked for.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
RATE = 0.1


def train_vectors(matrices: FloatArray, rank: int, layers: int, steps: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return the trained circuits U and V as orthogonal matrices (m, b, b) each; their first columns are the vectors.

    Args:
        matrices: (m, b, b), b a power of two.
        rank: number of singular vectors.
        layers: layers of each circuit.
        steps: training steps (Adam).
        seed: of the initial angles.

    Raises:
        ValueError: b is no power of two, or the rank is not 1 to b.
    """
    count, size, _ = matrices.shape
    if size < 2 or size & (size - 1) or not 1 <= rank <= size:
        raise ValueError(f"matrices {matrices.shape} need a power of two, and rank {rank} should be 1 to {size}")
    qubits = size.bit_length() - 1
    generator = torch.Generator().manual_seed(seed)
    shape = (2, count, layers, qubits)
    angles = (0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    scale = np.maximum(np.linalg.norm(matrices, axis=(1, 2), keepdims=True), 1e-12)
    targets = torch.from_numpy(matrices / scale)
    weights = torch.arange(rank, 0, -1, dtype=torch.float64) / rank
    optimizer = torch.optim.Adam([angles], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        u, v = (orthogonal(part)[..., :rank] for part in angles)
        loss = -(weights * torch.einsum("mij,mik,mkj->mj", u, targets, v)).sum()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        first, second = (np.asarray(orthogonal(part).numpy(), np.float64) for part in angles)
    return first, second


def orthogonal(angles: torch.Tensor) -> torch.Tensor:
    """Return the matrices (m, 2^n, 2^n) of circuits with angles (m, layers, n)."""
    count, layers, qubits = angles.shape
    size = 1 << qubits
    state = torch.eye(size, dtype=angles.dtype).expand(count, size, size)
    ring = _ring_signs(qubits).to(angles.dtype)
    for layer in range(layers):
        for qubit in range(qubits):
            half = angles[:, layer, qubit, None, None, None] / 2
            pairs = state.reshape(count, size >> (qubit + 1), 2, (1 << qubit) * size)
            zero, one = pairs[:, :, 0], pairs[:, :, 1]
            c, s = torch.cos(half[..., 0]), torch.sin(half[..., 0])
            state = torch.stack([c * zero - s * one, s * zero + c * one], dim=2).reshape(count, size, size)
        if layer < layers - 1:
            state = state * ring[:, None]
    return state


def _ring_signs(qubits: int) -> torch.Tensor:
    bits = np.arange(1 << qubits)[None] >> np.arange(qubits)[:, None] & 1
    pairs = [(q, (q + 1) % qubits) for q in range(qubits if qubits > 2 else qubits - 1)]
    crossings = sum((bits[a] & bits[b] for a, b in pairs), np.zeros(1 << qubits, np.int64))
    return torch.from_numpy(1.0 - 2.0 * (crossings & 1))

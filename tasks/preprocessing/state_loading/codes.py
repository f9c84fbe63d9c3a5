"""Classical codes of dense vectors: principal components, transform and product quantisation, matrix products.

What a code learns (axes, bounds, levels, codebooks) is learnt once from further vectors and serves all that follow; the
other functions take unit vectors with it and return them restored from `size` bytes each, which do not count what was
learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

FloatArray = NDArray[np.float64]
LEVELS = 256  # of one byte
BITS = 8  # bits of one byte; also the most that transform coding gives to one component
LLOYD_MAX = 20  # steps
KMEANS_STEPS = 25


def principal_axes(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Return the axes (d, d) of the vectors as columns, the strongest first, without centring: cosines are kept."""
    rows = np.asarray(vectors, np.float64)
    return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1])


def rounded(values: NDArray[np.floating[Any]], low: Any, high: Any) -> FloatArray:
    """Round to the middle of one of 256 equal steps between the bounds, beyond which values are clipped."""
    step = (np.asarray(high, np.float64) - low) / LEVELS
    number = np.clip(np.floor((values - low) / np.where(step > 0, step, 1.0)), 0, LEVELS - 1)
    return np.asarray(low + (number + 0.5) * step)


def component_bounds(learnt: FloatArray, size: int) -> FloatArray:
    """Return the largest absolute value of each of the first `size` components."""
    return np.asarray(np.abs(learnt[:, :size]).max(axis=0))


def leading_components(vectors: FloatArray, bounds: FloatArray) -> FloatArray:
    """Keep the components that have bounds, a byte each, clipped to them."""
    size = len(bounds)
    kept = np.zeros_like(vectors)
    kept[:, :size] = rounded(vectors[:, :size], -bounds, bounds)
    return kept


def transform_levels(learnt: FloatArray, size: int) -> dict[int, FloatArray]:
    """Distribute the bits over the components by variance; return the levels of each that got some (Lloyd 1982).

    Each bit goes to the component with the largest error and reduces that error to a quarter: reverse water-filling
    (Cover and Thomas, chapter 10) in whole bits.
    """
    error = np.square(learnt).mean(axis=0)
    bits = np.zeros(len(error), np.intp)
    for _ in range(BITS * size):
        chosen = int(np.where(bits < BITS, error, 0.0).argmax())
        bits[chosen] += 1
        error[chosen] /= 4
    return {int(c): _levels(np.sort(learnt[:, c]), 1 << int(bits[c])) for c in np.flatnonzero(bits)}


def transform_coded(vectors: FloatArray, levels: Mapping[int, FloatArray]) -> FloatArray:
    """Round each component that has levels to the nearest one."""
    decoded = np.zeros_like(vectors)
    for component, its in levels.items():
        decoded[:, component] = its[np.searchsorted(_borders(its), vectors[:, component])]
    return decoded


def _levels(values: FloatArray, count: int) -> FloatArray:
    # The optimal levels of a Gaussian have the density of a Gaussian of three times its variance (Panter, Dite 1951).
    levels = values.mean() + values.std() * np.sqrt(3) * ndtri((np.arange(count) + 0.5) / count)
    for _ in range(LLOYD_MAX):
        nearest = np.searchsorted(_borders(levels), values)
        sums, members = np.bincount(nearest, values, count), np.bincount(nearest, minlength=count)
        levels = np.where(members > 0, sums / np.maximum(members, 1), levels)
    return np.asarray(levels)


def _borders(levels: FloatArray) -> FloatArray:
    return np.asarray((levels[1:] + levels[:-1]) / 2)


def codebooks(learnt: FloatArray, size: int, seed: int) -> list[tuple[NDArray[np.intp], FloatArray]]:
    """Return `size` groups of components, each with 256 centroids by k-means (Jegou, Douze, Schmid, TPAMI 2011).

    Components are dealt to the groups in turns by their strength, so that every group has about the same variance.
    """
    from sklearn.cluster import KMeans  # imported here because the other codes do not need it
    from threadpoolctl import threadpool_limits

    books = []
    with threadpool_limits(1):
        for group in range(min(size, learnt.shape[1])):
            own = np.arange(group, learnt.shape[1], size)
            distinct = len(np.unique(learnt[:, own], axis=0))
            model = KMeans(min(LEVELS, distinct), n_init=1, max_iter=KMEANS_STEPS, random_state=seed)
            books.append((own, np.asarray(model.fit(learnt[:, own]).cluster_centers_, np.float64)))
    return books


def product_quantised(vectors: FloatArray, books: Sequence[tuple[NDArray[np.intp], FloatArray]]) -> FloatArray:
    """Replace each group of components by the nearest centroid of its codebook."""
    decoded = np.zeros_like(vectors)
    for own, centres in books:
        part = vectors[:, own]
        decoded[:, own] = centres[(np.square(centres).sum(axis=1) - 2 * part @ centres.T).argmin(axis=1)]
    return decoded


def bond_for(qubits: int, size: int) -> int:
    """Return the largest bond dimension of a matrix product over `qubits` bits with at most `size` numbers (or 1)."""
    bond = 1
    while matrix_product_size(qubits, bond + 1) <= size and bond < 1 << (qubits // 2):
        bond += 1
    return bond


def matrix_product_size(qubits: int, bond: int) -> int:
    """Return the numbers in the tensors of a matrix product of bond dimension at most `bond`."""
    ranks = [min(bond, 1 << k, 1 << (qubits - k)) for k in range(qubits + 1)]
    return sum(2 * a * b for a, b in pairwise(ranks))


def matrix_product_coded(vectors: FloatArray, bond: int) -> FloatArray:
    """Truncate each vector of 2^n numbers to a matrix product, a byte for each entry of its tensors.

    Successive singular value decompositions (Oseledets 2011); the tensors but the last are isometries, so all
    entries lie between -1 and 1.
    """
    return np.stack([_matrix_product(vector, bond) for vector in vectors])


def _matrix_product(vector: FloatArray, bond: int) -> FloatArray:
    rest, decoded = vector[None, :], np.ones((1, 1))
    while rest.shape[1] > 2:
        left, singular, right = np.linalg.svd(rest.reshape(rest.shape[0] * 2, -1), full_matrices=False)
        rank = min(bond, len(singular))
        tensor = rounded(left[:, :rank], -1.0, 1.0)
        decoded = (decoded @ tensor.reshape(decoded.shape[1], -1)).reshape(-1, rank)
        rest = singular[:rank, None] * right[:rank]
    length = np.linalg.norm(rest)
    return np.asarray(decoded @ rounded(rest / (length if length > 0 else 1.0), -1.0, 1.0)).ravel()

"""Two-sample tests: is a window drawn from the distribution of the reference?

The permutation p-values (1+b)/(1+B) are exact if the kernel treats all members of the pooled sample alike, that is, if
centre and bandwidth come from other data than the two samples. All permutations use one Gram matrix, so they need no
further kernel values and no further circuits.

MMD: Gretton, Borgwardt, Rasch, Scholkopf, Smola, JMLR 13 (2012), eq. 3 (unbiased); in linear time: section 6 there.
Pool of kernels on one set of permutations: Biggs, Schrab, Gretton, arXiv 2306.08777, here with a soft
maximum of the standardised statistics; with a quantum member: Terada et al., arXiv 2511.20941.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import ks_2samp

FloatArray = NDArray[np.float64]
TIE = 1e-12
SHARPNESS = 2.0  # of the soft maximum


def memberships(reference: int, window: int, permutations: int, rng: np.random.Generator) -> FloatArray:
    """Return which members form the reference in each split: (1 + B, N) of 0 and 1, the observed split first.

    Raises:
        ValueError: a sample has fewer than two members, or `permutations` is less than 1.
    """
    if reference < 2 or window < 2:
        raise ValueError(f"both samples need at least 2 members, got {reference} and {window}")
    if permutations < 1:
        raise ValueError(f"at least 1 permutation is needed, not {permutations}")
    observed = np.repeat([1.0, 0.0], [reference, window])
    return np.vstack([observed, rng.permuted(np.tile(observed, (permutations, 1)), axis=1)])


def mmd_statistics(gram: FloatArray, members: FloatArray) -> FloatArray:
    """Return the unbiased squared MMD of every split: (1 + B,) from a Gram matrix (N, N) and memberships (1 + B, N).

    The diagonal of the Gram matrix is not used.
    """
    kernel = np.array(gram, np.float64)
    np.fill_diagonal(kernel, 0.0)
    r = members[0].sum()
    m = members.shape[1] - r
    rows = members @ kernel
    within_reference = np.einsum("bn,bn->b", rows, members)
    across = rows.sum(axis=1) - within_reference
    within_window = kernel.sum() - within_reference - 2 * across
    result: FloatArray = within_reference / (r * (r - 1)) + within_window / (m * (m - 1)) - 2 * across / (r * m)
    return result


def fuse(statistics: Sequence[FloatArray]) -> FloatArray:
    """Pool statistics of several kernels on the same splits: a soft maximum of the standardised ones of each split.

    Standardised over all splits, the observed one among them, so that the pooled statistic is as exchangeable as
    its members. Softer than the maximum, it loses less where several kernels see the same shift.
    """
    table = np.stack(statistics)
    spread = table.std(axis=1, keepdims=True)
    z = (table - table.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return np.asarray(logsumexp(SHARPNESS * z, axis=0) - np.log(len(z))) / SHARPNESS


def linear_time_terms(kernel_values: FloatArray) -> FloatArray:
    """Return h = k(x, x') + k(y, y') - k(x, y') - k(x', y) of each quadruple (Gretton et al. 2012, lemma 14): (q,).

    Args:
        kernel_values: kernel values of the quadruples, (q, 4), in the order of the formula.
    """
    within, across = kernel_values[:, :2].sum(axis=1), kernel_values[:, 2:].sum(axis=1)
    return np.asarray(within - across)


def sign_flips(terms: FloatArray, flips: int, rng: np.random.Generator) -> FloatArray:
    """Return the mean of the terms and of `flips` random sign patterns of them: (1 + B,), the observed one first.

    Exchanging x and y in a quadruple turns the sign of its h, so without drift every pattern is as likely, and the
    p-value of `permutation_p` is exact without further kernel values.

    Raises:
        ValueError: there is no term, or `flips` is less than 1.
    """
    if not len(terms) or flips < 1:
        raise ValueError(f"at least 1 quadruple and 1 flip are needed, got {len(terms)} and {flips}")
    signs = np.vstack([np.ones(len(terms)), rng.choice((-1.0, 1.0), size=(flips, len(terms)))])
    return np.asarray(signs @ terms / len(terms))


def permutation_p(statistics: FloatArray) -> float:
    """Return (1 + b) / (1 + B), b = number of permuted statistics not below the observed one, which is first."""
    observed = statistics[0]
    slack = TIE * max(1.0, abs(float(observed)))
    return float((1 + np.count_nonzero(statistics[1:] >= observed - slack)) / len(statistics))


def ks_bonferroni(reference: NDArray[np.floating[Any]], window: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return (p, D): the largest two-sample Kolmogorov-Smirnov distance over the columns, p times their number.

    The exact p-value falls with D, so the column of the largest D is the only one that needs a p-value.
    """
    r, m = len(reference), len(window)
    pooled = np.vstack([reference, window])
    order = np.argsort(pooled, axis=0, kind="stable")
    steps = np.where(order < r, 1 / r, -1 / m).cumsum(axis=0)
    values = np.take_along_axis(pooled, order, axis=0)
    # Compare only after the last of equal values, where both distribution functions have stepped.
    last = np.vstack([values[1:] != values[:-1], np.ones((1, values.shape[1]), bool)])
    distance = np.where(last, np.abs(steps), 0.0).max(axis=0)
    column = int(distance.argmax())
    p = float(ks_2samp(reference[:, column], window[:, column], method="exact").pvalue)
    return min(1.0, p * pooled.shape[1]), float(distance[column])


def squared_distances(
    vectors: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]] | None = None
) -> FloatArray:
    """Return all squared Euclidean distances of two sets (N, M), or within one, by one matrix product."""
    centre = np.mean(vectors, axis=0, dtype=np.float64)  # centred, because smaller numbers lose less to cancellation
    left = vectors - centre
    right = left if others is None else others - centre
    norms = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    squared = np.maximum(norms - 2 * left @ right.T, 0.0)
    if others is None:
        np.fill_diagonal(squared, 0.0)
    return np.asarray(squared)


def pooled(reference: FloatArray, across: FloatArray, window: FloatArray) -> FloatArray:
    """Assemble the matrix (N, N) of a pooled sample; the block of the reference is computed once for all windows."""
    return np.block([[reference, across], [across.T, window]])


def median_distance(vectors: NDArray[np.floating[Any]]) -> float:
    """Return the median Euclidean distance of the pairs, the bandwidth heuristic; 1 if all points coincide."""
    pairs = squared_distances(vectors)[np.triu_indices(len(vectors), 1)]
    return float(np.sqrt(np.median(pairs))) or 1.0


def rbf(distances: FloatArray, bandwidth: float) -> FloatArray:
    """Return exp(-d^2 / (2 bandwidth^2)) of squared distances."""
    return np.asarray(np.exp(-distances / (2 * bandwidth**2)))

"""What the arms of drift share: permutation tests by Gram matrices, the pairs that circuits estimate, and the pre-test.

The geometric difference of a quantum kernel to the Gaussian one is computed on texts of the background before a circuit
runs: see `tasks.quantum.gain`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.contract import NothingToGain
from tasks.monitoring.drift.problem import Drift, Vectors, Verdicts
from tasks.monitoring.two_sample import (
    FloatArray,
    fuse,
    median_distance,
    memberships,
    mmd_statistics,
    permutation_p,
    pooled,
    rbf,
    squared_distances,
)
from tasks.quantum.gain import geometric_difference

log = logging.getLogger("ketcycle.monitoring")

RBF_FACTOR = 0.71  # of the median distance; tuned by `python -m benchmarks.kernels`
SAMPLED = 100  # texts of the background that the geometric difference is computed on


def judge(problem: Drift, tests: Sequence[tuple[float, float]]) -> Verdicts:
    """Turn (p, statistic) of every window into decisions at the level."""
    p_values = tuple(float(p) for p, _ in tests)
    return Verdicts(p_values, tuple(p <= problem.level for p in p_values), tuple(float(s) for _, s in tests))


def by_kernels(problem: Drift, grams: Iterable[list[FloatArray]], rng: np.random.Generator) -> Verdicts:
    """Judge every window by the MMD of its Gram matrices of the pooled sample; several are pooled by `fuse`."""
    tests = []
    for window, members_of in zip(problem.windows, grams, strict=True):
        splits = memberships(len(problem.reference), len(window), problem.permutations, rng)
        statistics = [mmd_statistics(gram, splits) for gram in members_of]
        joint = fuse(statistics) if len(statistics) > 1 else statistics[0]
        tests.append((permutation_p(joint), float(joint[0])))
    return judge(problem, tests)


def distances(problem: Drift) -> list[FloatArray]:
    """Squared distances within each pooled sample; the reference's block is computed once."""
    reference = problem.reference
    block = squared_distances(reference)
    return [pooled(block, squared_distances(reference, w), squared_distances(w)) for w in problem.windows]


def blocks(problem: Drift) -> list[NDArray[np.intp]]:
    """Rows of `kernel_states` in the pooled sample of each window."""
    r = len(problem.reference)
    ends = r + np.cumsum([len(window) for window in problem.windows])
    return [np.r_[0:r, end - len(w) : end] for w, end in zip(problem.windows, ends, strict=True)]


def kernel_pairs(problem: Drift) -> NDArray[np.intp]:
    """Return the pairs (p, 2) of rows that the tests need: the block of the reference once for all windows."""
    r = len(problem.reference)
    pairs = [np.stack(np.triu_indices(r, 1), axis=1)]
    for block in blocks(problem):
        upper = block[np.stack(np.triu_indices(len(block), 1), axis=1)]
        pairs.append(upper[upper[:, 1] >= r])
    return np.vstack(pairs)


def by_pairs(problem: Drift, pairs: NDArray[np.intp], values: FloatArray, rng: np.random.Generator) -> Verdicts:
    """Judge every window by the kernel values (p,) of `kernel_pairs`."""
    size = len(problem.reference) + sum(map(len, problem.windows))
    gram = np.zeros((size, size))
    gram[pairs[:, 0], pairs[:, 1]] = gram[pairs[:, 1], pairs[:, 0]] = values
    return by_gram(problem, gram, rng)


def by_gram(problem: Drift, gram: FloatArray, rng: np.random.Generator) -> Verdicts:
    """Judge every window by the Gram matrix of reference and windows, in turn."""
    return by_kernels(problem, ([gram[np.ix_(block, block)]] for block in blocks(problem)), rng)


def check_gain(problem: Drift, name: str, gram: Callable[[Drift, Vectors], FloatArray]) -> None:
    """Skip an arm whose kernel can gain nothing over the Gaussian kernel, before it runs a circuit.

    The test takes exact values of the quantum kernel on up to 100 texts of the background.

    Raises:
        NothingToGain: the geometric difference is below the share of its square root that the problem asks for.
    """
    if problem.least_gain <= 0:
        return
    found, least = gain(problem, gram), problem.least_gain * np.sqrt(len(problem.calm[:SAMPLED]))
    said = f"geometric difference of the {name} kernel to the Gaussian kernel {found:.2f}, {least:.2f} would be needed"
    log.info("%s", said)
    if found < least:
        raise NothingToGain(f"nothing to gain: {said}")


def gain(problem: Drift, gram: Callable[[Drift, Vectors], FloatArray]) -> float:
    """Return the geometric difference of a quantum kernel to the Gaussian kernel on texts of the background."""
    texts = problem.calm[:SAMPLED]
    gaussian = rbf(squared_distances(texts), RBF_FACTOR * median_distance(problem.calm))
    return geometric_difference(gram(problem, texts), gaussian)

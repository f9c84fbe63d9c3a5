from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from tasks.monitoring.two_sample import (
    fuse,
    ks_bonferroni,
    median_distance,
    memberships,
    mmd_statistics,
    permutation_p,
    rbf,
    squared_distances,
)


def naive_mmd(kernel: np.ndarray, reference: list[int], window: list[int]) -> float:
    """Gretton et al. 2012, eq. 3, as it stands."""
    r, m = len(reference), len(window)
    first = sum(kernel[i, j] for i in reference for j in reference if i != j) / (r * (r - 1))
    second = sum(kernel[i, j] for i in window for j in window if i != j) / (m * (m - 1))
    return float(first + second - 2 * sum(kernel[i, j] for i in reference for j in window) / (r * m))


def test_the_statistic_of_every_split_is_the_unbiased_mmd() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 3))
    kernel = rbf(squared_distances(vectors), 1.3)
    splits = memberships(4, 5, 20, rng)
    found = mmd_statistics(kernel, splits)
    for value, split in zip(found, splits, strict=True):
        expected = naive_mmd(kernel, list(np.flatnonzero(split)), list(np.flatnonzero(1 - split)))
        assert value == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(splits[0], [1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert (splits.sum(axis=1) == 4).all()


def test_the_p_value_agrees_with_all_splits_enumerated() -> None:
    rng = np.random.default_rng(1)
    vectors = np.vstack([rng.normal(size=(4, 2)), rng.normal(1.0, 1, size=(4, 2))])
    kernel = rbf(squared_distances(vectors), 1.0)
    everyone = [naive_mmd(kernel, list(c), [i for i in range(8) if i not in c]) for c in combinations(range(8), 4)]
    exact = np.mean(np.array(everyone) >= everyone[0] - 1e-12)
    sampled = permutation_p(mmd_statistics(kernel, memberships(4, 4, 9999, rng)))
    assert sampled == pytest.approx(exact, abs=0.015)


def test_the_p_value_counts_the_observed_split_and_ties() -> None:
    assert permutation_p(np.array([5.0, 1, 2, 3])) == 0.25
    assert permutation_p(np.array([1.0, 1, 1, 1])) == 1.0
    assert permutation_p(np.array([2.0, 2, 3, 1])) == 0.75


def test_pooling_is_a_soft_maximum_of_the_standardised_statistics() -> None:
    weak, strong = np.array([0.0, 1, -1, 0]), np.array([300.0, 0, 0, 0])
    joint = fuse([weak, strong])
    assert joint[0] == pytest.approx(np.log((1 + np.exp(2 * np.sqrt(3))) / 2) / 2)
    assert np.sqrt(3) - np.log(2) / 2 < joint[0] < np.sqrt(3)
    assert permutation_p(joint) == 0.25
    np.testing.assert_allclose(fuse([strong, strong]), fuse([strong]))
    np.testing.assert_array_equal(fuse([np.zeros(3), np.zeros(3)]), 0)  # a constant kernel decides nothing


@pytest.mark.parametrize("decimals", [10, 0])
def test_kolmogorov_smirnov_agrees_with_scipy_on_every_column_also_with_ties(decimals: int) -> None:
    rng = np.random.default_rng(2)
    reference, window = rng.normal(size=(12, 6)).round(decimals), rng.normal(0.5, 1, size=(9, 6)).round(decimals)
    each = [ks_2samp(reference[:, c], window[:, c], method="exact") for c in range(6)]
    p, distance = ks_bonferroni(reference, window)
    assert distance == pytest.approx(max(r.statistic for r in each))
    assert p == pytest.approx(min(1.0, 6 * min(r.pvalue for r in each)))


def test_bandwidth_and_bad_samples() -> None:
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2.0
    assert median_distance(np.zeros((3, 2))) == 1.0
    with pytest.raises(ValueError, match="at least 2 members"):
        memberships(1, 5, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="permutation"):
        memberships(3, 5, 0, np.random.default_rng(0))

import math

import numpy as np
import pytest
from scipy import stats

from tasks.statistics import holm, lower_mean, mean_p, share_above_p, share_p, upper_share


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (3, 40), (20, 20)])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_the_upper_bound_is_clopper_and_pearson_s(hits: int, n: int, alpha: float) -> None:
    interval = stats.binomtest(hits, n).proportion_ci(1 - 2 * alpha, method="exact")
    assert upper_share(hits, n, alpha) == pytest.approx(interval.high)


def test_no_hit_has_the_closed_form() -> None:
    assert upper_share(0, 20, 0.025) == pytest.approx(1 - 0.025 ** (1 / 20))


def test_the_share_test_is_the_binomial_test() -> None:
    for hits in range(21):
        assert share_p(hits, 20, 0.2) == pytest.approx(stats.binomtest(hits, 20, 0.2, "less").pvalue)
        assert share_above_p(hits, 20, 0.2) == pytest.approx(stats.binomtest(hits, 20, 0.2, "greater").pvalue)


def test_bound_and_test_agree() -> None:
    for n in (20, 40, 80):
        for hits in range(n + 1):
            for alpha in (0.025, 0.0125, 0.00625):
                assert (upper_share(hits, n, alpha) <= 0.2) == (share_p(hits, n, 0.2) <= alpha)


def test_the_mean_test_is_student_s() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 20)
    assert mean_p(values, -0.2) == pytest.approx(stats.ttest_1samp(values, -0.2, alternative="greater").pvalue)
    bound = lower_mean(values, 0.025)
    assert bound == pytest.approx(stats.t.interval(0.95, 19, values.mean(), stats.sem(values))[0])
    assert mean_p(values, bound) == pytest.approx(0.025)


def test_values_without_spread_are_decided_by_their_mean() -> None:
    same = np.full(20, -0.05)
    assert mean_p(same, -0.1) == pytest.approx(0.0)
    assert lower_mean(same, 0.01) == pytest.approx(-0.05)
    assert mean_p(np.zeros(20), 0.0) == 1.0


def test_what_is_not_finite_or_too_few_proves_nothing() -> None:
    broken = np.array([0.1, 0.2, math.nan])
    assert (mean_p(broken, 0.0), lower_mean(broken, 0.05)) == (1.0, -math.inf)
    assert (mean_p(np.array([1.0]), 0.0), lower_mean(np.array([1.0]), 0.05)) == (1.0, -math.inf)
    assert upper_share(0, 0, 0.05) == 1.0
    assert lower_mean(np.arange(9.0), 0.0) == -math.inf


def test_holm_steps_down_while_hypotheses_fall() -> None:
    # Holm's own procedure: .01 <= .05/4, .02 > .05/3, and all behind stand
    levels = holm({"c": 0.03, "a": 0.01, "b": 0.02, "d": 0.04}, 0.05, 4)
    assert levels == [("a", 0.0125), ("b", 0.05 / 3), ("c", 0.05 / 3), ("d", 0.05 / 3)]
    all_fall = holm({"a": 0.001, "b": 0.002, "c": 0.04}, 0.05, 3)
    assert [level for _, level in all_fall] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])


def test_hypotheses_not_tested_yet_count_in_the_family() -> None:
    assert holm({"a": 0.02}, 0.05, 3) == [("a", pytest.approx(0.05 / 3))]

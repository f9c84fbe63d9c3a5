import numpy as np
import pytest
from scipy.stats import ttest_ind

from tasks.monitoring.watching.harm import Verdict, compare_quality, estimate_performance

RNG = np.random.default_rng(1)


def test_the_interval_is_that_of_welch() -> None:
    a, b = RNG.normal(-3, 0.4, 60), RNG.normal(-3.3, 0.8, 40)
    found = compare_quality(a, b, margin=0.0)
    peer = ttest_ind(b, a, equal_var=False)
    interval = peer.confidence_interval(0.95)
    assert found is not None
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high])
    assert found.p_value == pytest.approx(ttest_ind(b, a, equal_var=False, alternative="less").pvalue)


def test_quality_is_held_harmed_or_unclear() -> None:
    calm = RNG.normal(-3, 0.3, 200)
    assert compare_quality(calm, RNG.normal(-3, 0.3, 200)).verdict is Verdict.HELD  # type: ignore[union-attr]
    assert compare_quality(calm, RNG.normal(-4, 0.3, 200)).verdict is Verdict.HARMED  # type: ignore[union-attr]
    assert compare_quality(calm, RNG.normal(-3.1, 0.9, 8)).verdict is Verdict.UNCLEAR  # type: ignore[union-attr]
    assert compare_quality(calm, np.array([np.nan, -3.0])) is None
    assert compare_quality(np.full(3, -3.0), np.full(3, -3.0)).verdict is Verdict.HELD  # type: ignore[union-attr]


def test_the_performance_estimate_is_right_where_confidence_keeps_its_meaning() -> None:
    """Outcomes are Bernoulli in a known function of confidence; the current traffic is less confident."""
    confidence, current = RNG.uniform(0.2, 1, 3000), RNG.uniform(0.1, 0.6, 3000)
    outcome = (RNG.random(3000) < confidence**2).astype(float)
    estimate, low, high = estimate_performance(confidence, outcome, current, RNG, resamples=50)
    truth = float(np.mean(np.clip(current, 0.2, 1) ** 2))
    assert low < estimate < high
    assert abs(estimate - truth) < 0.03
    assert high - low < 0.08


def test_too_little_to_calibrate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 known outcomes"):
        estimate_performance(np.zeros(3), np.zeros(3), np.zeros(3), RNG)
    with pytest.raises(ValueError, match="should be as many"):
        estimate_performance(np.zeros(3), np.zeros(4), np.zeros(3), RNG)

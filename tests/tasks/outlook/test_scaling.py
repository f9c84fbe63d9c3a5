"""Fits of size against a quantity: known laws are found, their forms told apart, their uncertainty drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.outlook.assumptions import Assumptions, load_assumptions
from tasks.outlook.scaling import fit, trend

SIZES = np.array([4.0, 8, 12, 16, 24, 32])


@pytest.fixture(scope="module")
def assumed() -> Assumptions:
    return load_assumptions(n=2000)


def units(n: int) -> list[str]:
    return [str(i) for i in range(n)]


@pytest.mark.parametrize(
    ("form", "values", "slope"),
    [("power", 3 * SIZES**2.5, 2.5), ("exponential", 0.1 * np.exp(0.7 * SIZES), 0.7)],
)
def test_an_exact_law_is_found_with_its_form_and_no_spread(form, values, slope, assumed):
    found = fit(SIZES, values, units(6))
    assert found.lines[0].form == form
    assert found.lines[0].slope == pytest.approx(slope)
    assert found.weight == pytest.approx(1.0)
    far = found.at(np.array([100.0]), assumed, "fit exact")
    expected = 3 * 100**2.5 if form == "power" else 0.1 * np.exp(70)
    assert far == pytest.approx(np.full((1, 2000), expected), rel=1e-9)


def test_the_interval_of_the_slope_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    x, hits, tries = np.repeat(SIZES, 4), 0, 400
    for _ in range(tries):
        line = fit(x, x**1.5 * np.exp(rng.normal(0, 0.3, len(x))), units(len(x))).lines
        power = next(one for one in line if one.form == "power")
        low, high = power.interval() or (0.0, 0.0)
        hits += low <= 1.5 <= high
    assert 0.91 <= hits / tries <= 0.98


def test_instances_of_one_unit_are_clustered():
    rng = np.random.default_rng(2)
    x = np.repeat(SIZES, 8)
    y = x * np.exp(np.tile(rng.normal(0, 0.5, 8), 6))
    sources = [str(i % 8) for i in range(len(x))]
    alone, together = fit(x, y, units(len(x))).lines[0], fit(x, y, sources).lines[0]
    assert together.degrees == 7
    assert together.level_error > 2 * alone.level_error


def test_two_noisy_sizes_do_not_tell_the_forms_apart_and_draws_use_both(assumed):
    x = np.repeat([8.0, 16.0], 6)
    y = x * np.exp(np.random.default_rng(3).normal(0, 0.2, 12))
    found = fit(x, y, units(12))
    assert found.weight == pytest.approx(0.5, abs=0.01)
    far = np.log10(found.at(np.array([400.0]), assumed, "fit two")[0])
    assert far.max() - far.min() > 5  # the power law says 400, the exponential an astronomical number


def test_what_falls_with_the_size_does_not_fall_beyond_the_evidence(assumed):
    found = fit(SIZES, 100 / SIZES, units(6))
    assert found.at(np.array([320.0]), assumed, "fit falling") == pytest.approx(np.full((1, 2000), 100 / 32))


def test_zeros_stay_zero_and_one_size_is_constant(assumed):
    assert fit(SIZES, np.zeros(6), units(6)).lines[0].form == "zero"
    one = fit([8, 8, 8], [1.0, 2.0, 3.0], units(3))
    assert one.lines[0].form == "constant"
    assert np.median(one.at(np.array([8.0, 800.0]), assumed, "fit one")) == pytest.approx(2.0)
    assert fit(SIZES, [0, 1, 2, 3, 4, 5], units(6)).lines[0].form == "constant"


def test_a_quality_changes_by_the_known_amount_with_each_doubling():
    sizes = np.repeat([4.0, 8, 16, 32], 5)
    exact = trend(sizes, 0.9 - 0.05 * np.log2(sizes), units(20))
    assert exact.interval is not None
    assert (exact.doubling, *exact.interval) == pytest.approx((-0.05, -0.05, -0.05))
    noisy = trend(sizes, -0.05 * np.log2(sizes) + np.random.default_rng(7).normal(0, 0.1, 20), units(20))
    assert noisy.interval is not None
    assert noisy.interval[0] < -0.05 < noisy.interval[1]
    assert trend([8.0, 8.0], [1.0, 2.0], units(2)) is None


def test_a_fit_gives_means_and_not_medians():
    rng = np.random.default_rng(4)
    x = np.repeat(SIZES, 300)
    y = x * np.exp(rng.normal(0, 1.0, len(x)))
    found = fit(x, y, units(len(x)))
    at = found.at(np.array([16.0]), load_assumptions(n=50), "fit means")
    assert np.median(at) == pytest.approx(16 * np.exp(0.5), rel=0.1)

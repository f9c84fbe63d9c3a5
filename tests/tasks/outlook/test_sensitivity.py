"""Tornado and value of information on a ratio whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.outlook.sensitivity import one_at_a_time, tornado, value_of_information


def test_the_wider_assumption_has_the_wider_bar():
    quantiles, n = one_at_a_time(["a", "b", "c"])
    ratio = 10 ** (2 * (quantiles["a"] - 0.5) + 4 * (quantiles["b"] - 0.5))
    assert n == 7
    bars = tornado(["a", "b", "c"], ratio)
    assert [bar.name for bar in bars] == ["b", "a"]  # c moves nothing
    assert bars[0].swing == pytest.approx(4 * 0.9)
    assert (bars[1].low, bars[1].high) == pytest.approx((10**-0.9, 10**0.9))


def test_knowing_what_decides_is_worth_most():
    rng = np.random.default_rng(5)
    decides, noise = rng.uniform(-1, 1, 20_000), rng.uniform(-1, 1, 20_000)
    log_ratio = 0.2 + decides + 0.01 * noise
    first, second = value_of_information(log_ratio, {"noise": noise, "decides": decides})
    assert first.name == "decides"
    # min of (0, .2 + u) for u uniform on [-1, 1]: the gain is (1 - .2)^2 / 4
    assert first.gain == pytest.approx(0.16, abs=0.01)
    assert first.flips == pytest.approx(0.4, abs=0.05)
    assert (second.flips, second.gain) == (0.0, 0.0)


def test_nothing_is_worth_knowing_where_the_answer_is_clear():
    draws = np.random.default_rng(6).normal(size=1000)
    assert all(k.flips == 0 and k.gain == 0 for k in value_of_information(9 + draws, {"a": draws}))

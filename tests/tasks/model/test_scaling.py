from __future__ import annotations

import numpy as np
import pytest

from tasks.model.scaling import Power, Rules, fresh_tokens, optimum

FITTED = Rules(
    floor=1.0, model=0.5, model_exponent=0.5, data=0.5, data_exponent=0.5, residual=0.01,
    rates=Power(1.0, -0.125), batch=Power(8.0, 0.25), weight_decay=0.1,
    seconds=2e-5, seconds_per_flop=1e-11, largest=1e12,
)  # fmt: skip
RATES = {"matrix_lr": 0.02, "other_lr": 0.03}


def test_the_loss_is_the_floor_and_two_powers() -> None:
    assert FITTED.loss(4e5, 1e5) == pytest.approx(1.0 + 0.5 / 2 + 0.5)
    assert FITTED.loss(1e30, 1e30) == pytest.approx(1.0)


def test_text_that_is_read_again_is_worth_less_than_new_text() -> None:
    """Four readings are worth nearly four texts, forty no more than the limit of 16.4 (Muennighoff et al. 2023)."""
    worth = [fresh_tokens(epochs * 1e5, 1e5) / 1e5 for epochs in (0.5, 1, 4, 1000)]
    assert worth == pytest.approx([0.5, 1, 3.73, 16.4], abs=0.01)


def test_the_smaller_budget_counts() -> None:
    assert FITTED.tokens(2e6, flops=2e12) == pytest.approx(1e6)
    assert FITTED.tokens(2e6, flops=2e12, cpu_s=20.0) == pytest.approx(20 / (2e-5 + 2e-5))
    with pytest.raises(ValueError, match="flops or cpu_s"):
        FITTED.tokens(2e6)


def test_batch_and_rates_follow_compute_and_weight_decay_the_repeats() -> None:
    small, large = (FITTED.recipe(flops, 1e6, 1e6, RATES) for flops in (1e11, 16e11))
    assert (small["batch"], large["batch"]) == (8, 16)
    assert small["matrix_lr"] == pytest.approx(0.02)
    assert large["other_lr"] == pytest.approx(0.03 * 16**-0.125)
    assert small["weight_decay"] == 0
    assert FITTED.recipe(1e11, 8e6, 1e6, RATES)["weight_decay"] == pytest.approx(0.1 * np.log(8))


def test_the_optimum_is_that_of_a_parabola_and_stays_near_the_points() -> None:
    def loss(setting: float) -> float:
        return float((np.log(setting) - np.log(0.8)) ** 2)

    assert optimum([(s, loss(s)) for s in (0.5, 1.0, 2.0)]) == pytest.approx(0.8)
    assert optimum([(0.5, 1.0), (1.0, 0.9), (2.0, 0.81)]) == pytest.approx(4.0)
    assert optimum([(0.5, 1.0), (1.0, 1.1), (2.0, 0.9)]) == pytest.approx(2.0)

from __future__ import annotations

import numpy as np
import pytest

from tasks.model.scaling import Power, Rules, fresh_tokens, optimum

FITTED = Rules(
    floor=1.0, model=0.5, model_exponent=0.5, data=0.5, data_exponent=0.5, residual=0.01,
    rates=Power(1.0, -0.125, 100.0), rates_by_size=-0.25, batch=Power(8.0, 0.25, 1e11), weight_decay=0.1,
    again=15.4, largest=1e12,
)  # fmt: skip


def test_the_loss_is_the_floor_and_two_powers() -> None:
    assert FITTED.loss(4e5, 1e5) == pytest.approx(1.0 + 0.5 / 2 + 0.5)
    assert FITTED.loss(1e30, 1e30) == pytest.approx(1.0)


def test_text_that_is_read_again_is_worth_less_than_new_text() -> None:
    """With 15.4, four readings are worth nearly four texts, a thousand no more than 16.4 (Muennighoff et al. 2023)."""
    worth = [fresh_tokens(epochs * 1e5, 1e5, FITTED.again) / 1e5 for epochs in (0.5, 1, 4, 1000)]
    assert worth == pytest.approx([0.5, 1, 3.73, 16.4], abs=0.01)


def test_batch_follows_compute_the_rates_steps_and_size_and_weight_decay_the_repeats() -> None:
    small, large = (FITTED.recipe(1e5, flops, 1e6, 125, 1e6) for flops in (1e11, 16e11))
    assert (small["batch"], large["batch"]) == (8, 16)
    assert small["matrix_lr"] == pytest.approx(0.02 * 10**-0.125), "1,000 steps"
    assert large["other_lr"] == pytest.approx(0.03 * 5**-0.125), "500 steps"
    assert FITTED.recipe(16e5, 1e11, 1e6, 125, 1e6)["matrix_lr"] == pytest.approx(small["matrix_lr"] / 2)
    assert small["weight_decay"] == 0
    assert FITTED.recipe(1e5, 1e11, 8e6, 125, 1e6)["weight_decay"] == pytest.approx(0.1 * np.log(8))


def test_the_optimum_is_that_of_a_parabola_and_stays_near_the_points() -> None:
    def loss(setting: float) -> float:
        return float((np.log(setting) - np.log(0.8)) ** 2)

    assert optimum([(s, loss(s)) for s in (0.5, 1.0, 2.0)]) == pytest.approx(0.8)
    assert optimum([(0.5, 1.0), (1.0, 0.9), (2.0, 0.81)]) == pytest.approx(4.0)
    assert optimum([(0.5, 1.0), (1.0, 1.1), (2.0, 0.9)]) == pytest.approx(2.0)

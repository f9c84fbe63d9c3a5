from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.architecture.config import build_model, shape_of_dial
from tasks.architecture.dial import DEMO_FLOPS, Budget, best_depth, choose
from tasks.architecture.rate import Rate, card_rate, measure_rate
from tasks.model.recipe import Recipe
from tasks.model.scaling import Power, Rules, rules
from tasks.model.training.loop import train
from tasks.model.windows import Windows

FITTED = Rules(
    floor=1.0, model=0.5, model_exponent=0.4, data=0.5, data_exponent=0.4, residual=0.01,
    rates=Power(1.0, 0.0, 100.0), rates_by_size=-0.25, batch=Power(8.0, 0.0, 1e11), weight_decay=0.1,
    again=15.4, largest=1e12,
)  # fmt: skip


RATE = Rate(2e-5, 1e-11, "measured")


@pytest.mark.parametrize("budget", [Budget(flops=1e12), Budget(times=((60.0, RATE),))])
def test_the_depth_is_the_best_of_its_neighbours(budget: Budget) -> None:
    def loss(depth: int) -> float:
        shape = shape_of_dial(depth, 4096, 128)
        return FITTED.loss(shape.parameters, budget.tokens(shape))

    depth = best_depth(budget, 4096, 128, 1e12, FITTED)
    assert depth > 1
    assert loss(depth) <= min(loss(depth - 1), loss(depth + 1))


def test_the_smaller_budget_counts() -> None:
    shape = shape_of_dial(2, 4096, 128)
    each = shape.training_flops_per_token
    assert Budget(flops=1e12).tokens(shape) == int(1e12 / each)
    assert Budget(1e15, ((20.0, RATE),)).tokens(shape) == int(20 / (2e-5 + 1e-11 * each))
    assert Budget(1e10, ((20.0, RATE),)).tokens(shape) == int(1e10 / each)
    with pytest.raises(ValueError, match="a limit in flops or seconds"):
        Budget()


def test_without_a_card_its_rate_is_projected_and_says_so() -> None:
    """An H100 has a peak of 989e12 dense bfloat16 FLOPs a second, of which .4 are assumed."""
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    rate = card_rate()
    assert rate.tokens(1e9, 3600) == pytest.approx(3600 * 989e12 * 0.4 / 1e9)
    assert rate.source.startswith("projected, no card here: H100")


def test_the_rate_of_the_processor_is_that_of_a_training() -> None:
    rate = measure_rate("cpu")
    shape = shape_of_dial(2, 4096, 128)
    windows = Windows(np.ones((8, 129), np.int64), np.full(8, 128))
    run = train(build_model(shape, 0, 0), windows, Recipe(tokens=10**9, steps=8, precision="auto"))
    predicted = rate.tokens(shape.training_flops_per_token, 1.0)
    assert predicted == pytest.approx(run.tokens_per_cpu_s, rel=0.6)
    assert rate.source == "measured on this machine, cpu"


def test_more_compute_makes_a_larger_model_read_more_tokens() -> None:
    depths = [best_depth(Budget(flops=flops), 4096, 128, 1e12, FITTED) for flops in (1e11, 1e13, 1e15)]
    assert depths == sorted(set(depths))
    chosen = [
        choose(Budget(flops=flops), shape_of_dial(depth, 4096, 128), 1e12, FITTED)
        for flops, depth in zip((1e11, 1e13, 1e15), depths, strict=True)
    ]
    tokens = [choice.recipe["tokens"] for choice in chosen]
    assert tokens == sorted(set(tokens))
    assert [choice.beyond for choice in chosen] == pytest.approx([0.1, 10, 1000], rel=0.01)
    assert sorted((choice.predicted for choice in chosen), reverse=True) == [choice.predicted for choice in chosen]


def test_a_shape_of_ones_own_gets_the_tokens_that_its_budget_covers() -> None:
    shape = replace(shape_of_dial(2, 4096, 128), width=96, heads=3)
    choice = choose(Budget(flops=1e12), shape, 1e5, FITTED)
    assert choice.recipe["tokens"] == int(1e12 / shape.training_flops_per_token)
    assert choice.predicted == FITTED.loss(shape.parameters, FITTED.fresh(choice.recipe["tokens"], 1e5))
    assert choice.recipe["weight_decay"] > 0


def test_the_rules_that_ship_choose_about_the_demo_at_scale_one() -> None:
    """Scale 1 is the compute of the demo profile, whose depth is 4; the rules prefer fewer blocks and more tokens."""
    assert best_depth(Budget(flops=DEMO_FLOPS), 4096, 128, 400_000) in range(2, 9)
    assert rules().residual < 0.1
    assert 1.5e5 < rules().fresh(8e5, 1e5) < 4e5, "a text read eight times"

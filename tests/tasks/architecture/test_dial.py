from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.architecture.config import shape_of_dial
from tasks.architecture.dial import DEMO_FLOPS, Budget, best_depth, choose
from tasks.model.scaling import Power, Rules, fresh_tokens, rules

FITTED = Rules(
    floor=1.0, model=0.5, model_exponent=0.4, data=0.5, data_exponent=0.4, residual=0.01,
    rates=Power(1.0, 0.0), batch=Power(8.0, 0.0), weight_decay=0.1,
    seconds=2e-5, seconds_per_flop=1e-11, largest=1e12,
)  # fmt: skip


@pytest.mark.parametrize("budget", [Budget(flops=1e12), Budget(cpu_s=60.0)])
def test_the_depth_is_the_best_of_its_neighbours(budget: Budget) -> None:
    def loss(depth: int) -> float:
        shape = shape_of_dial(depth, 4096, 128)
        return FITTED.loss(shape.parameters, budget.tokens(shape, FITTED))

    depth = best_depth(budget, 4096, 128, 1e12, FITTED)
    assert depth > 1
    assert loss(depth) <= min(loss(depth - 1), loss(depth + 1))


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
    assert choice.predicted == FITTED.loss(shape.parameters, fresh_tokens(choice.recipe["tokens"], 1e5))
    assert choice.recipe["weight_decay"] > 0


def test_the_rules_that_ship_choose_about_the_demo_at_scale_one() -> None:
    """Scale 1 is the compute of the demo profile, whose depth is 4; the rules prefer fewer blocks and more tokens."""
    assert best_depth(Budget(flops=DEMO_FLOPS), 4096, 128, 400_000) in range(2, 9)
    assert rules().residual < 0.1

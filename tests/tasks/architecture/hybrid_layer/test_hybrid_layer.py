from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.architecture.hybrid_layer.arms import CHALLENGER, OTHERS
from tasks.architecture.hybrid_layer.bank import example
from tasks.architecture.hybrid_layer.fillings import FILLINGS, PLACES, fill, of_place
from tasks.architecture.hybrid_layer.problem import LEFT_OUT, PLAIN, Layer, make_model, predict, quality, train_filled
from tasks.bench import make_bench


@pytest.fixture(scope="module")
def problem() -> Layer:
    return example(np.random.default_rng(0))


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(("width", "layers"), [(3, 2), (6, 2), (4, 4), (8, 6)])
def test_the_classical_layer_of_as_many_parameters_has_as_many(width: int, layers: int) -> None:
    circuit = FILLINGS["circuit"](width, layers)
    assert parameters(circuit) == parameters(FILLINGS["same-parameters"](width, layers)) == (3 * layers + 1) * width
    for name in ("reservoir", "random-features", "same-width"):
        assert parameters(FILLINGS[name](width, layers)) == 0


@pytest.mark.parametrize("place", PLACES)
def test_only_the_layer_in_question_differs(problem: Layer, place: str) -> None:
    here = replace(problem, place=place)
    plain = make_model(here, PLAIN)
    inside = {id(p) for p in of_place(plain, place).parameters()}
    outside = {name: p for name, p in plain.named_parameters() if id(p) not in inside}
    for filling in (*FILLINGS, LEFT_OUT):
        found = dict(make_model(here, filling).named_parameters())
        assert all(torch.equal(p, found[name]) for name, p in outside.items())


def test_a_layer_left_out_adds_nothing(problem: Layer) -> None:
    left_out, zeroed = make_model(problem, LEFT_OUT), make_model(problem, PLAIN)
    tokens = torch.from_numpy(problem.test.tokens[:, :-1])
    with torch.inference_mode():
        place: Any = of_place(zeroed, problem.place)
        place.down_proj.weight.zero_()
        torch.testing.assert_close(left_out(input_ids=tokens).logits, zeroed(input_ids=tokens).logits)


def test_a_reservoir_is_not_trained_and_a_circuit_is(problem: Layer) -> None:
    for filling, trained in (("reservoir", False), ("circuit", True)):
        before = make_model(problem, filling).state_dict()
        after = train_filled(problem, filling, make_bench(0))
        names = [name for name in before if ".function." in name]
        assert len(names) == 3
        assert all(np.array_equal(before[name].numpy(), after[name]) != trained for name in names)
        assert not np.array_equal(before["model.layers.1.mlp.up.weight"].numpy(), after["model.layers.1.mlp.up.weight"])


def test_predictions_from_shots_approach_the_exact_ones(problem: Layer) -> None:
    made = make_bench(0)
    exact = next(arm for arm in OTHERS if arm.name == CHALLENGER.twin).solve(problem, made)
    gaps = []
    for shots in (16, 4096):
        sampled = CHALLENGER.solve(replace(problem, shots=shots), made)
        gaps.append(np.abs(sampled.bits - exact.bits).mean())
    assert 0 < gaps[1] < 0.25 * gaps[0]
    assert quality(problem, exact)[0] == pytest.approx(-exact.bits.mean(), rel=1e-5)  # one byte a token


def test_training_lowers_the_loss_of_every_filling(problem: Layer) -> None:
    made = make_bench(0)
    for arm in OTHERS:
        if not arm.twin:
            assert quality(problem, arm.solve(problem, made))[0] > -7.5 > -8  # bits of a uniform model


def test_wrong_settings_are_named(problem: Layer) -> None:
    with pytest.raises(ValueError, match=r"layers \(3\) should be an even number"):
        replace(problem, layers=3)
    with pytest.raises(ValueError, match="feed-forward and attention, not 'head'"):
        fill(make_model(problem, PLAIN), "head", torch.nn.Identity())
    weights = train_filled(problem, PLAIN, make_bench(0))
    assert predict(problem, PLAIN, weights).layer_parameters == 3 * problem.hidden * 3 * problem.hidden

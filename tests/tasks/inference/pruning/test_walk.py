from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, PreTrainedModel

from tasks.inference.pruning.units import ATTENTION, FFN, Layout, Unit, make_units
from tasks.inference.pruning.walk import (
    Job,
    activation_norms,
    bits_per_byte_without,
    evaluate,
    gate_gradients,
    weight_norms,
)
from tasks.model.causal import load_model, save_model
from tasks.model.score import bits_per_byte, nll
from tasks.model.windows import Windows


def text(n: int = 12, seed: int = 0) -> Windows:
    tokens = np.random.default_rng(seed).integers(0, 64, (n, 17))
    return Windows(tokens, np.full(n, 40))


def without(folder: Path, units: tuple[Unit, ...], removed: tuple[int, ...]) -> PreTrainedModel:
    """The independent way: zero the weights themselves."""
    model = load_model(folder)
    layout = Layout.of(model.config)
    with torch.no_grad():
        for index in removed:
            unit = units[index]
            layer = model.model.layers[unit.layer]
            projection = layer.self_attn.o_proj if unit.part == ATTENTION else layer.mlp.down_proj
            projection.weight[:, layout.columns(unit)] = 0
    return model


def units_of(folder: Path) -> tuple[Unit, ...]:
    return make_units(Layout.of(LlamaConfig.from_pretrained(folder)), (0, 1, 2), 2, 3)


@pytest.mark.parametrize("removed", [(), (0,), (4, 7), (1, 6, 12, 14)])
def test_the_walk_gives_the_loss_of_the_model_with_zeroed_weights(random_model: Path, removed: tuple[int, ...]) -> None:
    units, windows = units_of(random_model), text()
    candidates = tuple(i for i in range(len(units)) if i not in removed)
    found = evaluate(Job(random_model, units, windows, removed, candidates))
    expected = [nll(without(random_model, units, removed), windows).sum()]
    expected += [nll(without(random_model, units, (*removed, i)), windows).sum() for i in candidates]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(found) > 1.0


def test_the_loss_of_the_removed_alone_can_be_left_out(random_model: Path) -> None:
    units, windows = units_of(random_model), text()
    both = evaluate(Job(random_model, units, windows, (2,), (0, 5)))
    alone = evaluate(Job(random_model, units, windows, (2,), (0, 5), whole=False))
    assert np.isnan(alone[0])
    np.testing.assert_array_equal(alone[1:], both[1:])


def test_bits_per_byte_agree_with_the_score_of_the_project(random_model: Path) -> None:
    units, windows = units_of(random_model), text()
    found = bits_per_byte_without(random_model, units, windows, (3, 8))
    assert found == pytest.approx(bits_per_byte(without(random_model, units, (3, 8)), windows), rel=1e-6)


def test_gate_gradients_are_the_slope_of_the_loss(random_model: Path) -> None:
    units, windows = units_of(random_model), text(1, seed=3)
    (found,) = gate_gradients(random_model, units, windows)
    layout = Layout.of(LlamaConfig.from_pretrained(random_model))
    step = 1e-2
    for index, unit in enumerate(units):
        losses = []
        for factor in (1 + step, 1 - step):
            model = load_model(random_model).double()
            layer = model.model.layers[unit.layer]
            projection = layer.self_attn.o_proj if unit.part == ATTENTION else layer.mlp.down_proj
            with torch.no_grad():
                projection.weight[:, layout.columns(unit)] *= factor
            losses.append(nll(model, windows)[0])
        slope = (losses[0] - losses[1]) / (2 * step)
        assert found[index] == pytest.approx(slope, rel=0.02, abs=0.02)


def test_activation_norms_are_wandas_score(random_model: Path) -> None:
    """|W_ij| ||a_j||, recomputed from inputs caught on the model's own forward pass."""
    units, windows = units_of(random_model), text()
    model = load_model(random_model)
    caught: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(model.model.layers):
        block.mlp.down_proj.register_forward_pre_hook(lambda _, x, at=layer: caught.__setitem__(at, x[0].detach()))
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(windows.tokens[:, :-1]))
    found = activation_norms(random_model, units, windows)
    for index, unit in enumerate(units):
        if unit.part == FFN:
            norms = caught[unit.layer].flatten(0, 1).norm(dim=0)
            score = model.model.layers[unit.layer].mlp.down_proj.weight.detach().abs() * norms
            assert found[index] == pytest.approx(float(score[:, unit.start : unit.stop].norm()), rel=1e-4)


def test_weight_norms_see_all_weights_of_a_unit(random_model: Path, tmp_path: Path) -> None:
    units = units_of(random_model)
    layout = Layout.of(LlamaConfig.from_pretrained(random_model))
    norms = weight_norms(random_model, units)
    total = sum(norm**2 * layout.parameters(unit) for norm, unit in zip(norms, units, strict=True))
    model = load_model(random_model)
    inside = [p for name, p in model.named_parameters() if "_proj" in name]
    assert total == pytest.approx(float(sum(p.detach().double().square().sum() for p in inside)), rel=1e-6)
    assert sum(layout.parameters(u) for u in units) == sum(p.numel() for p in inside)


def test_jobs_travel_between_processes(random_model: Path) -> None:
    job = Job(random_model, units_of(random_model), text(), (1,), (2, 3))
    again = pickle.loads(pickle.dumps(job))  # noqa: S301
    np.testing.assert_array_equal(evaluate(again), evaluate(job))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=32, bos_token_id=0, eos_token_id=0)
    save_model(GPT2LMHeadModel(config), tmp_path)
    with pytest.raises(ValueError, match="structure of Llama"):
        evaluate(Job(tmp_path, (), text(), ()))

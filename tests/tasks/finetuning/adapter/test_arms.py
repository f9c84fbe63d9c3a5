from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import OFTConfig
from qiskit_aer.primitives import SamplerV2
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.bench import make_bench
from tasks.finetuning.adapter import maps
from tasks.finetuning.adapter.problem import Adaptation, parts, quality
from tasks.finetuning.adapter.sites import rank_sites
from tasks.finetuning.adapter.subtask import ADAPTER
from tasks.finetuning.adapter.training import cache_states, fit, merged
from tasks.finetuning.models import truncated, without_block
from tasks.model.adapters import add_config
from tasks.model.causal import load_model
from tasks.model.score import nll


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def problem() -> Adaptation:
    return ADAPTER.example(np.random.default_rng(7))


def test_a_cayley_adapter_is_orthogonal_fine_tuning() -> None:
    """`peft`'s OFT with blocks of 4 is the exact classical twin; it has the sign of the skew matrices reversed."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 6, bias=False)
    ours = maps.Rotation(layer, 4)
    config = OFTConfig(target_modules=["0"], r=0, oft_block_size=4, use_cayley_neumann=False)
    theirs: Any = add_config(nn.Sequential(layer), config, seed=0)  # type: ignore[arg-type]
    angles = torch.randn(2, 6)
    with torch.no_grad():
        ours.angles.copy_(angles)
        next(p for p in theirs.parameters() if p.requires_grad).copy_(-angles)
    x = torch.randn(5, 8)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    q = ours.matrices()
    assert torch.allclose(q @ q.transpose(1, 2), torch.eye(4).expand(2, 4, 4), atol=1e-6)


def test_trained_alike_both_give_the_same_model(problem: Adaptation, tmp_path: Path) -> None:
    ours, theirs = (ADAPTER.arm(name).solve(problem, make_bench(scratch=tmp_path)) for name in ("cayley", "oft"))
    assert quality(problem, ours)[0] == pytest.approx(quality(problem, theirs)[0], abs=1e-5)
    assert ours.trained == theirs.trained == 4 * 6


def test_circuits_give_what_their_twin_gives_up_to_shot_noise(problem: Adaptation, tmp_path: Path) -> None:
    many = replace(problem, shots=2_000)
    hands = replace(make_bench(scratch=tmp_path), sampler=SamplerV2(seed=1))
    for name, twin in (("cayley-circuits", "cayley"), ("magnitudes-circuits", "magnitudes")):
        estimated, exact = (
            ADAPTER.arm(arm).solve(many, replace(hands, rng=np.random.default_rng(1))) for arm in (name, twin)
        )
        assert estimated.outputs is not None
        assert not estimated.weights
        assert quality(many, estimated)[0] == pytest.approx(quality(many, exact)[0], abs=0.01)


@pytest.mark.parametrize("name", ["lora-3", "cayley", "bias", "vera", "norms", "hra"])
def test_the_merged_weights_are_what_was_trained(problem: Adaptation, tmp_path: Path, name: str) -> None:
    attach = {"lora-3": maps.lora(3), "cayley": maps.rotation(4), "vera": maps.vera(16), "hra": maps.householder(2),
              "bias": maps.wrapped(lambda inner, _: maps.Bias(inner)), "norms": maps.attach_norms}[name]  # fmt: skip
    hands = make_bench(scratch=tmp_path)
    fitted = fit(problem, hands, attach)
    solution = merged(problem, fitted, norms=name == "norms")
    text = cache_states(problem, hands)["test"]
    with torch.inference_mode():
        logits = fitted.model(inputs_embeds=text.hidden, use_cache=False).logits
        nats = float(cross_entropy(logits.flatten(0, 1), text.windows.labels().flatten(), reduction="sum"))
    bits = nats / np.log(2) / problem.test.n_bytes.sum()
    assert quality(problem, solution)[0] == pytest.approx(-bits, rel=1e-5)


def test_the_rank_of_a_site_is_the_slope_of_the_loss_along_a_rotation(problem: Adaptation) -> None:
    text = problem.train.take(slice(0, 2))
    model = load_model(problem.model)
    name, norm = rank_sites(model, text, 4)[0]
    holder, last = parts(model, name)
    rotation = maps.Rotation(getattr(holder, last), 4)
    setattr(holder, last, rotation)
    logits = model(**text.inputs(), use_cache=False).logits
    cross_entropy(logits.flatten(0, 1), text.labels().flatten()).backward()
    assert rotation.angles.grad is not None
    # dQ = -2 dA at the identity, and an entry of A stands twice in it.
    assert float(rotation.angles.grad.norm()) == pytest.approx(2 * np.sqrt(2) * norm, rel=1e-3)


def test_degraded_models_lose_rank_or_a_block(problem: Adaptation) -> None:
    cut = truncated(problem.model, 0.25)
    weight = cut.model.layers[0].self_attn.v_proj.weight.detach().numpy()
    assert np.linalg.matrix_rank(weight, tol=1e-5) == 4
    whole = truncated(problem.model, 1.0)
    expected = nll(load_model(problem.model), problem.test)
    assert nll(whole, problem.test) == pytest.approx(expected, rel=1e-4)
    assert len(without_block(problem.model, 0).model.layers) == 0


def test_a_block_size_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="blocks of 3 do not divide the input width 8"):
        maps.Rotation(nn.Linear(8, 8), 3)

"""Every figure against a model from which the blocks are really taken out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from tasks.contract import content_key
from tasks.inference.pruning.blocks import BlockWalker, find_blocks, without_blocks
from tasks.inference.pruning.problem import (
    Pruning,
    children,
    expected_s,
    loss_curve,
    oracle,
    pairwise_qubo,
    prove_optimum,
    quality,
)
from tasks.inference.pruning.units import BLOCK, Unit, whole_blocks
from tasks.inference.pruning.variables import least_harmful, leave_one_out
from tasks.inference.pruning.walk import (
    activation_norms,
    bits_per_byte_without,
    gate_gradients,
    unit_sizes,
    weight_norms,
)
from tasks.model.causal import load_model, save_model
from tasks.model.score import bits_per_byte, nll
from tasks.model.windows import Windows

Folders = Callable[[str], Path]
BUILDS = ("llama", "gpt2")


def text(n: int = 6, seed: int = 0) -> Windows:
    tokens = np.random.default_rng(seed).integers(0, 300, (n, 33))
    return Windows(tokens, np.full(n, 60))


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("removed", [(), (0,), (4,), (1, 3)])
def test_the_walk_gives_the_loss_of_the_smaller_model(pretrained: Folders, kind: str, removed: tuple[int, ...]) -> None:
    folder, windows = pretrained(kind), text()
    candidates = tuple(i for i in range(5) if i not in removed)
    found = BlockWalker(load_model(folder)).nll(windows, removed, candidates, whole=True)
    expected = [nll(without_blocks(load_model(folder), removed), windows).sum()]
    expected += [nll(without_blocks(load_model(folder), (*removed, i)), windows).sum() for i in candidates]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(found) > 1.0


def test_what_is_kept_between_calls_changes_no_figure(pretrained: Folders) -> None:
    windows, walker = text(), BlockWalker(load_model(pretrained("llama")))
    walker.nll(windows, (), range(5), whole=True)
    assert walker._prefix
    again = [walker.nll(windows, (i,), range(i + 1, 5), whole=False) for i in range(4)]
    walker._prefix.clear()
    for i, found in enumerate(again):
        fresh = BlockWalker(load_model(pretrained("llama"))).nll(windows, (i,), range(i + 1, 5), whole=False)
        assert math.isnan(found[0])
        np.testing.assert_array_equal(found[1:], fresh[1:])


def test_known_prefixes_are_not_computed_again(pretrained: Folders) -> None:
    walker, windows, computed = BlockWalker(load_model(pretrained("llama"))), text(), []
    for index, block in enumerate(walker.blocks):
        block.input_layernorm.register_forward_hook(lambda *_, at=index: computed.append(at))
    walker.nll(windows, (), range(5), whole=True)
    batches = len(computed) // (5 + 4 + 3 + 2 + 1)
    assert len(computed) == batches * 15
    computed.clear()
    walker.nll(windows, (2,), (3, 4), whole=False)
    assert set(computed) == {3, 4}
    assert len(computed) == batches * (1 + 1)  # block 3 once on the way, block 4 once without block 3


@pytest.mark.parametrize("kind", BUILDS)
def test_the_smaller_model_is_saved_loaded_and_written_with(pretrained: Folders, kind: str, tmp_path: Path) -> None:
    full = load_model(pretrained(kind))
    smaller = without_blocks(full, (1, 2))
    save_model(smaller, tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert len(find_blocks(again)[1]) == again.config.num_hidden_layers == 3
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        expected = smaller(input_ids=tokens).logits
        torch.testing.assert_close(again(input_ids=tokens).logits, expected)
        cache = DynamicCache(config=again.config)
        for token in tokens[0]:  # the cache is addressed by the blocks' new numbers
            last = again(input_ids=token[None, None], past_key_values=cache, use_cache=True).logits
        torch.testing.assert_close(last[0, -1], expected[0, -1], rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in full.parameters())
    with pytest.raises(ValueError, match="leave one"):
        without_blocks(full, range(5))


@pytest.mark.parametrize("kind", BUILDS)
def test_scores_of_blocks(pretrained: Folders, kind: str) -> None:
    folder, windows, units = pretrained(kind), text(1), whole_blocks(range(5))
    model = load_model(folder)
    with torch.inference_mode():
        streams = model(input_ids=torch.from_numpy(windows.tokens[:, :-1]), output_hidden_states=True).hidden_states
    cosines = [torch.cosine_similarity(streams[i], streams[i + 1], dim=-1).mean() for i in range(4)]
    np.testing.assert_allclose(activation_norms(folder, units[:4], windows), [1 - float(c) for c in cosines], atol=1e-5)
    blocks = find_blocks(model)[1]
    assert unit_sizes(folder, units) == [sum(p.numel() for p in block.parameters()) for block in blocks]
    flat = torch.cat([p.detach().flatten() for p in blocks[3].parameters()])
    assert weight_norms(folder, units)[3] == pytest.approx(float(flat.double().square().mean().sqrt()), rel=1e-5)


def test_gate_gradients_are_the_slope_of_the_loss(pretrained: Folders) -> None:
    folder, windows, step = pretrained("llama"), text(1), 1e-2
    (found,) = gate_gradients(folder, whole_blocks(range(5)), windows)
    for index in range(5):
        losses = []
        for factor in (1 + step, 1 - step):
            model: Any = load_model(folder).double()
            own = model.model.layers[index].forward

            def scaled(x: torch.Tensor, *a: Any, own: Any = own, factor: float = factor, **k: Any) -> torch.Tensor:
                return x + factor * (own(x, *a, **k) - x)

            model.model.layers[index].forward = scaled
            losses.append(nll(model, windows)[0])
        assert found[index] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=0.02, abs=0.02)


@pytest.mark.parametrize("kind", BUILDS)
def test_blocks_are_units_of_the_one_pruning_problem(pretrained: Folders, kind: str) -> None:
    folder, units = pretrained(kind), whole_blocks((0, 2, 3, 4))
    assert [str(unit) for unit in units] == ["block 0", "block 2", "block 3", "block 4"]
    assert units[1] == Unit(2, BLOCK, 0, 1)
    problem = Pruning(folder, units, 2, text(6), text(6, seed=1))
    singles = children(problem, (), range(4))
    qubo = pairwise_qubo(problem, singles)
    smaller = without_blocks(load_model(folder), (2, 4))
    bits = np.array([0, 1, 0, 1])
    assert qubo.energies(bits)[0] == pytest.approx(bits_per_byte(smaller, problem.calibration), rel=1e-5)
    found = bits_per_byte_without(folder, units, problem.selection, (1, 3))
    assert found == pytest.approx(bits_per_byte(smaller, problem.selection), rel=1e-5)


def test_the_expected_time_counts_evaluations(pretrained: Folders) -> None:
    problem = Pruning(pretrained("llama"), whole_blocks(range(5)), 2, text(6), text(3))
    found = expected_s(problem, tokens_per_s=0.6 * 6 * 32)
    proof = 0.5 * (10 + 4)  # every pair, and the blocks before the second of each
    assert found == pytest.approx(
        {"surrogate": 1 + 5 + 10, "greedy": 1 + 5 + 4, "each answer": 0.5 / 0.6, "proof of the optimum": proof}
    )


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_optimum_is_that_of_all_subsets(pretrained: Folders, k: int) -> None:
    problem = Pruning(pretrained("llama"), whole_blocks(range(5)), k, text(6), text(3, seed=1), allowance=0.5)
    losses = {
        subset: bits_per_byte_without(problem.model, problem.units, problem.selection, subset)
        for subset in combinations(range(5), k)
    }
    best = min(losses, key=lambda subset: losses[subset])
    found = prove_optimum(problem)
    assert found["subsets"] == len(losses)
    assert tuple(found["removed"]) == best
    assert found["bits_per_byte"] == pytest.approx(losses[best], rel=1e-6)
    assert found["highest"] == pytest.approx(max(losses.values()), rel=1e-6)
    assert oracle(problem) == ()
    proven = replace(problem, optimum=found["bits_per_byte"])
    assert content_key(proven) == content_key(problem)
    assert all(quality(problem, subset) <= oracle(proven) for subset in [(), *losses])
    curve = loss_curve(problem, best)
    assert [count for count, _ in curve] == list(range(k + 1))
    assert curve[-1][1] == pytest.approx(losses[best], rel=1e-6)


def test_leaving_out_is_continued_where_it_stopped(
    pretrained: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, windows = pretrained("llama"), text()
    losses = leave_one_out(folder, 5, windows, 1, tmp_path / "whole")
    for block in range(5):
        expected = bits_per_byte(without_blocks(load_model(folder), (block,)), windows)
        assert losses[1 + block] == pytest.approx(expected, rel=1e-5)
    assert losses[0] == pytest.approx(bits_per_byte(load_model(folder), windows), rel=1e-5)
    evaluate = leave_one_out.__globals__["evaluate"]
    done: list[Any] = []

    def killed(job: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return evaluate(job)

    monkeypatch.setitem(leave_one_out.__globals__, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        leave_one_out(folder, 5, windows, 1, tmp_path / "part")
    done.clear()
    np.testing.assert_array_equal(leave_one_out(folder, 5, windows, 1, tmp_path / "part"), losses)
    assert len(done) == 3
    assert least_harmful(np.array([1.0, 5.0, 2.0, 4.0, 3.0]), 2) == (1, 3)

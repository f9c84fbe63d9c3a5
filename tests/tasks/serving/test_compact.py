from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from tasks.model.causal import load_model, load_tokenizer
from tasks.model.generation.generate import Sampling, complete
from tasks.serving.compact import Kept, active_parameters, compact, expand

IDS = torch.arange(24).view(2, 12)


def pruned(folder: Path, heads: dict[int, list[int]], channels: dict[int, list[int]]) -> PreTrainedModel:
    """Zero key-value heads and channels in the output projections."""
    model = load_model(folder)
    with torch.no_grad():
        for layer, gone in heads.items():
            for head in gone:
                model.model.layers[layer].self_attn.o_proj.weight[:, head * 16 : head * 16 + 16] = 0
        for layer, gone in channels.items():
            model.model.layers[layer].mlp.down_proj.weight[:, gone] = 0
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize(
    ("heads", "channels"),
    [
        ({}, {}),
        ({0: [1]}, {1: list(range(16))}),
        ({0: [0, 1]}, {0: list(range(48))}),
        ({1: [0, 1]}, {0: [3], 1: list(range(48))}),
    ],
)
def test_a_compacted_model_gives_the_same_logits(
    tiny_model: Path, heads: dict[int, list[int]], channels: dict[int, list[int]]
) -> None:
    expected = logits(pruned(tiny_model, heads, channels))
    model = pruned(tiny_model, heads, channels)
    before = active_parameters(model)
    kept = compact(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    # A head here is 2 queries, 1 key and 1 value of width 8, in and out; one head and one channel stay.
    gone = sum(min(len(h), 1) * (2 * 32 * 8 * 3) for h in heads.values())
    gone += sum(min(len(c), 47) * 3 * 32 for c in channels.values())
    assert before - active_parameters(model) == gone
    assert len(kept) == 2


def test_a_compacted_model_writes_the_same_text_with_its_cache(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    model = pruned(tiny_model, {0: [0, 1], 1: [1]}, {1: list(range(40))})
    expected = complete(model, tokenizer, "This licence", Sampling(max_tokens=80))
    compact(model)
    assert complete(model, tokenizer, "This licence", Sampling(max_tokens=80)).ids == expected.ids


def test_expansion_is_the_inverse(tiny_model: Path) -> None:
    model = pruned(tiny_model, {0: [1]}, {1: list(range(8, 48))})
    expected = logits(model)
    kept = compact(model)
    assert kept == (Kept((0,), tuple(range(48))), Kept((0, 1), tuple(range(8))))
    full = load_model(tiny_model)
    expand(model, kept, full)
    torch.testing.assert_close(logits(full), expected, rtol=1e-4, atol=1e-4)
    assert not full.model.layers[0].self_attn.q_proj.weight[16:].any()
    assert not full.model.layers[1].mlp.up_proj.weight[8:].any()
    assert compact(full) == kept


def test_another_build_is_left_alone() -> None:
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    before = active_parameters(model)
    assert compact(model) == ()
    assert active_parameters(model) == before

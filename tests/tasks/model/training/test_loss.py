from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from tasks.model.adapters import Adapter, add_adapter
from tasks.model.training import loss
from tasks.model.training.loss import find_llama, next_token_loss
from tasks.model.training.precision import FP32_ATTENTION, register_fp32_attention
from tasks.model.windows import Windows

Make = Callable[..., LlamaForCausalLM]


def batch(tokens: torch.Tensor, scored: np.ndarray | None = None) -> Windows:
    return Windows(tokens.numpy(), np.full(len(tokens), 16), scored)


def plain(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def gradients(model: torch.nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [7, 128])
def test_loss_and_gradients_are_those_of_the_whole_logits(
    monkeypatch: pytest.MonkeyPatch, tiny: Make, tied: bool, chunk: int
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    model = tiny(tie_word_embeddings=tied)
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    ours = next_token_loss(model, batch(tokens))
    found = gradients(model, 2 * ours)
    expected = gradients(model, 2 * plain(model, tokens))
    assert ours.item() == pytest.approx(plain(model, tokens).item(), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_adapters_are_trained_through_the_model_that_they_are_in(tiny: Make) -> None:
    model = add_adapter(tiny(), Adapter("lora", 2, 4, 0.0), 0)
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    assert find_llama(model) is not None
    found = gradients(model, next_token_loss(model, batch(tokens)))
    expected = gradients(model, plain(model, tokens))
    assert found.keys() == expected.keys()
    assert all("lora" in name for name in found)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


@pytest.mark.parametrize("implementation", ["sdpa", FP32_ATTENTION])
def test_a_text_does_not_see_the_one_before(tiny: Make, implementation: str) -> None:
    model, second = tiny(), [0, 12, 3, 44, 9, 7]
    register_fp32_attention()
    model.set_attn_implementation(implementation)
    only_second = np.array([[False] * 3 + [True] * 5] * 2)
    pairs = replace(batch(torch.tensor([[5, 9, 4, *second], [31, 7, 8, *second]]), only_second), n_bytes=np.ones(2))
    with torch.no_grad():
        alone = next_token_loss(model, batch(torch.tensor([second])))
        seen = [next_token_loss(model, pairs.take(slice(row, row + 1)).split_at(0)) for row in range(2)]
        mixed = [next_token_loss(model, pairs.take(slice(row, row + 1))) for row in range(2)]
    assert seen[0].item() == pytest.approx(alone.item(), abs=1e-5)
    assert seen[1].item() == pytest.approx(alone.item(), abs=1e-5)
    assert mixed[0].item() != pytest.approx(mixed[1].item(), abs=1e-3)


def test_tokens_that_are_not_scored_count_neither_in_loss_nor_in_gradients(tiny: Make) -> None:
    model = tiny()
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    scored = np.random.default_rng(0).random((3, 16)) < 0.5
    windows = batch(tokens, scored)
    found = gradients(model, next_token_loss(model, windows))
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    expected = gradients(model, cross_entropy(logits.flatten(0, 1), windows.labels().flatten()))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_bfloat16_is_close(tiny: Make) -> None:
    model = tiny()
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    assert next_token_loss(model, batch(tokens), bf16=True).item() == pytest.approx(
        plain(model, tokens).item(), rel=0.01
    )

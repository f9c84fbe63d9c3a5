from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from tasks.model import loss
from tasks.model.lora import add_lora
from tasks.model.loss import document_mask, find_llama, next_token_loss

Make = Callable[..., LlamaForCausalLM]


def plain(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def gradients(model: torch.nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [7, 128])
def test_loss_and_gradients_are_those_of_the_whole_logits(
    monkeypatch: pytest.MonkeyPatch, tiny: Make, tied: bool, chunk: int
) -> None:
    monkeypatch.setattr(loss, "CHUNK", chunk)
    model = tiny(tie_word_embeddings=tied)
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    ours = next_token_loss(model, tokens)
    found = gradients(model, 2 * ours)
    expected = gradients(model, 2 * plain(model, tokens))
    assert ours.item() == pytest.approx(plain(model, tokens).item(), rel=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_adapters_are_trained_through_the_model_that_they_are_in(tiny: Make) -> None:
    model = add_lora(tiny(), rank=2, alpha=4, dropout=0.0, seed=0)
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    assert find_llama(model) is not None
    found = gradients(model, next_token_loss(model, tokens))
    expected = gradients(model, plain(model, tokens))
    assert found.keys() == expected.keys()
    assert all("lora" in name for name in found)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_a_document_does_not_see_the_one_before(tiny: Make) -> None:
    model, separator = tiny(), 0
    first, other, second = [5, 9, 4], [31, 7, 8], [0, 12, 3, 44, 9]
    with torch.no_grad():
        alone = next_token_loss(model, torch.tensor([[*second, 7]]), separator=separator)
        # Equal second documents after different first ones: the losses differ by the first documents' own alone.
        pairs = [torch.tensor([[*start, *second, 7]]) for start in (first, other)]
        masks = [document_mask(pair[:, :-1], separator) for pair in pairs]
        logits = [
            model(input_ids=pair[:, :-1], attention_mask=mask).logits[0, 3:]
            for pair, mask in zip(pairs, masks, strict=True)
        ]
    assert torch.allclose(*logits, atol=1e-5)
    together = cross_entropy(logits[0], torch.tensor([12, 3, 44, 9, 7]))
    assert together.item() == pytest.approx(alone.item(), abs=1e-5)  # rotary positions are relative
    assert masks[0].int().tolist()[0][0][3:5] == [[0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0]]


def test_bfloat16_is_close(tiny: Make) -> None:
    model = tiny()
    tokens = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(0))
    assert next_token_loss(model, tokens, bf16=True).item() == pytest.approx(plain(model, tokens).item(), rel=0.01)

"""A card that is not here is played by torch's device `meta`.

Its tensors have no values, but an operation on tensors of two devices fails as it does on a card.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM, masking_utils

from tasks.model.recipe import Recipe
from tasks.model.training.device import find_device, placed
from tasks.model.training.loop import make_optimizers, train
from tasks.model.training.loss import ChunkedCrossEntropy, next_token_loss
from tasks.model.windows import Windows

Make = Callable[..., LlamaForCausalLM]
Data = Callable[..., Windows]


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_card")
def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused(tiny: Make, counting: Data) -> None:
    assert find_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device cuda: torch finds no CUDA card; set the device to auto or cpu"):
        train(tiny(), counting(), Recipe(tokens=128, device="cuda"))


@pytest.mark.usefixtures("no_card")
def test_auto_trains_as_the_cpu_does(tiny: Make, counting: Data) -> None:
    recipe = Recipe(tokens=6 * 8 * 16, device="cpu")
    models = [tiny(), tiny()]
    runs = [train(m, counting(), replace(recipe, device=d)) for m, d in zip(models, ("cpu", "auto"), strict=True)]  # type: ignore[arg-type]
    assert [run.device for run in runs] == ["cpu", "cpu"]
    for values in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(*values)


def test_a_model_is_back_where_it_was_also_after_an_error(tiny: Make) -> None:
    model = tiny()
    with pytest.raises(FloatingPointError), placed(model, torch.device("cpu")):
        raise FloatingPointError
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("bf16", [False, True])
def test_every_tensor_of_a_step_is_on_the_device_of_the_model(
    tiny: Make, counting: Data, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)  # it reads values
    model = tiny().to("meta")
    optimizers = make_optimizers(model, Recipe(tokens=1), bf16=bf16)
    batch = counting(8)
    loss = next_token_loss(model, batch, bf16=bf16)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.is_meta
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())
    optimizers["muon"].step()
    assert all(p.is_meta for p in model.parameters())
    hidden, wanted = torch.zeros(128, model.config.hidden_size, device="meta"), batch.labels().flatten()
    with pytest.raises(RuntimeError, match="device"):  # targets that were left on the CPU are noticed
        ChunkedCrossEntropy.apply(hidden, model.lm_head.weight, wanted, bf16, len(wanted))  # type: ignore[no-untyped-call]

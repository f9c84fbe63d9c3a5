import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tasks.model.lora import add_lora, count_trainable, load_adapter, merge, save_adapter

IDS = torch.arange(12)[None]


def model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config)
    made.train(False)
    return made


def logits(of: Any) -> torch.Tensor:
    of.eval()
    with torch.no_grad():
        result: torch.Tensor = of(IDS).logits
    return result


def trained(seed: int = 0) -> Any:
    """A wrapped model whose second factors are no longer zero."""
    wrapped = add_lora(model(), rank=4, alpha=8, dropout=0.0, seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return wrapped


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_a_new_adapter_changes_nothing() -> None:
    assert torch.equal(logits(add_lora(model(), 4, 8, 0.0, seed=0)), logits(model()))


def test_the_factors_of_every_linear_layer_are_trained_and_nothing_else() -> None:
    wrapped = add_lora(model(), rank=4, alpha=8, dropout=0.0, seed=0)
    # Four square matrices of width 32 and three of 32 x 64 in each of two blocks, rank 4.
    expected = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
    everything = sum(p.numel() for p in model().parameters()) + expected
    assert count_trainable(wrapped) == (expected, everything)
    assert all("lora_" in name for name, p in wrapped.named_parameters() if p.requires_grad)


def test_the_merged_model_computes_what_the_adapter_computes() -> None:
    wrapped = trained()
    expected = logits(wrapped)
    assert not torch.allclose(expected, logits(model()), atol=1e-3)
    merged = merge(wrapped)
    assert type(merged) is LlamaForCausalLM
    assert {n for n, _ in merged.named_parameters()} == {n for n, _ in model().named_parameters()}
    assert torch.allclose(logits(merged), expected, atol=1e-5)


def test_the_merged_weight_is_the_weight_plus_the_scaled_product() -> None:
    wrapped = trained()
    layer = wrapped.base_model.model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = (layer.base_layer.weight + 8 / 4 * b @ a).detach().clone()
    merged: Any = merge(wrapped)
    assert torch.allclose(merged.model.layers[0].mlp.up_proj.weight, expected, atol=1e-6)


@pytest.mark.usefixtures("_no_network")
def test_a_saved_adapter_comes_back_without_a_look_at_the_network(tmp_path: Path) -> None:
    wrapped = trained()
    save_adapter(wrapped, tmp_path, base="training/model@0123456789abcdef")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "training/model@0123456789abcdef"
    assert torch.equal(logits(load_adapter(model(), tmp_path)), logits(wrapped))


@pytest.mark.usefixtures("_no_network")
def test_a_folder_without_an_adapter_says_so_and_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_adapter(model(), tmp_path)


def test_the_same_adapter_saves_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_adapter(trained(), tmp_path / name, base="x")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_seed_decides_the_first_factors() -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    firsts = []
    base = model()
    torch.manual_seed(7)
    for seed in (1, 1, 2):
        wrapped: Any = add_lora(base, 4, 8, 0.0, seed)
        firsts.append(wrapped.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"].weight.clone())
        base = wrapped.unload()
    assert torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[0], firsts[2])
    assert torch.equal(torch.rand(2), expected)

import json
import socket
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tasks.model.adapters import Adapter, AdapterKind, add_adapter, count_trainable, load_adapters, merge, save_adapter

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
    wrapped = add_adapter(model(), Adapter("lora", 4, 8), seed=seed)
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
    assert torch.equal(logits(add_adapter(model(), Adapter("lora", 4, 8), seed=0)), logits(model()))


def test_the_factors_of_every_linear_layer_are_trained_and_nothing_else() -> None:
    wrapped = add_adapter(model(), Adapter("lora", 4, 8), seed=0)
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
    assert torch.equal(logits(load_adapters(model(), {"a": tmp_path})), logits(wrapped))


@pytest.mark.usefixtures("_no_network")
def test_a_folder_without_an_adapter_says_so_and_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_adapters(model(), {"a": tmp_path})


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
        wrapped: Any = add_adapter(base, Adapter("lora", 4, 8), seed)
        firsts.append(wrapped.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"].weight.clone())
        base = wrapped.unload()
    assert torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[0], firsts[2])
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("kind", get_args(AdapterKind))
@pytest.mark.usefixtures("_no_network")
def test_every_kind_starts_as_the_model_and_is_saved_loaded_and_merged(kind: AdapterKind, tmp_path: Path) -> None:
    wrapped = add_adapter(model(), Adapter(kind, 4, 8), seed=0)
    assert torch.allclose(logits(wrapped), logits(model()), atol=1e-4)
    assert 0 < count_trainable(wrapped)[0] < 9000
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    expected = logits(wrapped)
    assert not torch.allclose(expected, logits(model()), atol=1e-3)
    save_adapter(wrapped, tmp_path, base="x")
    # PiSSA takes its first factors out of the base, which peft does again at loading.
    loaded = load_adapters(model(), {"a": tmp_path})
    assert torch.allclose(logits(loaded), expected, atol=1e-4)
    assert torch.allclose(logits(merge(loaded)), expected, atol=1e-4)


def test_several_adapters_lie_on_one_base_and_one_is_active(tmp_path: Path) -> None:
    wanted = {}
    for name, seed in (("first", 1), ("second", 2)):
        wrapped = trained(seed)
        save_adapter(wrapped, tmp_path / name, base="x")
        wanted[name] = logits(wrapped)
    loaded = load_adapters(model(), {name: tmp_path / name for name in wanted})
    assert torch.equal(logits(loaded), wanted["first"])
    loaded.set_adapter("second")
    assert torch.equal(logits(loaded), wanted["second"])
    with pytest.raises(ValueError, match="no adapter given"):
        load_adapters(model(), {})
    save_adapter(add_adapter(model(), Adapter("oft", 4), seed=0), tmp_path / "other", base="x")
    with pytest.raises(ValueError, match="kinds LORA, OFT cannot lie on one base"):
        load_adapters(model(), {"first": tmp_path / "first", "other": tmp_path / "other"})

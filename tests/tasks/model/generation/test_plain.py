import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tasks.model.causal import load_model, save_model
from tasks.model.generation.llama import LlamaSteps
from tasks.model.generation.plain import read_plain
from tasks.serving.compact import compact

Make = Callable[..., LlamaForCausalLM]


@pytest.mark.parametrize(
    "change", [{}, {"tie_word_embeddings": False}, {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}]
)
def test_weights_and_rotary_embedding_are_those_of_transformers(
    tiny: Make, tmp_path: Path, change: dict[str, object]
) -> None:
    save_model(tiny(**change), tmp_path)
    plain, expected = read_plain(tmp_path), load_model(tmp_path)
    assert plain is not None
    mine, theirs = dict(plain.named_parameters()), dict(expected.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    at = torch.arange(40)[None]
    for one, other in zip(
        plain.model.rotary_emb(plain.model.embed_tokens.weight, at),
        expected.model.rotary_emb(expected.model.embed_tokens.weight, at),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_removed_heads_and_channels_are_taken_out_of_it(tiny: Make, tmp_path: Path) -> None:
    model = tiny(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 32:] = 0
        model.model.layers[1].mlp.down_proj.weight[:, 3:9] = 0
    save_model(model, tmp_path)
    plain, expected = read_plain(tmp_path), load_model(tmp_path)
    assert plain is not None
    assert compact(plain) == compact(expected)
    steps = [LlamaSteps(one, 16) for one in (plain, expected)]
    first, second = (step.read([1, 2, 3, 4], step.add()).last for step in steps)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"hidden_act": "gelu"},
    ],
)
def test_a_model_of_another_build_is_left_to_transformers(
    tiny: Make, tmp_path: Path, change: dict[str, object]
) -> None:
    save_model(tiny(**change), tmp_path)
    assert read_plain(tmp_path) is None


def test_damaged_or_missing_files_are_left_to_transformers(tiny: Make, tmp_path: Path) -> None:
    assert read_plain(tmp_path) is None
    save_model(tiny(), tmp_path)
    weights, whole = tmp_path / "model.safetensors", (tmp_path / "model.safetensors").read_bytes()
    weights.write_bytes(whole[:200])
    assert read_plain(tmp_path) is None
    weights.write_bytes(whole)
    rest = load_file(weights)
    del rest["model.norm.weight"]
    save_file(rest, weights)
    assert read_plain(tmp_path) is None
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "rms_norm_eps"}))
    assert read_plain(tmp_path) is None

"""Plain Llamas read from their folder without the model classes of `transformers`.

Importing those takes longer than reading most models. What is read here has the attributes that `compact`,
`LlamaSteps` and their like use, and nothing else; it cannot be called.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

# Fields that a configuration must have, with the value for those where another one means another model.
_FIXED = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
}
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings",
)  # fmt: skip
_OTHER = ("auto_map", "quantization_config", "rope_scaling")


class Weight(nn.Module):
    """One tensor, as a linear layer without bias, an embedding and a norm have it."""

    bias = None

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class Block(nn.Module):
    """The weights of a block."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, channels, head = config.hidden_size, config.intermediate_size, config.head_dim
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        attention: Any = nn.Module()
        attention.num_key_value_groups = heads // shared
        attention.q_proj, attention.o_proj = Weight(heads * head, width), Weight(width, heads * head)
        attention.k_proj, attention.v_proj = Weight(shared * head, width), Weight(shared * head, width)
        mlp: Any = nn.Module()
        mlp.gate_proj, mlp.up_proj = Weight(channels, width), Weight(channels, width)
        mlp.down_proj = Weight(width, channels)
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm, self.post_attention_layernorm = Weight(width), Weight(width)


class Rotary(nn.Module):
    """The rotary embedding (Su et al. 2021, arXiv 2104.09864) of the default kind."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        self._frequencies = 1.0 / float(config.rope_parameters["rope_theta"]) ** exponents

    def forward(self, like: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine at positions (texts, tokens): (texts, tokens, head width) of the type of `like`."""
        angles = positions[..., None].float() * self._frequencies
        turned = torch.cat((angles, angles), dim=-1)
        return turned.cos().to(like.dtype), turned.sin().to(like.dtype)


class PlainLlama(nn.Module):
    """The weights of a Llama under the names of `transformers`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        model: Any = nn.Module()
        model.embed_tokens = Weight(config.vocab_size, config.hidden_size)
        model.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        model.norm, model.rotary_emb = Weight(config.hidden_size), Rotary(config)
        self.model = model
        self.lm_head = Weight(config.vocab_size, config.hidden_size)


def read_plain(folder: Path) -> PlainLlama | None:
    """Read a plain Llama in fp32; None for a model of another build, or where a file is not as expected."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not _is_plain(config):
            return None
        model = PlainLlama(SimpleNamespace(**config))
        weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        if config["tie_word_embeddings"]:
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights, assign=True)
        if config["tie_word_embeddings"]:
            model.lm_head.weight = cast("nn.Parameter", model.model.embed_tokens.weight)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError):
        return None  # transformers says what is wrong
    return model.requires_grad_(False)


def _is_plain(config: Any) -> bool:
    return (
        isinstance(config, dict)
        and all(config.get(name) == value for name, value in _FIXED.items())
        and all(name in config for name in _SIZES)
        and not any(config.get(name) for name in _OTHER)
        and set(config["rope_parameters"]) == {"rope_theta", "rope_type"}
        and config["rope_parameters"]["rope_type"] == "default"
    )

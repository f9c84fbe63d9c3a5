"""Small byte-level models behind the banks of this stage: one for each source of text, trained once and kept.

A model has about 0.2 M weights in four blocks of width 64. Its training text is the beginning of its source; banks take
their own text from behind it. Training is deterministic on one machine; the folder is named by text and recipe.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.model.causal import load_model, save_model
from tasks.model.recipe import Recipe
from tasks.model.training.loop import train
from tasks.model.windows import Windows

CONTEXT = 64
TRAINED = 1500  # windows
RECIPE = Recipe(tokens=TRAINED * CONTEXT, batch=16, matrix_lr=0.05)
WIDTH, DEPTH = 64, 4
SEED = 0  # of all of them, so that the banks of several decisions share the models


def byte_config(width: int = WIDTH, depth: int = DEPTH) -> LlamaConfig:
    """Return the configuration of a byte-level model."""
    return LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=5 * width // 2,
        num_hidden_layers=depth,
        num_attention_heads=max(1, width // 16),
        num_key_value_heads=max(1, width // 16),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """Return a model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def byte_windows(text: bytes, start: int, count: int) -> Windows:
    """Return windows of a text read as bytes, from a window number on."""
    size = CONTEXT + 1
    rows = np.frombuffer(text, np.uint8, count * size, start * size).reshape(count, size)
    return Windows(rows.astype(np.int64), np.full(count, CONTEXT, np.int64))


def joined(texts: Sequence[str]) -> bytes:
    """Return the texts of a source as one."""
    return "\n\n".join(texts).encode()


def source_model(texts: Sequence[str], folder: Path) -> Path:
    """Return the folder of the model of a source, trained when it is requested first."""
    windows = byte_windows(joined(texts), 0, TRAINED)
    about = f"{byte_config().to_json_string()}{RECIPE}{SEED}"
    name = hashlib.sha256(about.encode() + windows.tokens.tobytes()).hexdigest()[:16]

    def make() -> Any:
        model = new_model(byte_config(), SEED)
        train(model, windows, RECIPE)
        return model

    return kept(folder / "models" / name, make)


def kept(target: Path, make: Any) -> Path:
    """Return a folder with a model, made and saved when it is requested first; safe beside other processes."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        save_model(make(), made)
        if target.exists():  # another process has saved the same model first
            shutil.rmtree(made)
        else:
            made.replace(target)
    return target


def truncated(folder: Path, share: float) -> Any:
    """Return a model of which every projection is its truncated singular value decomposition of a share of the rank."""
    model: Any = load_model(folder)
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, nn.Linear):
                u, s, v = torch.linalg.svd(module.weight, full_matrices=False)
                rank = max(1, round(share * len(s)))
                module.weight.copy_(u[:, :rank] * s[:rank] @ v[:rank])
    return model


def without_block(folder: Path, index: int) -> Any:
    """Return a model without one of its blocks."""
    model: Any = load_model(folder)
    model.model.layers = nn.ModuleList(layer for i, layer in enumerate(model.model.layers) if i != index)
    for position, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = position
    model.config.num_hidden_layers = len(model.model.layers)
    layer_types = getattr(model.config, "layer_types", None)
    if layer_types:
        model.config.layer_types = layer_types[: len(model.model.layers)]
    return model

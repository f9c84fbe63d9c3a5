"""Small byte-level models behind the banks of this stage: one for each section of text, trained once and kept.

A model has about 0.2 M weights in four blocks of width 64. Its training text is the beginning of its section; banks
take their own text from behind it. Training is deterministic on one machine; the folder is named by text, seed and
recipe.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig

from tasks.model.causal import load_model, save_model
from tasks.model.recipe import Recipe
from tasks.model.small import example_folder, new_model, small_config, trained_model
from tasks.model.training.loop import train
from tasks.model.windows import Windows

CONTEXT = 64
WINDOW = CONTEXT + 1  # bytes
TRAINED = 1500  # windows
RECIPE = Recipe(tokens=TRAINED * CONTEXT, batch=16, matrix_lr=0.05)
WIDTH, DEPTH = 64, 4


def byte_config(width: int = WIDTH, depth: int = DEPTH) -> LlamaConfig:
    """Return the configuration of a byte-level model."""
    return small_config(width, depth, max(1, width // 16), 5 * width // 2, CONTEXT)


def byte_windows(text: bytes, start: int, count: int) -> Windows:
    """Return windows of a text read as bytes, from a window number on."""
    rows = np.frombuffer(text, np.uint8, count * WINDOW, start * WINDOW).reshape(count, WINDOW)
    return Windows(rows.astype(np.int64), np.full(count, CONTEXT, np.int64))


@lru_cache(maxsize=8)
def example_model(seed: int, text: bytes, depth: int) -> Path:
    """Return the folder of a byte-level model of width 16, trained on 64 windows of a text for part of a second."""
    model, folder = new_model(byte_config(16, depth), seed), example_folder()
    train(model, byte_windows(text, 0, 64), Recipe(tokens=8192, batch=16, matrix_lr=0.05))
    save_model(model, folder)
    return folder


def source_model(text: bytes, seed: int, folder: Path) -> Path:
    """Return the folder of the model of a source or a section of it, trained when it is requested first."""
    return trained_model(byte_config(), byte_windows(text, 0, TRAINED), RECIPE, seed, folder)


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

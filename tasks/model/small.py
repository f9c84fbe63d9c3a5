"""Small Llama models with random weights, which banks and examples train within seconds."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tasks.model.causal import save_model
from tasks.model.recipe import Recipe
from tasks.model.training.loop import train
from tasks.model.windows import Windows


def small_config(width: int, depth: int, heads: int, channels: int, context: int, vocabulary: int = 256) -> LlamaConfig:
    """Return a configuration with tied embeddings and one key-value head for each head.

    Args:
        width: size of the hidden states.
        depth: number of blocks.
        heads: attention heads.
        channels: width of the feed-forward layers.
        context: tokens of the longest text.
        vocabulary: tokens; 256 = bytes.
    """
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=channels,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def new_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """Return a model with random weights; the global random state of torch stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def trained_model(config: LlamaConfig, windows: Windows, recipe: Recipe, seed: int, folder: Path) -> Path:
    """Return the folder of a trained model below `folder`, named by its settings and text and made only once."""
    about = f"{config.to_json_string()}{recipe}{seed}"
    name = hashlib.sha256(about.encode() + windows.tokens.tobytes()).hexdigest()[:16]

    def make() -> PreTrainedModel:
        model = new_model(config, seed)
        train(model, windows, recipe)
        return model

    return stored_model(folder / "models" / name, make)


def stored_model(target: Path, make: Callable[[], PreTrainedModel]) -> Path:
    """Return a folder with a model, made and saved at the first call; several processes may call it at once."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        save_model(make(), made)
        if target.exists():  # another process has saved the same model first
            shutil.rmtree(made)
        else:
            made.replace(target)
    return target


def example_folder() -> Path:
    """Return a new temporary folder for the model of an example; it is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ketcycle-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

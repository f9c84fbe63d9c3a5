"""Small pretrained models in the format of transformers, of two builds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tasks.model.causal import save_model
from tasks.preprocessing.bpe import save_tokenizer, train_bpe

sys.path.append(str(Path(__file__).parent))  # for decisions that several tests share

LICENCE = Path(__file__).parents[2] / "deployments" / "sample" / "licences" / "PSF-2.0.txt"


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder with a random model of 5 blocks, `llama` or `gpt2`, and its own tokenizer of 300 tokens."""
    made: dict[str, Path] = {}
    sizes: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}

    def build(kind: str) -> Any:
        if kind == "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_layer=5, n_embd=32, n_head=2, n_positions=64, **sizes))
        config = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            **sizes,
        )
        return LlamaForCausalLM(config)

    def folder(kind: str) -> Path:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            save_tokenizer(train_bpe(iter([LICENCE.read_text()]), 300), path, 64)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                save_model(build(kind), path)
            made[kind] = path
        return made[kind]

    return folder

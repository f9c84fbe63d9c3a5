from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.model.causal import save_model
from tasks.preprocessing.bpe import save_tokenizer, train_bpe

torch.set_num_threads(1)

TEXT = (Path(__file__).parents[3] / "deployments" / "sample" / "licences" / "PSF-2.0.txt").read_text()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with grouped queries and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = train_bpe(iter([TEXT]), 512)
    save_tokenizer(tokenizer, folder, 64)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    save_model(model, folder)
    return folder

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.model.windows import Windows


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Callable[..., LlamaForCausalLM]:
    def make(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
        sizes: dict[str, Any] = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "initializer_range": 0.2,
        }
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))
        model.train(False)
        return model

    return make


@pytest.fixture
def counting() -> Callable[..., Windows]:
    """Sequences that count upwards: learnable in a few steps."""

    def make(n: int = 40, context: int = 16, vocab: int = 64) -> Windows:
        start = np.random.default_rng(0).integers(0, vocab, n)
        return Windows((start[:, None] + np.arange(context + 1)) % vocab, np.full(n, 2 * context))

    return make

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.model.causal import save_model
from tasks.model.compare import document_bits, judge, nearest


def uniform_model(folder: Path, context: int) -> Path:
    """Save a model that gives each of its 4 tokens the same probability."""
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "<unk>": 3}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<unk>")
    wrapped.save_pretrained(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=context,
        )
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight.zero_()
    save_model(model, folder)
    return folder


@pytest.mark.parametrize("context", [2, 3, 64])
def test_a_uniform_model_needs_two_bits_for_each_token_whatever_its_context(tmp_path: Path, context: int) -> None:
    texts = ["a b a b a", "a", "b b"]
    bits = document_bits(uniform_model(tmp_path, context), texts)
    assert bits == pytest.approx([2 * 5 / 9, 2 * 1 / 1, 2 * 2 / 3])


def test_the_verdict_follows_paired_bounds() -> None:
    rng = np.random.default_rng(0)
    champion = rng.normal(2.0, 0.5, 100)  # documents differ much more than models
    noise = rng.normal(0, 0.01, 100)
    better, equal, worse = (champion - shift + noise for shift in (0.05, 0.0, -0.05))
    assert judge(champion, better, (), 0.01).passed
    assert not judge(champion, equal, (), 0.01).passed
    assert "not shown to be better" in judge(champion, equal, (), 0.01).reason
    found = judge(champion, worse, (), 0.01)
    assert (found.passed, found.worse) == (False, True)
    assert found.gain == pytest.approx(-0.05, abs=0.01)
    where = range(30)  # better where it drifted, a little worse elsewhere
    mixed = champion + 0.002 + noise
    mixed[:30] -= 0.1
    assert judge(champion, mixed, where, 0.01).passed
    lost = mixed + 0.05
    assert "may lose more than 0.01" in judge(champion, lost, where, 0.01).reason
    few = judge(champion[:19], better[:19], (), 0.01)
    assert (few.passed, "at least 20 documents" in few.reason) == (False, True)


def test_documents_nearest_to_requests_are_found_by_angle() -> None:
    documents = np.asarray([[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    angles = [0.1, 0.2, math.pi / 2]
    assert nearest(documents, np.asarray([[math.cos(a), math.sin(a)] for a in angles])) == [0, 1]

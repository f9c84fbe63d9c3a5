import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tasks.model.score import bits_per_byte, nll
from tasks.model.windows import Windows

Make = Callable[..., LlamaForCausalLM]


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token(tiny: Make) -> None:
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    rng = np.random.default_rng(0)
    windows = Windows(rng.integers(0, 64, (5, 17)), rng.integers(20, 60, 5))
    expected = math.log2(64) * 5 * 16 / windows.n_bytes.sum()
    assert bits_per_byte(model, windows) == pytest.approx(expected, rel=1e-6)


def test_the_nll_is_that_of_transformers_and_does_not_depend_on_the_batch(tiny: Make) -> None:
    model = tiny()
    windows = Windows(np.random.default_rng(1).integers(0, 64, (7, 17)), np.full(7, 40))
    totals = nll(model, windows, batch_size=3)
    for tokens, total in zip(windows.tokens, totals, strict=True):
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        assert total == pytest.approx(16 * float(loss), rel=1e-5)
    assert nll(model, windows, batch_size=32) == pytest.approx(totals, rel=1e-6)


def test_a_model_in_training_stays_in_training_and_is_scored_without_dropout(tiny: Make) -> None:
    windows = Windows(np.random.default_rng(1).integers(0, 64, (2, 17)), np.full(2, 40))
    model = tiny(attention_dropout=0.5).train()
    assert list(nll(model, windows)) == list(nll(model, windows))
    assert model.training


def test_windows_without_bytes_have_no_bits_per_byte(tiny: Make) -> None:
    with pytest.raises(ValueError, match="no byte"):
        bits_per_byte(tiny(), Windows(np.zeros((1, 17), np.int64), np.zeros(1, np.int64)))

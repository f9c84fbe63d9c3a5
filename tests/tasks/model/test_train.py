from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.model import train as training
from tasks.model.train import Recipe, Watch, train
from tasks.model.windows import Windows

torch.set_num_threads(1)


def tiny(seed: int = 0, dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=True,
            attention_dropout=dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def counting(n: int = 40, context: int = 16, vocab: int = 64) -> Windows:
    """Sequences that count upwards: learnable in a few steps."""
    start = np.random.default_rng(0).integers(0, vocab, n)
    return Windows((start[:, None] + np.arange(context + 1)) % vocab, np.full(n, 2 * context))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_killed_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    recipe = Recipe(tokens=12 * 8 * 16, batch=8, seed=3, evaluate_every=4, checkpoint_every=5)
    watch = Watch(held_out=counting(8))
    whole = tiny(dropout=dropout)
    reference = train(whole, counting(), recipe, watch)

    real, calls = training._step, []

    def dies_at_step_eight(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 8:
            raise Killed
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_step", dies_at_step_eight)
    with pytest.raises(Killed):
        train(tiny(dropout=dropout), counting(), recipe, watch, tmp_path)
    torch.manual_seed(99)
    torch.rand(7)
    resumed = tiny(dropout=dropout)
    run = train(resumed, counting(), recipe, watch, tmp_path)

    assert run.resumed_at == 5
    assert run.history == reference.history
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name

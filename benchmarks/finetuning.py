"""Supervised fine-tuning: our loop beside trl's, and what LoRA forgets beside full fine-tuning.

    python -m benchmarks.finetuning speed [--rounds 5]       # needs the extra `preference`
    python -m benchmarks.finetuning forgetting [--seeds 5]

`speed`: LoRA of rank 8 on a model of 6 M weights, windows of 256 tokens, equal batches, steps, optimiser and precision,
in turns; CPU seconds of training, start and saving left out. The limit: at least as many tokens per CPU second as trl.

`forgetting`: the byte-level models of the banks, each tuned to the text of another source with equal tokens. Each
method has the rate, of three, that gains most on validation text with the first seed. The limit: LoRA with at most 6 %
of the weights forgets at most 75 % of what full fine-tuning does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from benchmarks.tuning import TOKENS, campaigns
from tasks.finetuning.tuning_policy.runs import Real
from tasks.model.adapters import Adapter, add_adapter, count_trainable
from tasks.model.causal import load_model
from tasks.model.mixture import mixed
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.small import new_model
from tasks.model.training.loop import train
from tasks.model.windows import Windows
from tasks.statistics import mean_interval

STEPS, BATCH, CONTEXT, VOCABULARY = 5, 8, 256, 4096
RATE = 1e-3


def model_with_adapter() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    return add_adapter(new_model(config, 0), Adapter("lora", 8), 0)


def windows() -> Windows:
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(STEPS * BATCH, CONTEXT + 1))
    return Windows(tokens, np.full(len(tokens), CONTEXT, np.int64))


def ours(text: Windows) -> float:
    """Return CPU seconds of our loop."""
    model = model_with_adapter()
    began = time.process_time()
    train(model, text, Recipe(len(text) * CONTEXT, BATCH, other_lr=RATE, muon=False))
    return time.process_time() - began


def trls(text: Windows) -> float:
    """Return CPU seconds of trl's loop."""
    import datasets
    import trl
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    given = datasets.Dataset.from_dict({"input_ids": text.tokens[:, :-1].tolist()})
    words = {str(number): number for number in range(VOCABULARY)}
    words_of = Tokenizer(models.WordLevel(words, "0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_of, pad_token="0", eos_token="0")  # noqa: S106
    with tempfile.TemporaryDirectory() as folder:
        settings = trl.SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            max_length=None,
            bf16=False,
            activation_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = trl.SFTTrainer(model_with_adapter(), settings, train_dataset=given, processing_class=tokenizer)
        began = time.process_time()
        trainer.train()
        return time.process_time() - began


def speed(rounds: int) -> None:
    """Print tokens per CPU second of both and their ratio."""
    text = windows()
    pairs = [(ours(text), trls(text)) for _ in range(rounds + 1)][1:]  # the first round warms up
    tokens = len(text) * CONTEXT
    for name, seconds in zip(("ours", "trl"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: {tokens / median(seconds):.0f} tokens per CPU second, {median(seconds):.2f} s")
    ratios = [theirs / own for own, theirs in pairs]
    print(f"ours / trl, tokens per CPU second: {median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


@dataclass(frozen=True)
class Method:
    """A way to tune: rank of LoRA (0 = every weight), share of base text, learning rates to choose from."""

    name: str
    rank: int
    share: float
    rates: tuple[float, ...]


METHODS = (
    Method("full", 0, 0.0, (0.002, 0.005, 0.01)),
    Method("LoRA, rank 2", 2, 0.0, (0.003, 0.01, 0.03)),
    Method("LoRA, rank 2, a quarter base text", 2, 0.25, (0.003, 0.01, 0.03)),
    Method("full, a quarter base text", 0, 0.25, (0.002, 0.005, 0.01)),
)


def tuned(runs: Real, method: Method, rate: float, seed: int) -> tuple[float, float, float, float]:
    """Return validation gain, test gain and test forgetting in bits per byte, and the share of trained weights."""
    model: Any = load_model(runs.model)
    texts = (runs.target.validation, runs.target.test, runs.base.test)
    before = [bits_per_byte(model, text) for text in texts]
    if method.rank:
        model = add_adapter(model, Adapter("lora", method.rank), seed)
        recipe = Recipe(TOKENS, BATCH, other_lr=rate, muon=False, seed=seed)
    else:
        recipe = Recipe(TOKENS, BATCH, matrix_lr=rate, other_lr=rate, seed=seed)
    trained, every = count_trainable(model)
    count = recipe.reach(runs.target.train.context)
    train(model, mixed(runs.target.train, runs.base.train, method.share, count), recipe)
    validation, gain, lost = (a - bits_per_byte(model, text) for a, text in zip(before, texts, strict=True))
    return validation, gain, -lost, trained / every


def forgetting(seeds: int) -> None:
    """Print gain and forgetting of every method over sources and seeds, and LoRA's share of full fine-tuning's."""
    print("| method | weights trained | gain, bits per byte | forgetting | of full fine-tuning's |")
    print("|---|---|---|---|---|")
    found: dict[str, np.ndarray] = {}
    sources = campaigns()
    for method in METHODS:
        rows = []
        for runs in sources.values():
            rate = max(method.rates, key=lambda one: tuned(runs, method, one, 0)[0])
            rows += [tuned(runs, method, rate, seed) for seed in range(seeds)]
        found[method.name] = table = np.array(rows)
        gain, lost = (mean_interval(table[:, column]) for column in (1, 2))
        full = found["full"][:, 2]
        split = (np.split(values, len(sources)) for values in (table[:, 2], full))
        ratio = [part.mean() / whole.mean() for part, whole in zip(*split, strict=True)]
        print(
            f"| {method.name} | {table[:, 3].mean():.1%} | {table[:, 1].mean():.3f} [{gain[0]:.3f}, {gain[1]:.3f}] | "
            f"{table[:, 2].mean():.3f} [{lost[0]:.3f}, {lost[1]:.3f}] | {table[:, 2].mean() / full.mean():.0%}, by "
            f"source {min(ratio):.0%} to {max(ratio):.0%} |",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("speed", "forgetting"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.command == "speed":
        speed(given.rounds)
    else:
        forgetting(given.seeds)


if __name__ == "__main__":
    main()

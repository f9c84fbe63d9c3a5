"""One fine-tuning run: a real one, or the stored result of one.

LoRA on every projection of a model, trained for a fixed number of tokens on a mixture of target and base text. The
reward is the gain on the target minus the loss on the base domain, both in bits per byte. Policies see the reward on
validation text; the reward on test text scores them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.nn import Module

from tasks.finetuning.tuning_policy.space import values
from tasks.model.adapters import Adapter, add_adapter
from tasks.model.causal import load_model
from tasks.model.mixture import mixed
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.threads import torch_threads
from tasks.model.training.loop import train
from tasks.model.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAILED = -8.0  # bits per byte; the reward of a run whose loss is not finite: it knows nothing about either text


@dataclass(frozen=True)
class Episode:
    """One fine-tuning run and what it came to.

    Attributes:
        setting: what was trained.
        reward: on validation text, bits per byte.
        test: on test text; no arm may use it.
        cpu_s: CPU seconds of the run, its evaluation included.
    """

    setting: int
    reward: float
    test: float
    cpu_s: float = field(compare=False)


@dataclass(frozen=True)
class Stored:
    """Stored runs of every setting with several seeds.

    Attributes:
        validation: (64, seeds), rewards.
        test: (64, seeds), rewards.
        cpu_s: (64, seeds), CPU seconds.
    """

    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    cpu_s: NDArray[np.float64] = field(compare=False)

    def run(self, setting: int, repetition: int) -> Episode:
        """Return a stored run; repetitions beyond the stored seeds begin again."""
        seed = repetition % self.validation.shape[1]
        found = (float(table[setting, seed]) for table in (self.validation, self.test, self.cpu_s))
        return Episode(setting, *found)

    @property
    def worth(self) -> NDArray[np.float64]:
        """Mean reward of every setting on test text, (64,)."""
        return np.asarray(self.test.mean(axis=1))


@dataclass(frozen=True)
class Split:
    """Windows of one text: for training, for rewards, for the final score."""

    train: Windows
    validation: Windows
    test: Windows


@dataclass(frozen=True)
class Real:
    """Real fine-tuning runs of a model.

    Attributes:
        model: folder of the model.
        target: text that it is tuned to.
        base: text that it should not forget.
        before: `losses` of the model as it is.
        tokens: training tokens of a run.
        batch: windows of a training step.
        alpha: scale of LoRA.
        seed: seed of the first repetition.
        threads: number of torch threads.
    """

    model: Path
    target: Split
    base: Split
    before: tuple[float, float]
    tokens: int
    batch: int = 8
    alpha: int = 16
    seed: int = 0
    threads: int = 1

    def run(self, setting: int, repetition: int) -> Episode:
        """Train and score."""
        began = time.process_time()
        share, rank, rate = values(setting)
        seed = self.seed + repetition
        recipe = Recipe(self.tokens, self.batch, other_lr=rate, muon=False, seed=seed, threads=self.threads)
        count = recipe.reach(self.target.train.context)
        with torch_threads(self.threads):
            model = add_adapter(load_model(self.model), Adapter("lora", rank, self.alpha), seed)
            try:
                train(model, mixed(self.target.train, self.base.train, share, count), recipe)
            except FloatingPointError:
                return Episode(setting, FAILED, FAILED, time.process_time() - began)
            after = losses(model, self.target, self.base)
        validation, test = (a - b for a, b in zip(self.before, after, strict=True))
        return Episode(setting, validation, test, time.process_time() - began)


def losses(model: Module, target: Split, base: Split) -> tuple[float, float]:
    """Return the bits per byte of target and base added up, on validation and on test text."""

    def both(split: str) -> float:
        return sum(bits_per_byte(model, getattr(text, split)) for text in (target, base))

    return both("validation"), both("test")

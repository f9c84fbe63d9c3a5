"""Settings of a training run: budget, batches, optimisers, learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["fp32", "bf16", "int8"]  # of the weights of a served model
Precision = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    `tokens` is the budget; `steps` and `core_minutes` limit it further, the smallest counts. Core-minutes become a
    number of steps after the first steps, which is corrected as more of them are timed; checkpoints store that number,
    and a resumed run keeps it.

    Attributes:
        tokens: budget: number of tokens predicted in training.
        batch: windows per step.
        parts: parts that a step's windows are read in: one after another, for less memory, or by several processes. Two
            parts give the same bits in one process and in two.
        matrix_lr: learning rate of Muon (two-dimensional weights inside the blocks).
        other_lr: learning rate of AdamW (embeddings, norms, head; every weight where `muon` is off).
        muon: use Muon for the matrices; off for adapters, whose thin factors AdamW trains better.
        weight_decay: decoupled weight decay of matrices.
        dropout: share of the outputs of attention and feed-forward parts that are dropped.
        separator: token between documents: no token attends to another document of its window; None = it may.
        warmup: share of the steps with rising learning rate.
        final: learning rate at the end, as a share of the peak; the decay is linear.
        clip: maximum norm of the whole gradient.
        seed: seed of the order of the windows and of dropout.
        threads: number of torch threads.
        precision: `bf16` multiplies matrices in bfloat16 (weights, sums and optimiser states stay fp32); `auto` does so
            where the processor has instructions for it.
        device: `cuda` trains on the card, `auto` does so where there is one. The model is given and returned on the
            CPU.
        evaluate_every: steps between evaluations on held-out windows, 0 = only at the start and the end.
        patience: evaluations without a new lowest bits per byte after which training stops, 0 = never.
        checkpoint_every: steps between checkpoints, 0 = none.
        keep: number of latest checkpoints that are kept.
        steps: limit in optimiser steps, None = none.
        core_minutes: limit in CPU minutes of this process, evaluation included, None = none.
    """

    tokens: int
    batch: int = 8
    parts: int = 1
    matrix_lr: float = 0.02
    other_lr: float = 0.03
    muon: bool = True
    weight_decay: float = 0.0
    dropout: float = 0.0
    separator: int | None = None
    warmup: float = 0.05
    final: float = 0.05
    clip: float = 1.0
    seed: int = 0
    threads: int = 1
    precision: Precision = "fp32"
    device: DeviceName = "cpu"
    evaluate_every: int = 0
    patience: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    steps: int | None = None
    core_minutes: float | None = None

    def most_steps(self, context: int) -> int:
        """Return the number of steps of the budget in tokens and steps, at least one."""
        steps = max(1, round(self.tokens / (self.batch * context)))
        return steps if self.steps is None else max(1, min(steps, self.steps))

    def reach(self, context: int) -> int:
        """Return the number of windows of `context` tokens that the budget covers: no more are read from disk."""
        return self.batch * self.most_steps(context)

    def rate(self, step: int, steps: int) -> float:
        """Return the share of the peak learning rate at a step: linear warm-up, then linear decay."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return 1.0 - (1.0 - self.final) * (step - rising) / max(1, steps - 1 - rising)

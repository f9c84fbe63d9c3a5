"""One dial: shape, horizon, batch and learning rates of a model from its compute, by laws fitted to our own runs.

`scaling.yaml` (written by `python -m benchmarks.scaling`) holds two fits over trainings of this project's loop:

* loss, in bits per byte of held-out text: `E + A / N^alpha + B / D^beta` for N weights and D training tokens (Hoffmann
  et al. 2022, arXiv 2203.15556, third approach);
* CPU seconds: `D (overhead + F / speed)` for F training FLOPs per token.

Both hold for texts like the shipped corpus, near the sizes that were fitted, and the seconds for the machine on which
they were measured. Batch and learning rates are not fitted: the batch grows with D^0.38 (as Bergsma et al. 2025, arXiv
2505.13738, find) from 8 windows at 450,000 tokens of 128, and both learning rates with the square root of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from tasks.architecture.config import Shape, shape_of_dial

DEEPEST = 24
REFERENCE_TOKENS, REFERENCE_BATCH_TOKENS, GROWTH = 450_000, 8 * 128, 0.38
MATRIX_LR, OTHER_LR = 0.02, 0.03  # at the reference batch


@dataclass(frozen=True)
class Law:
    """The fitted laws.

    Attributes:
        floor: loss E that no size lowers, in bits per byte.
        a: A of the term in the weights.
        alpha: its exponent.
        b: B of the term in the tokens.
        beta: its exponent.
        overhead_s: CPU seconds of a token besides its FLOPs.
        flops_per_s: training FLOPs of a CPU second.
    """

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    overhead_s: float
    flops_per_s: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the expected bits per byte of held-out text."""
        return float(self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta)

    def token_s(self, shape: Shape) -> float:
        """Return the CPU seconds of a training token."""
        return self.overhead_s + shape.training_flops_per_token / self.flops_per_s

    def best_tokens(self, parameters: float) -> float:
        """Return the tokens from which more weights would be the better use of compute: alpha A/N^a = beta B/D^b."""
        return float((self.beta * self.b * parameters**self.alpha / (self.alpha * self.a)) ** (1 / self.beta))


@dataclass(frozen=True)
class Plan:
    """What the dial sets.

    Attributes:
        shape: sizes of the model.
        tokens: training tokens.
        batch: windows per training step.
        matrix_lr: learning rate of Muon.
        other_lr: learning rate of AdamW.
        bits_per_byte: expected loss on held-out text.
        core_s: expected CPU seconds of the training.
    """

    shape: Shape
    tokens: int
    batch: int
    matrix_lr: float
    other_lr: float
    bits_per_byte: float
    core_s: float


@cache
def fitted() -> Law:
    """Return the laws in `scaling.yaml`."""
    path = resources.files("tasks.architecture") / "scaling.yaml"
    return Law(**yaml.safe_load(path.read_text(encoding="utf-8"))["law"])


def plan_for_scale(law: Law, depth: int, vocab_size: int, context: int) -> Plan:
    """Return the plan for a number of blocks: as many tokens as suit its weights."""
    shape = shape_of_dial(depth, vocab_size, context)
    return plan_of(law, shape, law.best_tokens(shape.parameters))


def plan_for_time(law: Law, core_s: float, vocab_size: int, context: int) -> Plan:
    """Return the plan with the lowest expected loss whose training takes these CPU seconds.

    Raises:
        ValueError: the seconds are not positive.
    """
    if core_s <= 0:
        raise ValueError(f"a training takes more than 0 CPU seconds, not {core_s:g}")
    shapes = [shape_of_dial(depth, vocab_size, context) for depth in range(1, DEEPEST + 1)]
    plans = [plan_of(law, shape, core_s / law.token_s(shape)) for shape in shapes]
    return min(plans, key=lambda plan: plan.bits_per_byte)


def plan_of(law: Law, shape: Shape, tokens: float) -> Plan:
    """Return the plan for a shape and a number of training tokens."""
    horizon = max(shape.context, round(tokens))
    wished = REFERENCE_BATCH_TOKENS * (horizon / REFERENCE_TOKENS) ** GROWTH
    batch = max(1, round(wished / shape.context))
    rate = (batch * shape.context / REFERENCE_BATCH_TOKENS) ** 0.5
    return Plan(
        shape=shape,
        tokens=horizon,
        batch=batch,
        matrix_lr=MATRIX_LR * rate,
        other_lr=OTHER_LR * rate,
        bits_per_byte=law.loss(shape.parameters, horizon),
        core_s=horizon * law.token_s(shape),
    )

"""Scaling rules: from a budget of compute to model, tokens, batch, learning rates and weight decay.

The rules are fitted on runs of our own loop on the shipped text (`python -m benchmarks.scaling --write`) and stored in
`scaling.yaml` with these runs. The loss follows `floor + A N^-a + B D^-b` in parameters N and tokens D (Hoffmann et al.
2022, approach 3). Tokens that are read again count less, by the form of Muennighoff et al. 2023 with a constant that is
fitted here: small models gain far less from reading again. The batch is a power law of the training FLOPs (arXiv
2401.02954), the learning rates are one of the optimiser steps and of the parameters. Weight decay rises with the
logarithm of the number of readings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import exp, log
from typing import Any

import yaml

from tasks.model.recipe import Recipe

UNIT = 1e5  # parameters, tokens
COMPUTE = 1e11  # FLOPs
STEPS = 100.0  # of the optimiser
BATCHES = (4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Power:
    """A power law `at * (x / unit)^exponent`."""

    at: float
    exponent: float
    unit: float

    def __call__(self, x: float) -> float:
        """Return the value at x."""
        return float(self.at * (x / self.unit) ** self.exponent)


@dataclass(frozen=True)
class Rules:
    """Fitted scaling rules.

    Attributes:
        floor, model, model_exponent, data, data_exponent: of the loss in bits per byte, N and D in units of 1e5.
        residual: root mean square error of the loss at each run, predicted by a fit to the others, bits per byte.
        rates: factor of the default learning rates by optimiser steps, for 1e5 parameters.
        rates_by_size: exponent with which the learning rates change with the parameters.
        batch: windows of a step by training FLOPs.
        weight_decay: of matrices, for each factor of e by which a text is read more than once.
        again: readings after which one more is worth 1/e of new text.
        largest: training FLOPs of the largest run of the fit.
    """

    floor: float
    model: float
    model_exponent: float
    data: float
    data_exponent: float
    residual: float
    rates: Power
    rates_by_size: float
    batch: Power
    weight_decay: float
    again: float
    largest: float

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Rules:
        """Return the rules of their plain values."""
        laws = {name: Power(**stored[name]) for name in ("rates", "batch")}
        return cls(**{**stored, **laws})

    def fresh(self, tokens: float, unique_tokens: float) -> float:
        """Return the number of new tokens that are worth as much as reading a text of some tokens again and again."""
        return fresh_tokens(tokens, unique_tokens, self.again)

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the predicted bits per byte on held-out text."""
        size, read = parameters / UNIT, tokens / UNIT
        return float(self.floor + self.model * size**-self.model_exponent + self.data * read**-self.data_exponent)

    def recipe(
        self, parameters: float, flops: float, tokens: float, context: int, unique_tokens: float
    ) -> dict[str, float]:
        """Return the settings of a training: `matrix_lr`, `other_lr`, `batch`, `weight_decay`.

        Args:
            parameters: of the model.
            flops: training FLOPs.
            tokens: training tokens.
            context: tokens of a window.
            unique_tokens: tokens of the training text; more are read again.
        """
        wanted = self.batch(flops)
        batch = min(BATCHES, key=lambda batch: abs(log(batch / wanted)))
        factor = self.rates(tokens / (batch * context)) * (parameters / UNIT) ** self.rates_by_size
        repeats = max(1.0, tokens / unique_tokens)
        return {
            "matrix_lr": factor * Recipe.matrix_lr,
            "other_lr": factor * Recipe.other_lr,
            "batch": batch,
            "weight_decay": self.weight_decay * log(repeats),
        }


@cache
def rules() -> Rules:
    """Return the rules that ship."""
    path = resources.files("tasks.model") / "scaling.yaml"
    return Rules.of(yaml.safe_load(path.read_text(encoding="utf-8"))["rules"])


def fresh_tokens(tokens: float, unique_tokens: float, again: float) -> float:
    """Return the new tokens that are worth as much as `tokens` of a text of `unique_tokens`; see `Rules.again`."""
    if tokens <= unique_tokens:
        return tokens
    return unique_tokens * (1 + again * (1 - exp(-(tokens / unique_tokens - 1) / again)))


def optimum(points: Sequence[tuple[float, float]]) -> float:
    """Return the minimum of the parabola of the loss in the logarithm of a setting, within a factor of 2 of the points.

    Args:
        points: (setting, loss), at least three different settings.
    """
    import numpy as np

    at = np.log([setting for setting, _ in points])
    curved, slope, _ = np.polyfit(at, [loss for _, loss in points], 2)
    lowest, highest = float(at.min() - log(2)), float(at.max() + log(2))
    if curved <= 0:
        return exp(min(zip([loss for _, loss in points], at.tolist(), strict=True))[1])
    return exp(min(max(float(-slope / (2 * curved)), lowest), highest))

"""The dial: one budget of compute chooses shape, tokens and settings of the training by the fitted scaling rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.architecture.config import TOKENS_PER_PARAMETER, Shape, shape_of_dial
from tasks.architecture.rate import Rate
from tasks.model.scaling import Rules, rules

DEEPEST = 48
DEMO = Shape(depth=4, width=128, heads=4, ffn=384, vocab_size=4096, context=128)
DEMO_TOKENS = 200_000
DEMO_FLOPS = float(DEMO.training_flops_per_token * DEMO_TOKENS)  # at scale 1
FEWEST_STEPS = 100


@dataclass(frozen=True)
class Budget:
    """Limits of a training, at least one; the smallest counts.

    Attributes:
        flops: floating-point operations.
        times: seconds on processors, with their rates.
    """

    flops: float | None = None
    times: tuple[tuple[float, Rate], ...] = ()

    def __post_init__(self) -> None:
        if self.flops is None and not self.times:
            raise ValueError("a budget needs a limit in flops or seconds")

    def tokens(self, shape: Shape) -> int:
        """Return the training tokens that a model of this shape can read."""
        each = shape.training_flops_per_token
        found = [rate.tokens(each, seconds) for seconds, rate in self.times]
        return int(min([*found, *([] if self.flops is None else [self.flops / each])]))


@dataclass(frozen=True)
class Choice:
    """What the rules choose for a budget.

    Attributes:
        shape: the model.
        recipe: settings of the training: `tokens`, `batch`, learning rates, `weight_decay`.
        flops: floating-point operations of the training.
        predicted: bits per byte on held-out text.
        residual: root mean square error at runs that a fit did not see, bits per byte.
        beyond: training FLOPs as a multiple of the largest run of the fit; above 1 the rules are extrapolated.
    """

    shape: Shape
    recipe: Mapping[str, float]
    flops: float
    predicted: float
    residual: float
    beyond: float


def best_depth(budget: Budget, vocab_size: int, context: int, unique_tokens: float, fitted: Rules | None = None) -> int:
    """Return the depth with the lowest predicted loss.

    A depth whose budget covers fewer than 100 steps of four windows is too large. One that reads more than 20 tokens a
    parameter is too small: the runs of the fit end far below that.
    """
    fitted = fitted or rules()

    def loss(depth: int) -> float:
        shape = shape_of_dial(depth, vocab_size, context)
        tokens = budget.tokens(shape)
        if depth > 1 and tokens < FEWEST_STEPS * 4 * context:
            return float("inf")
        if depth < DEEPEST and tokens > TOKENS_PER_PARAMETER * shape.parameters:
            return float("inf")
        return fitted.loss(shape.parameters, fitted.fresh(max(tokens, 1), unique_tokens))

    return min(range(1, DEEPEST + 1), key=loss)


def choose(budget: Budget, shape: Shape, unique_tokens: float, fitted: Rules | None = None) -> Choice:
    """Return the settings of a training of this shape.

    Args:
        budget: limits of the training.
        shape: the model.
        unique_tokens: tokens of the training text.
        fitted: the rules; None = those that ship.
    """
    fitted = fitted or rules()
    tokens = max(1, budget.tokens(shape))
    flops = float(shape.training_flops_per_token * tokens)
    recipe = {
        "tokens": tokens,
        **fitted.recipe(shape.parameters, flops, tokens, shape.context, unique_tokens),
    }
    predicted = fitted.loss(shape.parameters, fitted.fresh(tokens, unique_tokens))
    return Choice(shape, recipe, flops, predicted, fitted.residual, flops / fitted.largest)

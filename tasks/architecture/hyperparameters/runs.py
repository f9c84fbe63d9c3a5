"""One evaluation of the search: a real training run of a small model, or the stored result of one.

The small model stands for the model of the run: 35,000 to 40,000 weights in its blocks on windows of 64 tokens, trained
by the project's own loop. Its loss on validation text is read after each quarter of the training; the search sees
these losses only. The loss on the test text at the end scores the search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tasks.architecture.config import Shape, build_model
from tasks.architecture.dial import Budget, best_depth, choose
from tasks.architecture.hyperparameters.space import nearest, values
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training.loop import Watch, train
from tasks.model.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUARTERS = 4
SHAPES: Mapping[int, tuple[int, int]] = {1: (48, 128), 2: (32, 96)}  # width and feed-forward units by depth
HEAD_WIDTH = 16


def small_shape(depth: int, vocab_size: int, context: int) -> Shape:
    """Return the shape of the small model with one or two blocks."""
    width, ffn = SHAPES[depth]
    return Shape(depth, width, width // HEAD_WIDTH, ffn, vocab_size, context)


def default_setting(vocab_size: int, context: int, tokens: int, unique_tokens: int) -> int:
    """Return the setting nearest to what the dial chooses for the compute of a run of the small model."""
    flops = float(small_shape(2, vocab_size, context).training_flops_per_token * tokens)
    depth = min(2, best_depth(Budget(flops=flops), vocab_size, context, unique_tokens))
    chosen = choose(Budget(flops=flops), small_shape(depth, vocab_size, context), unique_tokens).recipe
    return nearest({"depth": depth, "warmup": Recipe.warmup, **chosen})


@dataclass(frozen=True)
class Curve:
    """What a training run came to.

    Attributes:
        validation: bits per byte on validation text after each quarter that was trained.
        test: bits per byte on test text at the end; nan if the run was stopped early.
        cpu_s: CPU seconds of the training after each quarter that was trained, evaluation included.
    """

    validation: tuple[float, ...]
    test: float
    cpu_s: tuple[float, ...]


@dataclass(frozen=True)
class Stored:
    """Stored runs of every setting.

    Attributes:
        validation: (256, 4), bits per byte after each quarter.
        test: (256,), bits per byte at the end.
        cpu_s: (256, 4), CPU seconds after each quarter.
        default: the setting that the dial chooses.
    """

    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    cpu_s: NDArray[np.float64] = field(compare=False)
    default: int = 0

    def curve(self, setting: int, limits: Sequence[float]) -> Curve:
        """Return the stored run, cut where it exceeds a limit."""
        losses = self.validation[setting].tolist()
        quarters = next((q + 1 for q, limit in enumerate(limits) if losses[q] > limit), QUARTERS)
        test = float(self.test[setting]) if quarters == QUARTERS else float("nan")
        return Curve(tuple(losses[:quarters]), test, tuple(self.cpu_s[setting, :quarters].tolist()))


@dataclass(frozen=True)
class Real:
    """Real training runs on these texts.

    Attributes:
        training: windows that are trained on.
        validation: windows whose loss the search sees.
        test: windows whose loss scores the search.
        vocab_size: number of tokens in the vocabulary.
        tokens: training tokens of a run.
        seed: seed of weights and order.
    """

    training: Windows
    validation: Windows
    test: Windows
    vocab_size: int
    tokens: int
    seed: int

    @property
    def penalty(self) -> float:
        """Bits per byte of a failed run: those of a model that knows nothing, the same for all arms."""
        return math.log2(self.vocab_size) * self.validation.n_predicted / float(self.validation.n_bytes.sum())

    @property
    def default(self) -> int:
        """The setting that the dial chooses."""
        unique = len(self.training) * self.training.context
        return default_setting(self.vocab_size, self.training.context, self.tokens, unique)

    def curve(self, setting: int, limits: Sequence[float]) -> Curve:
        """Train, stopping after a quarter whose validation loss exceeds its limit.

        Args:
            setting: the setting.
            limits: highest loss after each of the first quarters; none = train to the end.
        """
        chosen = values(setting)
        model = build_model(small_shape(int(chosen["depth"]), self.vocab_size, self.training.context), 0, self.seed)
        recipe = Recipe(
            tokens=self.tokens,
            batch=int(chosen["batch"]),
            matrix_lr=chosen["matrix_lr"],
            other_lr=chosen["other_lr"],
            warmup=chosen["warmup"],
            weight_decay=chosen["weight_decay"],
            seed=self.seed,
        )
        steps = recipe.most_steps(self.training.context)
        losses: list[float] = []
        cpu_s: list[float] = []
        began = time.process_time()

        def read(step: int) -> bool:
            """Read the loss at the end of each quarter; true ends the training."""
            if step < round((len(losses) + 1) * steps / QUARTERS):
                return False
            loss = bits_per_byte(model, self.validation)
            losses.append(loss if np.isfinite(loss) else self.penalty)
            cpu_s.append(time.process_time() - began)
            return len(losses) <= len(limits) and losses[-1] > limits[len(losses) - 1]

        try:
            train(model, self.training, recipe, Watch(stop=read))
        except FloatingPointError:
            left, spent = QUARTERS - len(losses), time.process_time() - began
            return Curve((*losses, *[self.penalty] * left), self.penalty, (*cpu_s, *[spent] * left))
        complete = len(losses) == QUARTERS
        test = bits_per_byte(model, self.test) if complete else float("nan")
        return Curve(tuple(losses), test, tuple(cpu_s))

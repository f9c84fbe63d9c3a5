"""The problem of `batch_selection`: a pool of windows, and the model that a selection from it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tasks.contract import content_key
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training.loop import train
from tasks.model.windows import Windows

Rows = tuple[int, ...]  # windows of the pool, in ascending order


@dataclass(frozen=True)
class Pool:
    """Choose the windows that a model is trained on.

    Attributes:
        tokens: unsigned, (n, context + 1).
        vocabulary: number of tokens in the vocabulary.
        keep: windows chosen from each block.
        block: windows of a block; selections by a QUBO choose inside blocks of consecutive windows.
        shots: samples of each circuit.
        held_out: text on which a model trained on the selection is scored; None in a run, where the model is trained
            once and not once for every arm.
        steps: optimiser steps of that training, the same for every selection.
        seed: seed of that model and of the order of its batches.
    """

    tokens: NDArray[np.uint16] | NDArray[np.uint32]
    vocabulary: int
    keep: int
    block: int
    shots: int = 64
    held_out: Windows | None = None
    steps: int = 0
    seed: int = 0
    width: int = field(default=64)

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.block:
            raise ValueError(f"keep ({self.keep}) should lie between 1 and {self.block - 1}, one less than a block")
        if len(self.tokens) % self.block:
            raise ValueError(f"the pool has {len(self.tokens)} windows, which do not divide into {self.block}s")

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.tokens) // self.block

    @property
    def chosen(self) -> int:
        """Number of windows of a selection."""
        return self.blocks * self.keep


def quality(problem: Pool, rows: Rows) -> tuple[float, ...]:
    """Return minus the bits per byte of a model trained on the selection; empty where no held-out text is given."""
    if problem.held_out is None:
        return ()
    return (-_trained(_Key(problem, content_key(problem), rows)),)


@dataclass(frozen=True)
class _Key:
    """A selection by the content of its problem, so that arms that agree are trained once."""

    problem: Pool = field(compare=False)
    content: str
    rows: Rows


@lru_cache(maxsize=4096)
def _trained(key: _Key) -> float:
    from tasks.model.small import new_model, small_config

    problem = key.problem
    assert problem.held_out is not None  # noqa: S101  (for mypy)
    tokens = np.asarray(problem.tokens, np.int64)[list(key.rows)]
    context = tokens.shape[1] - 1
    config = small_config(problem.width, 2, 2, 2 * problem.width, context, problem.vocabulary)
    model = new_model(config, problem.seed)
    recipe = Recipe(tokens=problem.steps * 16 * context, batch=16, matrix_lr=0.05, seed=problem.seed)
    train(model, Windows(tokens, np.full(len(tokens), context, np.int64)), recipe)
    return bits_per_byte(model, problem.held_out)

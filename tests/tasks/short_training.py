"""A small decision whose solution is a trained model: the weights of a regression on the shipped licence texts.

Its arms are trainings with checkpoints, its solution is an artifact, and its problem has a budget.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.contract import CELLS, Arm, Artifact, Bench, Budget, Instance, Kind, Material, Subtask

STEPS, CHECKPOINT_EVERY = 40, 5


@dataclass(frozen=True)
class Regression:
    """Fit `y = X w` by gradient descent.

    Attributes:
        x: (n, d) inputs.
        y: (n,) targets.
        pause_s: seconds that a step sleeps, so that a test can kill it.
        budget: what an arm may use.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    pause_s: float = 0.0
    budget: Budget | None = None


def train(problem: Regression, bench: Bench, rate: float) -> Artifact:
    """Train from the last checkpoint, if an attempt before left one."""
    checkpoint = bench.resume() / "checkpoint.npz"
    weights, start = np.zeros(problem.x.shape[1]), 0
    if checkpoint.exists():
        stored = np.load(checkpoint)
        weights, start = stored["weights"], int(stored["step"])
    for step in range(start, STEPS):
        bench.spend(tokens=len(problem.y))
        weights = weights - rate * problem.x.T @ (problem.x @ weights - problem.y) / len(problem.y)
        time.sleep(problem.pause_s)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            temporary = checkpoint.with_suffix(".tmp.npz")
            np.savez(temporary, weights=weights, step=step + 1)
            temporary.replace(checkpoint)
    folder = bench.scratch / "model"
    folder.mkdir()
    (folder / "weights.json").write_text(json.dumps(weights.tolist()))
    (bench.scratch.parent.parent / f"resumed-at-{start}").touch()  # for the test; no part of the solution
    return Artifact.of(folder)


def steady(problem: Regression, bench: Bench) -> Artifact:
    """Gradient descent with a good rate."""
    return train(problem, bench, 0.5)


def slow(problem: Regression, bench: Bench) -> Artifact:
    """Gradient descent with a rate that is too small."""
    return train(problem, bench, 0.01)


def untrained(problem: Regression, bench: Bench) -> Artifact:
    """Weights of zero."""
    folder = bench.scratch / "model"
    folder.mkdir()
    (folder / "weights.json").write_text(json.dumps([0.0] * problem.x.shape[1]))
    return Artifact.of(folder)


def quality(problem: Regression, solution: Artifact) -> tuple[float, ...]:
    """Return minus the mean squared error of the stored weights."""
    weights = np.array(json.loads((solution.folder / "weights.json").read_text()))
    return (-float(np.mean((problem.x @ weights - problem.y) ** 2)),)


def example(rng: Generator) -> Regression:
    """Sixty points in three dimensions."""
    x = rng.normal(size=(60, 3))
    return Regression(x, x @ np.array([1.0, -2.0, 0.5]))


def bank(material: Material, rng: Generator) -> Iterator[Instance[Regression]]:
    """Yield a cell for each seed."""
    del material
    for seed in range(2 * CELLS.least):
        yield Instance("made up", f"seed {seed}", 60, lambda: example(np.random.default_rng(int(rng.integers(99)))))


TRAINING: Subtask[Regression, Artifact] = Subtask(
    stage="training",
    name="short_training",
    incumbent=Arm("steady", Kind.CLASSICAL, steady),
    challenger=None,
    others=(Arm("untrained", Kind.CONTROL, untrained, does_nothing=True), Arm("slow", Kind.CLASSICAL, slow)),
    quality=quality,
    metric="minus mean squared error",
    size=lambda problem: len(problem.y),
    tolerance=0.01,
    bank=bank,
    example=example,
    design=CELLS,
)


def solve_once(home: Path, pause_s: float) -> None:
    """Settle the decision as a stage does; called in a process that a test kills."""
    from dataclasses import replace

    from tasks.contract import Method
    from tasks.settle import settle
    from tasks.workbench import Workbench

    problem = replace(example(np.random.default_rng(0)), pause_s=pause_s)
    settle(TRAINING, problem, Workbench("r", home, str(home / "ledger.db"), method=Method.CLASSICAL, minimum_s=0.0))

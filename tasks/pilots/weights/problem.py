"""The problem of `weights`: labelled rows to learn from, and rows to be labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST = 1e-12  # of a probability, so that a test loss is finite


@dataclass(frozen=True, eq=False)
class Training:
    """A classification task and the size of the network that is trained for it.

    Attributes:
        train: (n, d) features with labels, standardised.
        labels: (n,) labels 0, 1, ...
        test: (m, d) features to be labelled.
        truth: their labels.
        hidden: units of the hidden layers.
        sweeps: how often every weight is visited.
        qubits: of a search; a weight has 2^qubits candidate values at each visit.
        span: largest step of a weight in the first sweep; it is halved in each further one.
        batch: shots of a circuit that are drawn in one job and used one by one.

    Raises:
        ValueError: the shapes do not match.
    """

    train: Floats
    labels: NDArray[np.int64]
    test: Floats
    truth: NDArray[np.int64]
    hidden: tuple[int, ...] = (8,)
    sweeps: int = 6
    qubits: int = 4
    span: float = 2.0
    batch: int = 64

    def __post_init__(self) -> None:
        shapes = len(self.train) == len(self.labels), len(self.test) == len(self.truth)
        if not all(shapes) or self.train.shape[1:] != self.test.shape[1:]:
            raise ValueError(
                f"features {self.train.shape} and {self.test.shape} do not fit "
                f"{len(self.labels)} and {len(self.truth)} labels"
            )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Units of all layers, the input first."""
        return (self.train.shape[1], *self.hidden, int(max(self.labels.max(), self.truth.max())) + 1)

    @property
    def weights(self) -> int:
        """Number of weights, biases included."""
        return sum((a + 1) * b for a, b in pairwise(self.sizes))

    @property
    def candidates(self) -> int:
        """Values that a weight may take at a visit; one of them keeps it."""
        return 1 << self.qubits


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        labels: of the test rows.
        loss: mean cross-entropy on the test rows in nats; None where the method gives no probabilities.
        evaluations: losses of the training rows that were computed; a gradient counts as three.
        queries: queries of the quantum oracle.
    """

    labels: tuple[int, ...]
    loss: float | None
    evaluations: int
    queries: int = 0


def trained(problem: Training, probabilities: Floats, evaluations: int, queries: int = 0) -> Trained:
    """Return the solution for probabilities of the labels (m, classes)."""
    right = probabilities[np.arange(len(problem.truth)), problem.truth]
    loss = -float(np.log(np.maximum(right, LEAST)).mean())
    return Trained(tuple(probabilities.argmax(axis=1).tolist()), loss, int(evaluations), int(queries))


def quality(problem: Training, solution: Trained) -> tuple[float, ...]:
    """Return the share of right labels."""
    return (float(np.mean(problem.truth == np.array(solution.labels))),)


def measures(_: Training, solution: Trained) -> Mapping[str, tuple[float, ...]]:
    """Return test loss, loss evaluations and oracle queries."""
    loss = {} if solution.loss is None else {"test loss": (solution.loss,)}
    return {**loss, "evaluations": (float(solution.evaluations),), "oracle queries": (float(solution.queries),)}

"""The problem of `head`: a few labelled feature vectors, and vectors to be labelled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating[Any]]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """The label of each vector to be labelled."""

    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FewShot:
    """Frozen features of a few labelled texts and of texts to be labelled.

    Attributes:
        train: (n, d) features with labels.
        labels: (n,) labels 0, 1, ...; every label occurs at least twice.
        test: (m, d) features to be labelled.
        truth: their labels; empty where they are not known.
        components: principal components that some heads read; each is one qubit.
        layers: input blocks of the circuit.
        steps: training steps of the circuit head for each input scale.
        shots: samples of each circuit.

    Raises:
        ValueError: the shapes do not match, or a label occurs once.
    """

    train: Vectors
    labels: NDArray[np.int64]
    test: Vectors
    truth: tuple[int, ...]
    components: int = 8
    layers: int = 2
    steps: int = 60
    shots: int = 256

    def __post_init__(self) -> None:
        if len(self.train) != len(self.labels) or self.train.shape[1:] != self.test.shape[1:]:
            raise ValueError(f"features {self.train.shape} and {self.test.shape} and {len(self.labels)} labels differ")
        if np.unique(self.labels, return_counts=True)[1].min() < 2:
            raise ValueError("every label should occur at least twice")

    @cached_property
    def classes(self) -> int:
        """Number of labels."""
        return int(self.labels.max()) + 1

    @cached_property
    def reduced(self) -> tuple[FloatArray, FloatArray]:
        """Train and test features on the leading components of all of them, with unit variance; no label is read."""
        both = np.vstack([self.train, self.test]).astype(np.float64)
        axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)[2][: self.components]
        found = (both - both.mean(axis=0)) @ axes.T
        found /= np.maximum(found.std(axis=0), 1e-12)
        return found[: len(self.train)], found[len(self.train) :]


def quality(problem: FewShot, solution: Labels) -> tuple[float, ...]:
    """Return the share of right labels; empty where the truth is not known."""
    if not problem.truth:
        return ()
    return (float(np.mean(np.array(problem.truth) == np.array(solution.values))),)

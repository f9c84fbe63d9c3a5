"""A network of tanh layers whose weights are changed one at a time, and the losses of all candidates of a weight.

A change of one weight changes one unit of its layer, so the losses of the candidates are computed from the stored
values of that layer on: one evaluation costs what follows the weight, not a whole pass. Values are stored by unit,
(units, n), so that sums over classes run along memory.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import softmax

from tasks.pilots.weights.problem import Floats

Single = NDArray[np.float32]
Place = tuple[int, int, int]  # layer, unit, and input of the unit; the last input is the constant 1 of the bias


class Network:
    """Weights with the values of all units on the training rows.

    Args:
        rows: (n, d) training rows.
        labels: (n,) their labels.
        sizes: units of the layers, the input first.
        rng: draws the first weights, normal with variance 1 / inputs.
    """

    def __init__(self, rows: Floats, labels: NDArray[np.int64], sizes: tuple[int, ...], rng: Generator) -> None:
        shapes = pairwise(sizes)
        drawn = [np.hstack([rng.normal(0, 1 / np.sqrt(a), (b, a)), np.zeros((b, 1))]) for a, b in shapes]
        self.weights = [w.astype(np.float32) for w in drawn]
        self._labels = labels
        self._inputs = [_with_ones(rows.T.astype(np.float32))]  # of each layer, (units + 1, n)
        self._sums: list[Single] = []  # of each layer, before the tanh, (units, n)
        self._refresh(0)

    def places(self) -> list[Place]:
        """Return layer, unit and input of every weight."""
        return [(layer, j, i) for layer, w in enumerate(self.weights) for j, i in np.ndindex(*w.shape)]

    def losses(self, place: Place, steps: Single) -> Floats:
        """Return the mean cross-entropy of the training rows after each step (k,) of a weight."""
        layer, j, i = place
        sums = self._sums[layer][j] + steps[:, None] * self._inputs[layer][i]  # (k, n)
        if layer == len(self.weights) - 1:
            logits = np.repeat(self._sums[layer][:, None], len(steps), axis=1)  # (classes, k, n)
            logits[j] = sums
        else:
            moved = np.tanh(sums) - self._inputs[layer + 1][j]
            logits = self._sums[layer + 1][:, None] + self.weights[layer + 1][:, j, None, None] * moved
            for after in self.weights[layer + 2 :]:
                logits = np.tensordot(after[:, :-1], np.tanh(logits), axes=1) + after[:, -1, None, None]
        true = np.take_along_axis(logits, self._labels[None, None], axis=0)[0]
        highest = logits.max(axis=0)
        spread = np.log(np.exp(logits - highest).sum(axis=0))
        return np.asarray((highest + spread - true).mean(axis=1), np.float64)

    def move(self, place: Place, step: float) -> None:
        """Add a step to a weight."""
        layer, j, i = place
        self.weights[layer][j, i] += np.float32(step)
        self._sums[layer][j] += np.float32(step) * self._inputs[layer][i]
        if layer < len(self.weights) - 1:
            now = np.tanh(self._sums[layer][j])
            self._sums[layer + 1] += self.weights[layer + 1][:, j, None] * (now - self._inputs[layer + 1][j])
            self._inputs[layer + 1][j] = now
            self._refresh(layer + 2)

    def probabilities(self, rows: Floats) -> Floats:
        """Return the probabilities (m, classes) of rows (m, d)."""
        values = rows.T.astype(np.float32)
        for layer, w in enumerate(self.weights):
            values = w[:, :-1] @ (np.tanh(values) if layer else values) + w[:, -1:]
        return np.asarray(softmax(values.T.astype(np.float64), axis=1))

    def _refresh(self, start: int) -> None:
        """Compute the values of the layers from `start` on again."""
        for layer in range(start, len(self.weights)):
            if layer:
                self._inputs[layer:] = [_with_ones(np.tanh(self._sums[layer - 1]))]
            self._sums[layer:] = [self.weights[layer] @ self._inputs[layer]]


def _with_ones(values: Single) -> Single:
    return np.vstack([values, np.ones((1, values.shape[1]), np.float32)])

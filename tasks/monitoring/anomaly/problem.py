"""The problem of `anomaly`: requests to be ranked by anomaly score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


@dataclass(frozen=True)
class Scores:
    """Anomaly scores of the requests; higher is more anomalous. Scores of different arms are not comparable."""

    values: tuple[float, ...]


def quality(problem: Anomaly, solution: Scores) -> tuple[float, ...]:
    """Return the area under the ROC curve (Mann-Whitney, ties count half); empty if truth is unknown or one-sided."""
    truth = np.array(problem.truth, bool)
    strange = int(truth.sum())
    if not len(truth) or strange in (0, len(truth)):
        return ()
    ranks = rankdata(solution.values)
    normal = len(truth) - strange
    return (float((ranks[truth].sum() - strange * (strange + 1) / 2) / (strange * normal)),)


Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Anomaly:
    """Requests to be ranked by anomaly score.

    Attributes:
        reference: (r, d) embeddings of normal requests.
        requests: (m, d) embeddings to be scored.
        truth: whether each request is anomalous; empty if that is not known.
        shots: samples of each circuit.
        components: features that the projected kernel encodes, a qubit each: principal components and the residual.

    Raises:
        ValueError: the shapes do not match, or the reference has fewer than eight requests.
    """

    reference: Vectors
    requests: Vectors
    truth: tuple[bool, ...] = ()
    shots: int = 128
    components: int = 8

    def __post_init__(self) -> None:
        if self.truth and len(self.truth) != len(self.requests):
            raise ValueError(f"{len(self.truth)} truths should be as many as the requests ({len(self.requests)})")
        shapes = self.reference.shape, self.requests.shape
        if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1] or shapes[0][0] < 8:
            raise ValueError(f"at least 8 reference vectors and requests of the same length expected, got {shapes}")

"""The problem of `anomaly`: requests to be ordered by how unusual they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


@dataclass(frozen=True)
class Scores:
    """How strange each request is; the higher, the stranger. Not comparable between arms."""

    values: tuple[float, ...]


def quality(problem: Anomaly, solution: Scores) -> tuple[float, ...]:
    """Area under the ROC curve (Mann-Whitney, ties count half); empty where the truth is not known or one-sided."""
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
    """Requests to be ordered by how strange they are.

    Attributes:
        reference: (r, d) embeddings of normal requests.
        requests: (m, d) embeddings to be scored.
        truth: whether each request is strange, or empty where that is not known.
        shots: for each circuit.

    Raises:
        ValueError: shapes that do not fit, or a reference of fewer than eight.
    """

    reference: Vectors
    requests: Vectors
    truth: tuple[bool, ...] = ()
    shots: int = 128

    def __post_init__(self) -> None:
        if self.truth and len(self.truth) != len(self.requests):
            raise ValueError(f"{len(self.truth)} truths should be as many as the requests ({len(self.requests)})")
        shapes = self.reference.shape, self.requests.shape
        if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1] or shapes[0][0] < 8:
            raise ValueError(f"at least 8 reference vectors and requests of the same length expected, got {shapes}")

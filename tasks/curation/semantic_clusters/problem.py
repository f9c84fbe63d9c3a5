"""The problem of `semantic_clusters`: documents, the removals that follow from a clustering, and their quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.quantum.kmeans import (
    Labels,
)
from tasks.text.embeddings import normalised


@dataclass(frozen=True, eq=False)
class Clustering:
    """Documents among which semantic duplicates are looked for.

    Attributes:
        vectors: (n, d) embeddings; scaled to unit length here.
        threshold: cosine from which two documents are duplicates.
        clusters: number of clusters.
        iterations: assignments of Lloyd's algorithm at most.
        start: seed of the first centroids, which all Lloyd arms share.
        weights: (n,) value of each document; of two duplicates the heavier stays; empty: the first stays.
        shots: for each circuit.
        truth: group of each document, equal for documents that repeat each other, judged without the vectors; empty
            where that is not known. No arm looks at it.
        names: ids of the documents, where they have some; no part of the problem's identity.

    Raises:
        ValueError: fewer than two documents, weights of another length, a threshold outside (0, 1], or a number of
            clusters that neither the documents nor the dimensions allow.
    """

    vectors: NDArray[np.floating[Any]]
    threshold: float = 0.9
    clusters: int = 4
    iterations: int = 6
    start: int = 0
    weights: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))
    shots: int = 256
    truth: tuple[int, ...] = ()
    names: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        n, d = self.vectors.shape if self.vectors.ndim == 2 else (0, 0)
        if n < 2:
            raise ValueError(f"a matrix with at least 2 documents expected, got {self.vectors.shape}")
        if len(self.weights) not in (0, n):
            raise ValueError(f"{len(self.weights)} weights should be as many as the documents ({n})")
        if len(self.truth) not in (0, n):
            raise ValueError(f"{len(self.truth)} groups should be as many as the documents ({n})")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"the threshold is a cosine above 0 and up to 1, not {self.threshold}")
        if not 1 <= self.clusters <= min(n, d):
            raise ValueError(f"between 1 and {min(n, d)} clusters are possible, not {self.clusters}")

    @property
    def points(self) -> NDArray[np.float32]:
        """The unit vectors."""
        return normalised(self.vectors)


@dataclass(frozen=True)
class Duplicates:
    """What a clustering found.

    Attributes:
        labels: cluster of each document.
        removed: (document, kept witness, cosine) in rising order of documents.
        lost_signs: point-iterations whose overlap was negative, where the arm can know it; 0 elsewhere.
    """

    labels: tuple[int, ...]
    removed: tuple[tuple[int, int, float], ...]
    lost_signs: int = 0


def remove_within(problem: Clustering, labels: Labels, lost_signs: int = 0) -> Duplicates:
    """Remove duplicates within each cluster; every one removed has a kept witness at the threshold or above."""
    points = problem.points.astype(np.float64)
    weights = problem.weights if len(problem.weights) else np.zeros(len(points))
    removed: list[tuple[int, int, float]] = []
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        members = members[np.argsort(-weights[members], kind="stable")]
        cosines = points[members] @ points[members].T
        kept = np.zeros(len(members), bool)
        for row in range(len(members)):
            near = np.where(kept, cosines[row], -np.inf)
            best = int(near.argmax())
            if near[best] >= problem.threshold:
                removed.append((int(members[row]), int(members[best]), round(float(near[best]), 6)))
            else:
                kept[row] = True
    return Duplicates(tuple(int(label) for label in labels), tuple(sorted(removed)), lost_signs)


def quality(problem: Clustering, solution: Duplicates) -> tuple[float, ...]:
    """F1 of the removals against what is known to repeat what; empty where that is not known.

    A removal is right if the kept witness repeats the removed document: precision is the share of right removals,
    recall their number over the removals that leave one document of each group. 1 where rightly nothing is removed.
    """
    if not problem.truth:
        return ()
    right = sum(problem.truth[item] == problem.truth[witness] for item, witness, _ in solution.removed)
    removable = len(problem.truth) - len(set(problem.truth))
    if not removable and not solution.removed:
        return (1.0,)
    return (2 * right / (removable + len(solution.removed)),)

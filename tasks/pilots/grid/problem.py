"""The problem of `grid`: days of the grid to be put into clusters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, silhouette_score

from tasks.quantum.kmeans import FloatArray, classical_kmeans, start_centroids

RESTARTS = 10


@dataclass(frozen=True)
class Clusters:
    """A clustering.

    Attributes:
        labels: cluster of each day.
        iterations: assignments that were made; 0 where the method has none of its own.
        circuits: circuits of an iteration.
        shots: shots of an iteration.
    """

    labels: tuple[int, ...]
    iterations: int = 0
    circuits: int = 0
    shots: int = 0


@dataclass(frozen=True, eq=False)
class Grid:
    """Days to be clustered.

    Attributes:
        points: (n, d) unit vectors: the first principal components of the standardised days, scaled to length 1.
        everything: (n, D) all standardised values of the same days.
        weekend: whether each day is a Saturday or a Sunday.
        season: its season, 0 to 3.
        clusters: number of clusters.
        start: seed of the first centroids, the same for all arms that begin with given ones.
        iterations: assignments at most.
        shots: shots that an iteration may take together.
        circuits: circuits of an iteration above which an arm is not simulated.

    Raises:
        ValueError: shapes that do not match, or more clusters than dimensions.
    """

    points: FloatArray
    everything: FloatArray
    weekend: NDArray[np.int64]
    season: NDArray[np.int64]
    clusters: int = 3
    start: int = 0
    iterations: int = 8
    shots: int = 16_384
    circuits: int = 400

    def __post_init__(self) -> None:
        n, d = self.points.shape
        if not len(self.everything) == len(self.weekend) == len(self.season) == n:
            raise ValueError(f"{n} points need as many rows of all values, weekends and seasons")
        if not 2 <= self.clusters <= min(n - 1, d + 1):
            raise ValueError(f"between 2 and {min(n - 1, d + 1)} clusters are possible, not {self.clusters}")

    @cached_property
    def first(self) -> FloatArray:
        """The first centroids: of ten starts by k-means++ the one with the least squared distances to it."""
        rng = np.random.default_rng(self.start)
        starts = [start_centroids(self.points, self.clusters, rng) for _ in range(RESTARTS)]
        nearest = [np.square(self.points[:, None] - start[None]).sum(axis=2).min(axis=1).sum() for start in starts]
        return starts[int(np.argmin(nearest))]

    @cached_property
    def reference(self) -> NDArray[np.intp]:
        """Labels of Lloyd's algorithm with exact distances from the first centroids; for scoring only."""
        return classical_kmeans(self.points, self.first, self.iterations)

    @cached_property
    def best_reference(self) -> NDArray[np.intp]:
        """Labels of k-means with the best of ten starts; for scoring only."""
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            found = KMeans(self.clusters, n_init=RESTARTS, random_state=self.start % 2**31).fit(self.points)
        return np.asarray(found.labels_, np.intp)


def inertia(points: FloatArray, labels: NDArray[np.integer]) -> float:
    """Return the sum of squared distances to the means of the clusters."""
    return float(
        sum(np.square(part - part.mean(axis=0)).sum() for c in set(labels) if len(part := points[labels == c]))
    )


def agreement(reference: NDArray[np.integer], labels: NDArray[np.integer]) -> float:
    """Return the balanced accuracy against a reference clustering, clusters matched by the Hungarian method.

    The mean over the clusters of the reference of the share of their days that are in the matched cluster.
    """
    names, counts = np.unique(reference, return_counts=True)
    size = max(len(names), int(labels.max()) + 1)
    share = np.zeros((len(names), size))
    for row, (name, count) in enumerate(zip(names, counts, strict=True)):
        share[row] = np.bincount(labels[reference == name], minlength=size) / count
    return float(share[linear_sum_assignment(-share)].mean())


def quality(problem: Grid, solution: Clusters) -> tuple[float, ...]:
    """Return the share of the variance of the points that the clusters explain, which k-means maximises."""
    whole = float(np.square(problem.points - problem.points.mean(axis=0)).sum())
    return (1 - inertia(problem.points, np.array(solution.labels)) / whole,)


def measures(problem: Grid, solution: Clusters) -> dict[str, tuple[float, ...]]:
    """Return the published figure, agreement with classical k-means, and agreement with weekend and season."""
    labels = np.array(solution.labels)
    several = 1 < len(set(solution.labels)) < len(labels)
    values = {
        "agreement": agreement(problem.reference, labels),
        "agreement_best": agreement(problem.best_reference, labels),
        "rand": adjusted_rand_score(problem.reference, labels),
        "silhouette": silhouette_score(problem.points, labels) if several else 0.0,
        "inertia": inertia(problem.points, labels),
        "rand_weekend": adjusted_rand_score(problem.weekend, labels),
        "rand_season": adjusted_rand_score(problem.season, labels),
        "iterations": solution.iterations,
        "circuits": solution.circuits,
        "shots": solution.shots,
    }
    return {name: (float(value),) for name, value in values.items()}

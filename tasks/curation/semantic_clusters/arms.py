"""Semantic duplicates: cluster the embeddings, then remove within each cluster what is near to something kept.

SemDeDup (Abbas et al., arXiv 2303.09540). The clusters only save comparisons; at a few hundred documents comparing all
pairs is one matrix product. A document whose best witness lies in another cluster stays, and may then remove a third
one. Solutions are scored against labels, exact copies and planted paraphrases, not against any arm.

The arms differ in the labels alone. The removal is shared: documents in falling weight, each removed if a kept one
of its cluster has a cosine of at least the threshold, which is then named as its witness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tasks.contract import Arm, Bench, Kind
from tasks.curation.semantic_clusters.problem import Clustering, Duplicates, remove_within
from tasks.quantum.kmeans import (
    FloatArray,
    classical_kmeans,
    exact_quantum_kmeans,
    quantum_kmeans,
    start_centroids,
)

if TYPE_CHECKING:
    from sklearn.cluster import KMeans, MiniBatchKMeans

RESTARTS = 10
BATCH = 64
PERTURBATION = 0.1


def _start(problem: Clustering) -> FloatArray:
    return start_centroids(problem.points, problem.clusters, np.random.default_rng(problem.start))


def _shared_start(problem: Clustering, bench: Bench) -> FloatArray:
    """First centroids, the same for every Lloyd arm."""
    return bench.once("start-centroids", lambda: _start(problem)).copy()


def _fitted(problem: Clustering, model: KMeans | MiniBatchKMeans) -> Duplicates:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # idle threads of small problems spin and would be charged to the arm
        labels = model.fit_predict(problem.points.astype(np.float64))
    return remove_within(problem, labels)


def _kmeans(problem: Clustering, bench: Bench, starts: int) -> Duplicates:
    from sklearn.cluster import KMeans  # here, not above: the other arms load without it

    seed = int(bench.rng.integers(2**31))
    limit = problem.iterations * 50
    return _fitted(problem, KMeans(problem.clusters, n_init=starts, max_iter=limit, random_state=seed))


def solve_kmeans(problem: Clustering, bench: Bench) -> Duplicates:
    """k-means, the best of ten starts by inertia (scikit-learn)."""
    return _kmeans(problem, bench, RESTARTS)


def solve_one_start(problem: Clustering, bench: Bench) -> Duplicates:
    """k-means from one start (scikit-learn)."""
    return _kmeans(problem, bench, 1)


def solve_mini_batch(problem: Clustering, bench: Bench) -> Duplicates:
    """k-means on small batches (Sculley, WWW 2010), from one start (scikit-learn)."""
    from sklearn.cluster import MiniBatchKMeans

    seed = int(bench.rng.integers(2**31))
    return _fitted(problem, MiniBatchKMeans(problem.clusters, batch_size=BATCH, n_init=1, random_state=seed))


def solve_lloyd(problem: Clustering, bench: Bench) -> Duplicates:
    """Lloyd's algorithm from the one shared start, exact distances."""
    start = _shared_start(problem, bench)
    return remove_within(problem, classical_kmeans(problem.points, start, problem.iterations))


def solve_quantum(problem: Clustering, bench: Bench) -> Duplicates:
    """Lloyd's algorithm from the shared start, distances from one circuit for each point."""
    start = _shared_start(problem, bench)
    labels = quantum_kmeans(problem.points, start, problem.iterations, bench.sampler, problem.shots)
    return remove_within(problem, labels)


def solve_twin(problem: Clustering, bench: Bench) -> Duplicates:
    """The quantum arm at infinite shots, lost signs included and counted."""
    start = _shared_start(problem, bench)
    return remove_within(problem, *exact_quantum_kmeans(problem.points, start, problem.iterations))


def solve_perturbed(problem: Clustering, bench: Bench) -> Duplicates:
    """Exact Lloyd from a start shaken at random: what noise alone does to the result."""
    start = _shared_start(problem, bench)
    scale = PERTURBATION / np.sqrt(start.shape[1])
    shaken = start + bench.rng.normal(scale=scale, size=start.shape)
    return remove_within(problem, classical_kmeans(problem.points, shaken, problem.iterations))


def solve_random(problem: Clustering, bench: Bench) -> Duplicates:
    """Labels at random."""
    return remove_within(problem, bench.rng.integers(problem.clusters, size=len(problem.vectors)))


def solve_all_pairs(problem: Clustering, _: Bench) -> Duplicates:
    """No clusters: every pair is compared. Exact."""
    return remove_within(problem, np.zeros(len(problem.vectors), np.intp))


def solve_keep_all(problem: Clustering, _: Bench) -> Duplicates:
    """Remove nothing."""
    return Duplicates(tuple(range(len(problem.vectors))), ())


INCUMBENT: Arm[Clustering, Duplicates] = Arm("k-means", Kind.CLASSICAL, solve_kmeans)
CHALLENGER: Arm[Clustering, Duplicates] = Arm(
    "quantum-k-means", Kind.QUANTUM, solve_quantum, twin="quantum-k-means-exact"
)
OTHERS: tuple[Arm[Clustering, Duplicates], ...] = (
    Arm("quantum-k-means-exact", Kind.TWIN, solve_twin),
    Arm("lloyd", Kind.CLASSICAL, solve_lloyd),
    Arm("k-means-one-start", Kind.CLASSICAL, solve_one_start),
    Arm("mini-batch-k-means", Kind.CLASSICAL, solve_mini_batch),
    Arm("all-pairs", Kind.CLASSICAL, solve_all_pairs),
    Arm("perturbed-start", Kind.CONTROL, solve_perturbed),
    Arm("random-labels", Kind.CONTROL, solve_random),
    Arm("keep-all", Kind.CONTROL, solve_keep_all, does_nothing=True),
)

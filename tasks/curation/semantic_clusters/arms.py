"""Semantic duplicates: cluster the embeddings, then remove within each cluster what is near to something kept.

SemDeDup (Abbas et al., arXiv 2303.09540). The clusters only save comparisons; at the size of the demo all pairs are
one matrix product, and what they remove is the truth that every clustering is scored against. Precision is not
free either: a document whose best witness lies in another cluster stays, and may then remove a third one.

The arms differ in the labels alone. The removal is shared: documents in falling weight, each removed if a kept one
of its cluster has a cosine of at least the threshold, which is then named as its witness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import Arm, Bench, Instance, Kind, Material, Subtask, in_turns
from tasks.quantum.kmeans import (
    FloatArray,
    Labels,
    classical_kmeans,
    exact_quantum_kmeans,
    quantum_kmeans,
    start_centroids,
)
from tasks.text.embeddings import embed, normalised
from tasks.text.samples import sample_passages

RESTARTS = 10
PERTURBATION = 0.1

# The instances of the bank are posed as a run of the default profile poses its own.
THRESHOLD, CLUSTERS, ITERATIONS = 0.93, 4, 4
PIECE = 2000  # characters
GROUPS = (256, 128)  # documents


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

    def __post_init__(self) -> None:
        n, d = self.vectors.shape if self.vectors.ndim == 2 else (0, 0)
        if n < 2:
            raise ValueError(f"a matrix with at least 2 documents expected, got {self.vectors.shape}")
        if len(self.weights) not in (0, n):
            raise ValueError(f"{len(self.weights)} weights should be as many as the documents ({n})")
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


def _start(problem: Clustering) -> FloatArray:
    return start_centroids(problem.points, problem.clusters, np.random.default_rng(problem.start))


def _shared_start(problem: Clustering, bench: Bench) -> FloatArray:
    """First centroids, the same for every Lloyd arm."""
    return bench.once("start-centroids", lambda: _start(problem)).copy()


def solve_kmeans(problem: Clustering, bench: Bench) -> Duplicates:
    """k-means, the best of ten starts by inertia (scikit-learn)."""
    from sklearn.cluster import KMeans  # here, not above: the other arms load without it
    from threadpoolctl import threadpool_limits

    seed = int(bench.rng.integers(2**31))
    model = KMeans(problem.clusters, n_init=RESTARTS, max_iter=problem.iterations * 50, random_state=seed)
    with threadpool_limits(1):  # idle threads of small problems spin and would be billed to the arm
        labels = model.fit_predict(problem.points.astype(np.float64))
    return remove_within(problem, labels)


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


def quality(problem: Clustering, solution: Duplicates) -> tuple[float, ...]:
    """F1 of the removed documents against those that all pairs remove; 1 where rightly nothing is removed.

    Documents, not pairs: they are what leaves the corpus, and a chain of copies counts once for each member.
    """
    truth = {item for item, _, _ in remove_within(problem, np.zeros(len(problem.vectors), np.intp)).removed}
    found = {item for item, _, _ in solution.removed}
    if not truth and not found:
        return (1.0,)
    return (2 * len(truth & found) / (len(truth) + len(found)),)


def bank(material: Material, rng: np.random.Generator) -> Iterator[Instance[Clustering]]:
    """Yield disjoint groups of documents of each source, clustered and compared as a run does by default.

    A group is consecutive in its source, so that texts of one manual, library or family of licences meet; long texts
    are cut to the head that a run embeds, and what follows is a document of its own. Half the groups have the size
    of the demo profile's bucket, half that of the smoke profile's.
    """
    yield from in_turns([_groups(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _groups(source: str, texts: Sequence[str], rng: np.random.Generator) -> list[Instance[Clustering]]:
    pieces = [
        text[start : start + PIECE] for text in texts for start in range(0, max(1, len(text) - PIECE // 2), PIECE)
    ]
    step = sum(GROUPS)
    instances = []
    for begin in (int(rng.permutation(step)[0]) + step * k for k in rng.permutation(len(pieces) // step - 1)):
        for size, at in zip(GROUPS, (begin, begin + GROUPS[0]), strict=True):
            pose = partial(_clustering, tuple(pieces[at : at + size]), int(rng.integers(2**31)))
            instances.append(Instance(source, f"pieces {at} to {at + size - 1}", size, pose))
    return instances


def _clustering(texts: Sequence[str], start: int) -> Clustering:
    weights = np.sqrt([len(text.split()) for text in texts])
    return Clustering(embed(texts), THRESHOLD, CLUSTERS, ITERATIONS, start, weights)


def project(vectors: NDArray[np.floating[Any]], dimensions: int) -> NDArray[np.float32]:
    """Project on the leading right singular vectors, without centring: cosines are kept as well as can be."""
    rows = np.asarray(vectors, np.float64)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:dimensions]
    return np.asarray(rows @ axes.T, np.float32)


def example(rng: np.random.Generator) -> Clustering:
    """40 passages of licences, up to four of one licence, in 15 dimensions and a constant (4 qubits)."""
    passages = sample_passages("second", per_label=4)
    labels = sorted({label for label, _ in passages})
    chosen = set(rng.permutation(labels)[:60])
    texts = [text for label, text in passages if label in chosen][:40]
    return Clustering(project(embed(texts), 15), start=int(rng.integers(2**31)))


SEMANTIC_CLUSTERS: Subtask[Clustering, Duplicates] = Subtask(
    stage="curation",
    name="semantic_clusters",
    incumbent=Arm("k-means", Kind.CLASSICAL, solve_kmeans),
    challenger=Arm("quantum-k-means", Kind.QUANTUM, solve_quantum),
    others=(
        Arm("quantum-k-means-exact", Kind.TWIN, solve_twin),
        Arm("lloyd", Kind.CLASSICAL, solve_lloyd),
        Arm("all-pairs", Kind.CLASSICAL, solve_all_pairs),
        Arm("perturbed-start", Kind.CONTROL, solve_perturbed),
        Arm("random-labels", Kind.CONTROL, solve_random),
        Arm("keep-all", Kind.CONTROL, solve_keep_all, does_nothing=True),
    ),
    quality=quality,
    metric="F1 of removed documents",
    size=lambda problem: len(problem.vectors),
    tolerance=0.02,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=0.6,
)

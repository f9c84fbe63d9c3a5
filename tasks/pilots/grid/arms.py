"""Arms of the grid pilot: quantum k-means by five circuits, their exact values, and classical clusterings.

Published: distances by swap tests, with angle and with amplitude encoding (`swap-angles`, `swap-amplitudes`), which are
the reference arms, and several distance circuits side by side on one device. `overlap` undoes the preparation in place
of the swap test, `side-by-side` runs several of them in one circuit, and `quantum-k-means` measures each day once in
the basis of the centroids. All arms have the same shots for an iteration, and all arms of Lloyd's algorithm the same
first centroids.

The last three lose the sign of an overlap, so that a constant amplitude is loaded before the day. Its square was chosen
for each form by the agreement with Lloyd's algorithm on 108 draws with another seed, among .25, .5, 1, 2, 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import Arm, Bench, Kind, NothingToGain
from tasks.pilots.grid.distances import (
    exact_angle_fidelities,
    side_by_side_inner_products,
    swap_angle_fidelities,
)
from tasks.pilots.grid.problem import RESTARTS, Clusters, Grid
from tasks.quantum.encodings import qubits_for
from tasks.quantum.kmeans import (
    FloatArray,
    Labels,
    classical_kmeans,
    estimate_inner_products,
    exact_inner_products,
    lloyd,
    nearest,
    overlap_inner_products,
    swap_inner_products,
)

WIDE = 12  # qubits that circuits side by side may take together on the simulator
WIDEST = 12  # qubits above which an arm is not simulated here
BATCH, PERTURBATION = 16, 0.1
BASIS_CONSTANT, OVERLAP_CONSTANT = 2.0, 0.5  # squares of the constant amplitude

Assign = Callable[[FloatArray], Labels]


def _counted(
    problem: Grid, points: FloatArray, first: FloatArray, assign: Assign, circuits: int, shots: int
) -> Clusters:
    """Run Lloyd's algorithm and count its assignments."""
    made = 0

    def counting(centroids: FloatArray) -> Labels:
        nonlocal made
        made += 1
        return assign(centroids)

    labels = lloyd(points, first, problem.iterations, counting)
    return Clusters(tuple(int(v) for v in labels), made, circuits, circuits * shots)


def _loaded(problem: Grid, square: float) -> tuple[FloatArray, FloatArray]:
    """Return points and first centroids with a constant amplitude before them, scaled back to unit length."""
    constant = np.sqrt(square)
    points, first = (
        np.hstack([np.full((len(rows), 1), constant), rows]) / np.sqrt(1 + square)
        for rows in (problem.points, problem.first)
    )
    return points, first


def _each(problem: Grid, circuits: int, qubits: int) -> int:
    """Return the shots of each circuit of an iteration.

    Raises:
        NothingToGain: the circuits are more, or wider, than are simulated here; the exact twin stands for them.
    """
    if circuits > problem.circuits or qubits > WIDEST:
        raise NothingToGain(
            f"{circuits} circuits of {qubits} qubits an iteration, {problem.circuits} of {WIDEST} are allowed here; "
            "the exact twin stands for them"
        )
    return max(1, problem.shots // circuits)


def cluster_by_basis(problem: Grid, bench: Bench) -> Clusters:
    """One circuit a day, measured in the basis of the centroids."""
    points, first = _loaded(problem, BASIS_CONSTANT)
    shots = _each(problem, len(points), qubits_for(points.shape[1]))
    sampler = bench.sampler
    return _counted(
        problem,
        points,
        first,
        lambda c: nearest(estimate_inner_products(points, c, sampler, shots), c),
        len(points),
        shots,
    )


def cluster_by_exact_basis(problem: Grid, _: Bench) -> Clusters:
    """The same at infinite shots, lost signs included."""
    points, first = _loaded(problem, BASIS_CONSTANT)
    return _counted(problem, points, first, lambda c: nearest(exact_inner_products(points, c)[0], c), 0, 0)


def cluster_by_overlaps(problem: Grid, bench: Bench) -> Clusters:
    """One compute-uncompute circuit for each day and centroid."""
    points, first = _loaded(problem, OVERLAP_CONSTANT)
    circuits = len(points) * problem.clusters
    shots = _each(problem, circuits, qubits_for(points.shape[1]))
    sampler = bench.sampler
    return _counted(
        problem, points, first, lambda c: nearest(overlap_inner_products(points, c, sampler, shots), c), circuits, shots
    )


def cluster_side_by_side(problem: Grid, bench: Bench) -> Clusters:
    """The same circuits, several in one on disjoint qubits."""
    points, first = _loaded(problem, OVERLAP_CONSTANT)
    qubits = qubits_for(points.shape[1])
    copies = WIDE // qubits
    circuits = -(-len(points) * problem.clusters // copies)
    shots = _each(problem, circuits, copies * qubits)
    sampler = bench.sampler

    def assign(centroids: FloatArray) -> Labels:
        return nearest(side_by_side_inner_products(points, centroids, sampler, shots, copies), centroids)

    return _counted(problem, points, first, assign, circuits, shots)


def cluster_by_exact_overlaps(problem: Grid, _: Bench) -> Clusters:
    """Compute-uncompute at infinite shots: the absolute value of each inner product."""
    points, first = _loaded(problem, OVERLAP_CONSTANT)

    def assign(centroids: FloatArray) -> Labels:
        unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
        return nearest(np.abs(points @ unit.T), centroids)

    return _counted(problem, points, first, assign, 0, 0)


def cluster_by_swaps(problem: Grid, bench: Bench) -> Clusters:
    """Published: a swap test of amplitude-encoded rows for each day and centroid."""
    circuits = len(problem.points) * problem.clusters
    shots = _each(problem, circuits, qubits_for(problem.points.shape[1]) + 3)
    points, sampler = problem.points, bench.sampler
    return _counted(
        problem,
        points,
        problem.first,
        lambda c: nearest(swap_inner_products(points, c, sampler, shots), c),
        circuits,
        shots,
    )


def cluster_by_exact_swaps(problem: Grid, _: Bench) -> Clusters:
    """The same at infinite shots, which is Lloyd's algorithm."""
    labels = classical_kmeans(problem.points, problem.first, problem.iterations)
    return Clusters(tuple(int(v) for v in labels))


def cluster_by_angle_swaps(problem: Grid, bench: Bench) -> Clusters:
    """Published: a swap test of angle-encoded rows, two features a qubit, for each day and centroid."""
    circuits = len(problem.points) * problem.clusters
    shots = _each(problem, circuits, 2 * ((problem.points.shape[1] + 1) // 2) + 1)
    points, sampler = problem.points, bench.sampler

    def assign(centroids: FloatArray) -> Labels:
        return np.asarray(swap_angle_fidelities(points, centroids, sampler, shots).argmax(axis=1))

    return _counted(problem, points, problem.first, assign, circuits, shots)


def cluster_by_exact_angles(problem: Grid, _: Bench) -> Clusters:
    """The same at infinite shots."""
    points = problem.points
    return _counted(
        problem, points, problem.first, lambda c: np.asarray(exact_angle_fidelities(points, c).argmax(axis=1)), 0, 0
    )


def cluster_classically(starts: int, everything: bool, problem: Grid, bench: Bench) -> Clusters:
    """k-means of scikit-learn, the best of several starts by inertia."""
    from sklearn.cluster import KMeans

    seed = int(bench.rng.integers(2**31))
    return _fitted(KMeans(problem.clusters, n_init=starts, random_state=seed), problem, everything)


def cluster_in_batches(problem: Grid, bench: Bench) -> Clusters:
    """k-means on small batches, the best of three starts (Sculley, WWW 2010)."""
    from sklearn.cluster import MiniBatchKMeans

    seed = int(bench.rng.integers(2**31))
    return _fitted(MiniBatchKMeans(problem.clusters, batch_size=BATCH, n_init=3, random_state=seed), problem, False)


def cluster_by_mixture(problem: Grid, bench: Bench) -> Clusters:
    """A mixture of Gaussians with diagonal covariances, the best of five starts by likelihood."""
    from sklearn.mixture import GaussianMixture

    seed = int(bench.rng.integers(2**31))
    model = GaussianMixture(problem.clusters, covariance_type="diag", n_init=5, reg_covar=1e-3, random_state=seed)
    return _fitted(model, problem, False)


def cluster_by_lloyd(problem: Grid, _: Bench) -> Clusters:
    """Lloyd's algorithm from the shared start, exact distances."""
    labels = classical_kmeans(problem.points, problem.first, problem.iterations)
    return Clusters(tuple(int(v) for v in labels))


def cluster_from_shaken_start(problem: Grid, bench: Bench) -> Clusters:
    """Exact Lloyd from a start shaken at random: what noise alone does to the result."""
    scale = PERTURBATION / np.sqrt(problem.points.shape[1])
    start = problem.first + bench.rng.normal(scale=scale, size=problem.first.shape)
    labels = classical_kmeans(problem.points, start, problem.iterations)
    return Clusters(tuple(int(v) for v in labels))


def cluster_at_random(problem: Grid, bench: Bench) -> Clusters:
    """Labels at random."""
    return Clusters(tuple(int(v) for v in bench.rng.integers(problem.clusters, size=len(problem.points))))


def _fitted(model: Any, problem: Grid, everything: bool) -> Clusters:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        labels: NDArray[np.int64] = model.fit_predict(problem.everything if everything else problem.points)
    return Clusters(tuple(int(v) for v in labels))


GridArm = Arm[Grid, Clusters]

INCUMBENT: GridArm = Arm("k-means", Kind.CLASSICAL, partial(cluster_classically, RESTARTS, False))
CHALLENGER: GridArm = Arm("quantum-k-means", Kind.QUANTUM, cluster_by_basis, twin="quantum-k-means-exact")
OTHERS: tuple[GridArm, ...] = (
    Arm("perturbed-start", Kind.CONTROL, cluster_from_shaken_start),
    Arm("random-labels", Kind.CONTROL, cluster_at_random),
    Arm("quantum-k-means-exact", Kind.TWIN, cluster_by_exact_basis),
    Arm("overlap", Kind.QUANTUM, cluster_by_overlaps, twin="overlap-exact"),
    Arm("side-by-side", Kind.QUANTUM, cluster_side_by_side, twin="overlap-exact"),
    Arm("overlap-exact", Kind.TWIN, cluster_by_exact_overlaps),
    Arm("swap-amplitudes", Kind.QUANTUM, cluster_by_swaps, twin="swap-amplitudes-exact"),
    Arm("swap-amplitudes-exact", Kind.TWIN, cluster_by_exact_swaps),
    Arm("swap-angles", Kind.QUANTUM, cluster_by_angle_swaps, twin="swap-angles-exact"),
    Arm("swap-angles-exact", Kind.TWIN, cluster_by_exact_angles),
    Arm("lloyd", Kind.CLASSICAL, cluster_by_lloyd),
    Arm("k-means-one-start", Kind.CLASSICAL, partial(cluster_classically, 1, False)),
    Arm("mini-batch", Kind.CLASSICAL, cluster_in_batches),
    Arm("gaussian-mixture", Kind.CLASSICAL, cluster_by_mixture),
    Arm("k-means-all", Kind.CLASSICAL, partial(cluster_classically, RESTARTS, True)),
)

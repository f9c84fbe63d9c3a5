from typing import Any

import numpy as np
import pytest
from qiskit.primitives import StatevectorSampler
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from tasks.quantum.kmeans import (
    classical_kmeans,
    estimate_inner_products,
    exact_inner_products,
    exact_quantum_kmeans,
    lloyd,
    loewdin,
    nearest,
    overlap_inner_products,
    quantum_kmeans,
    start_centroids,
    swap_inner_products,
    with_constant,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def blobs(n: int, d: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    return unit(1.0 + rng.uniform(size=(k, d))[truth] + 0.1 * rng.normal(size=(n, d))), truth


class Counting:
    def __init__(self) -> None:
        self.jobs: list[tuple[int, ...]] = []
        self.templates: list[Any] = []

    def run(self, pubs: Any, *, shots: int) -> Any:
        pubs = list(pubs)
        self.jobs.append(tuple(len(values) for _, values in pubs))
        self.templates += [circuit for circuit, _ in pubs]
        return StatevectorSampler(seed=len(self.jobs)).run(pubs, shots=shots)


def test_the_basis_is_orthonormal_and_the_symmetric_root_gives_the_centroids_back() -> None:
    centroids = np.random.default_rng(0).normal(size=(4, 9))
    basis, root = loewdin(centroids)
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    np.testing.assert_allclose(root @ basis, unit(centroids), atol=1e-12)
    gram = unit(centroids) @ unit(centroids).T
    np.testing.assert_allclose(root @ root, gram, atol=1e-12)
    values, vectors = np.linalg.eigh(gram)
    np.testing.assert_allclose(basis, (vectors / np.sqrt(values)) @ vectors.T @ unit(centroids), atol=1e-10)


def test_coincident_centroids_have_a_basis_too() -> None:
    basis, root = loewdin(np.array([[1.0, 0, 0], [1.0, 0, 0]]))
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(root @ basis, np.eye(3)[[0, 0]], atol=1e-12)


def test_inner_products_come_within_shot_noise_and_exactly_where_all_overlaps_are_positive() -> None:
    points, _ = blobs(20, 7, 3, seed=2)
    loaded, centroids = with_constant(points, points[:3])
    exact, violations = exact_inner_products(loaded, centroids)
    assert violations == 0
    np.testing.assert_allclose(exact, loaded @ centroids.T, atol=1e-12)
    found = estimate_inner_products(loaded, centroids, StatevectorSampler(seed=3), 8192)
    np.testing.assert_allclose(found, exact, atol=0.05)


def test_lost_signs_are_counted() -> None:
    inner, violations = exact_inner_products(np.array([[0.6, -0.8], [1.0, 0.0]]), np.eye(2))
    assert violations == 1
    np.testing.assert_allclose(inner, np.array([[0.6, 0.8], [1, 0]]), atol=1e-12)


def test_a_constant_costs_no_qubit_and_moves_no_border() -> None:
    points, _ = blobs(30, 7, 3, seed=4)
    start = start_centroids(points, 3, np.random.default_rng(0))
    loaded, first = with_constant(points, start)
    assert (loaded.shape, first.shape) == ((30, 8), (3, 8))
    np.testing.assert_allclose(np.linalg.norm(loaded, axis=1), 1)
    np.testing.assert_array_equal(classical_kmeans(loaded, first, 10), classical_kmeans(points, start, 10))


def test_without_room_only_a_coordinate_that_hardly_varies_gives_way() -> None:
    points, _ = blobs(30, 8, 3, seed=4)
    kept, start = with_constant(points, points[:3])
    np.testing.assert_array_equal(kept, points)
    np.testing.assert_array_equal(start, points[:3])
    still = unit(np.hstack([points[:, :7], 1e-3 * points[:, 7:]]))
    loaded, first = with_constant(still, still[:3])
    assert (loaded.shape, first.shape) == ((30, 8), (3, 8))
    np.testing.assert_array_equal(classical_kmeans(loaded, first, 10), classical_kmeans(still, still[:3], 10))


def test_lloyd_is_that_of_scikit_learn_from_the_same_start() -> None:
    for seed in range(4):
        points, _ = blobs(80, 6, 4, seed)
        start = start_centroids(points, 4, np.random.default_rng(seed))
        theirs = KMeans(4, init=start, n_init=1, max_iter=100, algorithm="lloyd", tol=0).fit(points).labels_
        np.testing.assert_array_equal(classical_kmeans(points, start, 100), theirs)


def test_the_twin_without_lost_signs_is_lloyd_and_shots_come_near_it() -> None:
    points, truth = blobs(60, 7, 3, seed=5)
    start = start_centroids(points, 3, np.random.default_rng(5))
    exact = classical_kmeans(points, start, 6)
    twin, lost = exact_quantum_kmeans(points, start, 6)
    assert lost == 0
    np.testing.assert_array_equal(twin, exact)
    noisy = quantum_kmeans(points, start, 6, StatevectorSampler(seed=6), 512)
    assert adjusted_rand_score(exact, noisy) > 0.9
    assert adjusted_rand_score(truth, noisy) > 0.9


def test_an_iteration_is_one_job_with_one_circuit_for_each_point() -> None:
    points, _ = blobs(12, 3, 2, seed=7)
    sampler = Counting()
    quantum_kmeans(points, np.eye(3)[:2], 3, sampler, 64)
    assert 1 <= len(sampler.jobs) <= 3
    assert set(sampler.jobs) == {(12,)}
    first = [(op.operation.name, op.qubits) for op in sampler.templates[0].data]
    assert all([(op.operation.name, op.qubits) for op in t.data] == first for t in sampler.templates)
    assert all(t.num_parameters == sampler.templates[0].num_parameters for t in sampler.templates)


def test_an_empty_cluster_keeps_its_centroid_and_lloyd_stops_when_nothing_changes() -> None:
    points = unit(np.array([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1]]))
    seen: list[np.ndarray] = []

    def assign(centroids: np.ndarray) -> np.ndarray:
        seen.append(centroids.copy())
        return nearest(points @ unit(centroids).T, centroids)

    labels = lloyd(points, np.array([[1.0, 0.0], [-1.0, 0.0]]), 9, assign)
    np.testing.assert_array_equal(labels, [0, 0, 0])
    np.testing.assert_array_equal(seen[-1][1], [-1.0, 0.0])
    assert len(seen) == 2


def test_the_start_is_drawn_by_squared_distance_and_bad_requests_are_refused() -> None:
    points, _ = blobs(60, 6, 3, seed=8)
    three = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])  # squared distances: .8 and 4 from the first
    drawn = [start_centroids(three, 2, np.random.default_rng(seed)) for seed in range(900)]
    second = np.array([(pair[1] == three[2]).all() for pair in drawn if (pair[0] == three[0]).all()])
    assert len(second) == pytest.approx(300, abs=50)
    assert second.mean() == pytest.approx(4 / 4.8, abs=0.065)
    assert len(start_centroids(np.ones((3, 2)), 3, np.random.default_rng(0))) == 3
    with pytest.raises(ValueError, match="clusters are possible"):
        start_centroids(points, 61, np.random.default_rng(0))
    with pytest.raises(ValueError, match="more than the dimensions"):
        loewdin(np.ones((3, 2)))
    with pytest.raises(ValueError, match="no direction"):
        loewdin(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="1 shot"):
        estimate_inner_products(points, points[:2], StatevectorSampler(), 0)
    with pytest.raises(ValueError, match="1 iteration"):
        classical_kmeans(points, points[:2], 0)


def test_overlaps_and_swap_tests_estimate_the_inner_products() -> None:
    rng = np.random.default_rng(8)
    points, centroids = np.abs(rng.normal(size=(3, 6))), np.abs(rng.normal(size=(2, 6)))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (points, centroids)]
    expected, shots = unit[0] @ unit[1].T, 40_000
    by_overlap = overlap_inner_products(points, centroids, StatevectorSampler(seed=1), shots)
    np.testing.assert_allclose(by_overlap, expected, atol=0.02)
    by_swap = swap_inner_products(points, centroids, StatevectorSampler(seed=2), shots)
    np.testing.assert_allclose(by_swap, expected, atol=5 * 4 * 0.5 / np.sqrt(shots))


def test_the_swap_test_keeps_the_sign() -> None:
    points, centroids = np.array([[0.6, 0.8]]), np.array([[-0.6, -0.8], [0.8, -0.6]])
    estimated = swap_inner_products(points, centroids, StatevectorSampler(seed=3), 40_000)
    np.testing.assert_allclose(estimated, [[-1.0, 0.0]], atol=0.05)

from dataclasses import replace

import numpy as np
import pytest

from tasks.bench import make_bench
from tasks.contract import Kind, content_key
from tasks.curation.semantic_clusters.arms import (
    solve_all_pairs,
    solve_keep_all,
    solve_kmeans,
    solve_lloyd,
    solve_quantum,
    solve_random,
    solve_twin,
)
from tasks.curation.semantic_clusters.bank import _known, example, paraphrase, project
from tasks.curation.semantic_clusters.problem import Clustering, Duplicates, quality, remove_within
from tasks.curation.semantic_clusters.subtask import SEMANTIC_CLUSTERS


def agreement(problem: Clustering, solution: Duplicates) -> float:
    """F1 of the removed documents against those that all pairs remove; 1 where both remove nothing."""
    truth = {item for item, _, _ in solve_all_pairs(problem, make_bench(0)).removed}
    found = {item for item, _, _ in solution.removed}
    return 2 * len(truth & found) / (len(truth) + len(found)) if truth or found else 1.0


def at_angles(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def planted(problem: Clustering, rng: np.random.Generator, count: int = 5, share: float = 0.2) -> list[Clustering]:
    """Draw subsets of the real vectors and plant copies, each bent towards another document, around the threshold."""
    points = problem.points.astype(np.float64)
    size = max(2, problem.clusters, len(points) * 2 // 3)
    made = []
    for index in range(count):
        drawn = rng.choice(len(points), size=min(size, len(points)), replace=False)
        subset = points[drawn]
        copies = max(1, round(share * len(subset)))
        sources = rng.choice(len(subset), size=copies, replace=copies > len(subset))
        others = subset[(sources + rng.integers(1, len(subset), size=copies)) % len(subset)]
        aside = others - np.einsum("cd,cd->c", others, subset[sources])[:, None] * subset[sources]
        lengths = np.linalg.norm(aside, axis=1, keepdims=True)
        aside = np.divide(aside, lengths, out=np.zeros_like(aside), where=lengths > 1e-9)
        low = max(0.0, problem.threshold - (1 - problem.threshold) / 3)
        cosine = rng.uniform(low, 1.0, size=(copies, 1))
        bent = cosine * subset[sources] + np.sqrt(1 - cosine**2) * aside
        order = rng.permutation(len(subset) + copies)
        weights = rng.uniform(size=len(order)) if len(problem.weights) else problem.weights
        vectors = np.vstack([subset, bent])[order].astype(np.float32)
        made.append(replace(problem, vectors=vectors, weights=weights, start=problem.start + 1 + index, truth=()))
    return made


def test_the_heavier_of_two_duplicates_stays_and_is_named_with_the_cosine() -> None:
    problem = Clustering(at_angles([0, 10, 90]), threshold=0.95, clusters=1, weights=np.array([1.0, 2.0, 0.0]))
    found = remove_within(problem, np.zeros(3, np.intp))
    assert [(item, witness) for item, witness, _ in found.removed] == [(0, 1)]
    assert found.removed[0][2] == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)


def test_a_chain_keeps_both_ends_and_a_cut_chain_removes_another_one() -> None:
    """A ~ B ~ C but not A ~ C: all pairs remove B only; with A elsewhere C goes and B stays."""
    problem = Clustering(at_angles([0, 15, 30]), threshold=0.95, clusters=2, weights=np.array([3.0, 2.0, 1.0]))
    assert [r[:2] for r in remove_within(problem, np.zeros(3, np.intp)).removed] == [(1, 0)]
    cut = remove_within(problem, np.array([1, 0, 0]))
    assert [r[:2] for r in cut.removed] == [(2, 1)]
    assert agreement(problem, cut) == 0


def test_without_weights_the_first_document_stays() -> None:
    found = remove_within(Clustering(at_angles([5, 0, 0]), clusters=1), np.zeros(3, np.intp))
    assert [r[:2] for r in found.removed] == [(1, 0), (2, 0)]


def test_every_arm_removes_only_what_has_a_kept_witness_in_its_own_cluster_above_the_threshold() -> None:
    first = example(np.random.default_rng(1))
    for problem in (first, *planted(first, np.random.default_rng(0))):
        points = problem.points.astype(float)
        for arm in SEMANTIC_CLUSTERS.arms:
            if arm.kind is Kind.QUANTUM and problem is not first:
                continue  # simulated circuits take seconds
            solution = arm.solve(problem, make_bench(3))
            gone = {item for item, _, _ in solution.removed}
            assert len(gone) == len(solution.removed)
            assert len(solution.labels) == len(points)
            for item, witness, cosine in solution.removed:
                assert witness not in gone
                assert solution.labels[item] == solution.labels[witness]
                assert cosine >= problem.threshold - 1e-6
                assert cosine == pytest.approx(points[item] @ points[witness], abs=1e-5)


def test_all_pairs_are_exact_and_leave_no_duplicate() -> None:
    for problem in planted(example(np.random.default_rng(4)), np.random.default_rng(4)):
        solution = solve_all_pairs(problem, make_bench(0))
        kept = np.setdiff1d(np.arange(len(problem.vectors)), [r[0] for r in solution.removed])
        points = problem.points[kept].astype(float)
        assert (points @ points.T - 2 * np.eye(len(kept))).max() < problem.threshold
        assert len(solution.removed) >= 2  # the planted copies


def test_clustering_beats_random_labels_by_far_and_nothing_beats_all_pairs() -> None:
    scores: dict[str, list[float]] = {"k-means": [], "lloyd": [], "quantum-k-means-exact": [], "random-labels": []}
    for seed in range(6):
        drawn = example(np.random.default_rng(seed))
        for problem in (drawn, *planted(drawn, np.random.default_rng(seed))):
            tools = make_bench(seed)
            for name, values in scores.items():
                values.append(agreement(problem, SEMANTIC_CLUSTERS.arm(name).solve(problem, tools)))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert means["random-labels"] < 0.6, means
    assert min(means["k-means"], means["lloyd"], means["quantum-k-means-exact"]) > 0.9, means


def test_quantum_k_means_agrees_with_its_twin_and_counts_lost_signs_there() -> None:
    problem = example(np.random.default_rng(5))
    tools = make_bench(5)
    twin, quantum, exact = (solve(problem, tools) for solve in (solve_twin, solve_quantum, solve_lloyd))
    assert agreement(problem, quantum) >= agreement(problem, twin) - 0.2
    assert quantum.lost_signs == exact.lost_signs == 0
    if twin.lost_signs == 0:
        assert twin.labels == exact.labels


def test_arms_are_deterministic_and_the_floor_is_kept() -> None:
    for seed in range(4):
        problem = example(np.random.default_rng(seed))
        assert problem.vectors.shape == (40, 15)
        assert quality(problem, solve_kmeans(problem, make_bench(seed)))[0] >= SEMANTIC_CLUSTERS.floor
    for arm in SEMANTIC_CLUSTERS.arms:
        assert arm.solve(problem, make_bench(8)) == arm.solve(problem, make_bench(8))
    assert content_key(problem) == content_key(example(np.random.default_rng(3)))
    assert quality(problem, solve_keep_all(problem, make_bench(0))) == (0.0,)
    assert quality(problem, solve_random(problem, make_bench(0)))[0] < 1


def test_a_removal_counts_by_what_it_is_known_to_repeat_and_not_by_the_vectors() -> None:
    """Groups {0, 1, 2} and {3, 4}: three removals leave one document of each."""
    problem = Clustering(at_angles([0, 1, 50, 51, 120]), threshold=0.99, clusters=1, truth=(0, 0, 0, 1, 1))
    found = solve_all_pairs(problem, make_bench(0))
    assert [r[:2] for r in found.removed] == [(1, 0), (3, 2)]
    assert quality(problem, found) == (2 * 1 / (3 + 2),)  # (3, 2) are alike and do not repeat each other
    assert quality(replace(problem, truth=()), found) == ()


def test_a_group_of_the_bank_knows_labels_copies_and_paraphrases() -> None:
    same = "one two three four five six seven eight nine ten"
    group = [(same, ""), (same + " more", ""), ("apache text " * 9, "apache"), ("another text " * 9, "apache")]
    assert _known([*group, ("mit text " * 9, "mit")]).tolist() == [0, 0, 2, 2, 4]
    text = "We use this file. It contains a value. " * 20
    said = paraphrase(text, np.random.default_rng(0))
    assert {"use", "employ"} <= set(said.split())
    assert 0.8 * len(text.split()) < len(said.split()) < len(text.split())


def test_where_nothing_is_alike_removing_nothing_is_right() -> None:
    problem = Clustering(np.eye(4, dtype=np.float32), clusters=2, truth=(0, 1, 2, 3))
    assert quality(problem, solve_keep_all(problem, make_bench(0))) == (1.0,)
    assert quality(problem, solve_lloyd(problem, make_bench(0))) == (1.0,)


def test_projection_keeps_cosines_of_what_lies_in_few_dimensions() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 3)) @ rng.normal(size=(3, 20))
    low = project(rows, 3)
    np.testing.assert_allclose(low @ low.T, rows @ rows.T, atol=1e-4)


def test_bad_problems_are_refused() -> None:
    x = np.ones((4, 3), np.float32)
    for bad, message in (
        ({"clusters": 4}, "between 1 and 3"),
        ({"clusters": 1, "threshold": 0.0}, "cosine"),
        ({"clusters": 1, "weights": np.ones(3)}, "weights"),
        ({"clusters": 1, "truth": (0,)}, "1 groups should be as many"),
    ):
        with pytest.raises(ValueError, match=message):
            Clustering(x, **bad)
    with pytest.raises(ValueError, match="at least 2"):
        Clustering(x[:1], clusters=1)

"""Exact solvers against other exact solvers; annealing, repair and controls against the exact ones."""

from __future__ import annotations

import time
import tracemalloc
from itertools import combinations

import dimod
import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from tasks.combinatorial.annealing import cardinality_annealing, path_integral_annealing, simulated_annealing
from tasks.combinatorial.exact import LIMIT, all_bits, minimise, minimise_cardinality, subsets
from tasks.combinatorial.qubo import Qubo
from tasks.combinatorial.repair import (
    best,
    marginal_bits,
    project,
    repair_cardinality,
    swap_descent,
    uniform_subsets,
)


def independent_set(n: int, seed: int, density: float = 0.35) -> tuple[Qubo, list[tuple[int, int]], np.ndarray]:
    """Maximum-weight independent set; the penalty makes every optimum independent."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 11, n).astype(float)
    edges = [pair for pair in combinations(range(n), 2) if rng.random() < density]
    penalties = np.zeros((n, n))
    for i, j in edges:
        penalties[i, j] = penalties[j, i] = min(weights[i], weights[j]) + 1
    return Qubo(-weights, penalties), edges, weights


def dense(n: int, seed: int) -> Qubo:
    """A positive semi-definite form of rank n/2, as pruning gives."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, n // 2))
    gram = factors @ factors.T
    linear = np.diag(gram) + np.abs(rng.normal(size=n))
    quadratic = 2 * gram
    np.fill_diagonal(quadratic, 0.0)
    return Qubo(linear, (quadratic + quadratic.T) / 2)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_enumeration_agrees_with_dimod(n: int, seed: int) -> None:
    qubo = independent_set(n, seed)[0]
    model = dimod.BinaryQuadraticModel(qubo.linear, qubo.quadratic / 2, qubo.offset, "BINARY")
    expected = dimod.ExactSolver().sample(model).first.energy  # type: ignore[no-untyped-call]
    assert qubo.energies(minimise(qubo))[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_enumeration_agrees_with_a_linear_programme_of_independent_sets(seed: int) -> None:
    qubo, edges, weights = independent_set(18, seed)
    rows = np.zeros((len(edges), 18))
    for row, (i, j) in zip(rows, edges, strict=True):
        row[[i, j]] = 1
    found = milp(
        -weights, constraints=LinearConstraint(rows, ub=1.0), integrality=np.ones(18, np.int64), bounds=Bounds(0, 1)
    )
    assert qubo.energies(minimise(qubo))[0] == pytest.approx(found.fun)


@pytest.mark.parametrize(("n", "k"), [(1, 0), (1, 1), (5, 0), (5, 5), (9, 4), (10, 3), (12, 7)])
def test_enumeration_of_subsets_agrees_with_all_combinations(n: int, k: int) -> None:
    qubo = dense(n, 3)
    found = minimise_cardinality(qubo, k)
    assert found.sum() == k
    energies = []
    for chosen in combinations(range(n), k):
        bits = np.zeros(n)
        bits[list(chosen)] = 1
        energies.append(qubo.energies(bits)[0])
    assert qubo.energies(found)[0] == pytest.approx(min(energies))


def test_subsets_and_all_bits_list_what_they_say() -> None:
    assert all_bits(3).tolist()[6] == [0, 1, 1]
    listed = subsets(6, 2)
    assert len(listed) == 15
    assert set(listed.sum(axis=1)) == {2}
    assert len({tuple(row) for row in listed.tolist()}) == 15


def test_twenty_four_dense_variables_take_little_time_and_memory() -> None:
    qubo = dense(24, 0)
    tracemalloc.start()
    start = time.process_time()
    minimise(qubo)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2.0
    assert peak < 100 * 2**20


def test_too_many_variables_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 24"):
        minimise(Qubo(np.zeros(LIMIT + 1), np.zeros((LIMIT + 1, LIMIT + 1))))
    with pytest.raises(ValueError, match=r"k \(6\)"):
        minimise_cardinality(dense(5, 0), 6)


@pytest.mark.parametrize("anneal", [simulated_annealing, path_integral_annealing])
def test_annealing_finds_independent_sets_and_columns_are_variables(anneal) -> None:  # type: ignore[no-untyped-def]
    hits = 0
    for seed in range(5):
        qubo = independent_set(14, seed)[0]
        bits = anneal(qubo, 30, 100, np.random.default_rng(seed))
        assert bits.shape == (30, 14)
        assert bits.dtype == np.uint8
        hits += np.isclose(qubo.energies(bits).min(), qubo.energies(minimise(qubo))[0])
    assert hits == 5


def test_annealing_repeats_with_its_seed() -> None:
    qubo = dense(8, 0)
    for anneal in (simulated_annealing, path_integral_annealing):
        first, second = (anneal(qubo, 5, 20, np.random.default_rng(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
    first, second = (cardinality_annealing(qubo, 3, 5, 20, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_swap_annealing_hits_the_optimum_where_penalties_do_not() -> None:
    instances = [(n, k, seed) for n in (12, 16, 20) for k in (n // 4, n // 2) for seed in range(17)]
    hits = 0
    for n, k, seed in instances:
        qubo = dense(n, seed)
        bits = cardinality_annealing(qubo, k, 32, 60, np.random.default_rng(seed))
        assert set(bits.sum(axis=1)) == {k}
        hits += np.isclose(qubo.energies(bits).min(), qubo.energies(minimise_cardinality(qubo, k))[0])
    assert len(instances) >= 100
    assert hits / len(instances) >= 0.99


def test_single_flips_under_a_penalty_rarely_find_the_optimum_of_fixed_cardinality() -> None:
    """Why swaps are used at all: the failure that the literature on penalties describes is seen here."""
    n, k = 16, 8
    reads = 0.0
    for seed in range(4):
        qubo = dense(n, seed)
        weight = 2 * np.abs(qubo.quadratic).sum(axis=1).max()
        penalised = Qubo(
            qubo.linear + weight * (1 - 2 * k), qubo.quadratic + 2 * weight * (1 - np.eye(n)), weight * k**2
        )
        bits = simulated_annealing(penalised, 50, 100, np.random.default_rng(seed))
        reads += np.isclose(penalised.energies(bits), qubo.energies(minimise_cardinality(qubo, k))[0]).mean() / 4
    assert reads < 0.2


@pytest.mark.parametrize("k", [0, 5])
def test_swap_annealing_of_nothing_to_swap(k: int) -> None:
    bits = cardinality_annealing(dense(5, 0), k, 3, 10, np.random.default_rng(0))
    assert bits.tolist() == [[int(k == 5)] * 5] * 3


def test_swap_descent_ends_where_no_swap_helps() -> None:
    qubo = dense(9, 1)
    start = uniform_subsets(9, 4, 40, np.random.default_rng(0))
    end = swap_descent(qubo, start)
    assert set(end.sum(axis=1)) == {4}
    energies = qubo.energies(end)
    assert (energies <= qubo.energies(start) + 1e-9).all()
    for row, energy in zip(end, energies, strict=True):
        for out in np.flatnonzero(row):
            for new in np.flatnonzero(row == 0):
                swapped = row.copy()
                swapped[[out, new]] = 0, 1
                assert qubo.energies(swapped)[0] >= energy - 1e-9


def test_projection_takes_the_cheapest_bits_and_reaches_k() -> None:
    qubo = Qubo(np.array([4.0, 1.0, 3.0, 2.0]), np.zeros((4, 4)))
    bits = project(qubo, [[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]], 2)
    assert bits.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 0]]
    random = repair_cardinality(dense(10, 0), np.random.default_rng(0).integers(0, 2, (64, 10), np.uint8), 4)
    assert set(random.sum(axis=1)) == {4}


def test_degenerate_problems_end() -> None:
    flat = Qubo(np.zeros(4), np.zeros((4, 4)))
    assert swap_descent(flat, [[1, 1, 0, 0]]).tolist() == [[1, 1, 0, 0]]
    assert swap_descent(flat, [[1, 1, 1, 1]]).tolist() == [[1, 1, 1, 1]]
    empty = Qubo(np.zeros(0), np.zeros((0, 0)))
    assert minimise(empty).shape == (0,)


def test_controls_have_the_distribution_they_are_named_for() -> None:
    rng = np.random.default_rng(0)
    assert set(uniform_subsets(8, 3, 100, rng).sum(axis=1)) == {3}
    assert uniform_subsets(8, 3, 4000, rng).mean(axis=0) == pytest.approx(np.full(8, 3 / 8), abs=0.04)
    correlated = np.repeat([[1, 1, 0], [0, 0, 0]], 500, axis=0)
    drawn = marginal_bits(correlated, 4000, rng)
    assert drawn.mean(axis=0) == pytest.approx([0.5, 0.5, 0.0], abs=0.04)
    assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] == pytest.approx(0.0, abs=0.06)


def test_best_is_the_row_of_least_energy() -> None:
    qubo = dense(6, 0)
    bits = all_bits(6)
    assert qubo.energies(best(qubo, bits))[0] == qubo.energies(bits).min()

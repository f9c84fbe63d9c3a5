from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from tasks.combinatorial.exact import all_bits
from tasks.combinatorial.independent_set import Graph, branch_and_bound, greedy
from tasks.combinatorial.informed import Moments, choose_greedily, reduce_recursively
from tasks.combinatorial.published import PUBLISHED


def random_graph(n: int, density: float, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    edges = [pair for pair in combinations(range(n), 2) if rng.random() < density]
    return Graph.of(rng.uniform(4, 5, n), np.array(edges, np.int64).reshape(-1, 2))


def of_optimum(graphs: Sequence[Graph]) -> list[Moments]:
    """What a sampler that always finds the optimum estimates."""
    found = []
    for graph in graphs:
        spins = np.ones(graph.size)
        spins[list(branch_and_bound(graph).nodes)] = -1
        found.append(Moments(spins, np.outer(spins, spins)))
    return found


def of_heavy_sets(graphs: Sequence[Graph]) -> list[Moments]:
    """Moments of all independent sets, weighted towards the heavy ones."""
    found = []
    for graph in graphs:
        bits = all_bits(graph.size)
        legal = np.array([graph.is_independent(np.flatnonzero(row).tolist()) for row in bits])
        chance = legal * np.exp(bits @ np.array(graph.weights))
        spins = 1.0 - 2 * bits
        found.append(Moments(chance @ spins / chance.sum(), spins.T @ (spins * (chance / chance.sum())[:, None])))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_who_knows_the_optimum_builds_it(seed: int) -> None:
    graphs = [random_graph(16, 0.35, seed), random_graph(20, 0.3, 9 + seed), random_graph(5, 0.2, seed)]
    for build in (reduce_recursively, choose_greedily):
        for graph, nodes in zip(graphs, build(graphs, of_optimum), strict=True):
            assert graph.is_independent(nodes)
            assert graph.weight(nodes) == pytest.approx(branch_and_bound(graph).weight)


def test_correlations_of_heavy_sets_do_not_lose_to_greedy() -> None:
    graphs = [random_graph(11, 0.45, seed) for seed in range(12)]
    optimum = sum(branch_and_bound(graph).weight for graph in graphs)
    informed = reduce_recursively(graphs, of_heavy_sets)
    assert sum(g.weight(nodes) for g, nodes in zip(graphs, informed, strict=True)) == pytest.approx(optimum)
    assert sum(graph.weight(greedy(graph)) for graph in graphs) < optimum


def test_whatever_is_estimated_gives_a_maximal_independent_set() -> None:
    rng = np.random.default_rng(0)

    def nonsense(graphs: Sequence[Graph]) -> list[Moments]:
        return [Moments(rng.uniform(-1, 1, g.size), rng.uniform(-1, 1, (g.size, g.size))) for g in graphs]

    graphs = [make() for _, make, _ in PUBLISHED.values() if make().size < 100]
    for build in (reduce_recursively, choose_greedily):
        for graph, nodes in zip(graphs, build(graphs, nonsense), strict=True):
            inside = sum(1 << v for v in nodes)
            assert graph.is_independent(nodes)
            if build is choose_greedily:
                assert all(v in nodes or graph.neighbours[v] & inside for v in range(graph.size))


def test_what_reductions_solve_is_never_estimated() -> None:
    def refuse(_: Sequence[Graph]) -> list[Moments]:
        raise AssertionError

    graphs = [Graph.of([1.0] * 6, np.array([(k, k + 1) for k in range(5)]))]
    assert reduce_recursively(graphs, refuse) == choose_greedily(graphs, refuse)
    assert reduce_recursively([], refuse) == ()

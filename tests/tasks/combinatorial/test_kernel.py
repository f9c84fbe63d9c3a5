from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.combinatorial.independent_set import Graph, branch_and_bound, connected_parts
from tasks.combinatorial.kernel import kernelise


@st.composite
def graphs(draw: st.DrawFn, most: int = 11) -> Graph:
    n = draw(st.integers(0, most))
    pairs = list(combinations(range(n), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 7.25]), min_size=n, max_size=n))
    return Graph.of(weights, np.array(edges, np.int64).reshape(-1, 2))


def enumerated(graph: Graph) -> list[tuple[int, ...]]:
    """Every independent set."""
    found: list[tuple[int, ...]] = [()]
    for v in range(graph.size):
        found += [(*nodes, v) for nodes in found if graph.is_independent((*nodes, v))]
    return found


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_a_lifted_optimum_of_the_kernel_is_an_optimum_of_the_graph(graph: Graph) -> None:
    kernel = kernelise(graph)
    best = max(map(kernel.graph.weight, enumerated(kernel.graph)))
    optimum = max(map(graph.weight, enumerated(graph)))
    assert kernel.offset + best == pytest.approx(optimum)
    chosen = max(enumerated(kernel.graph), key=kernel.graph.weight)
    lifted = kernel.lift(chosen)
    assert graph.is_independent(lifted)
    assert graph.weight(lifted) == pytest.approx(optimum)


@given(graphs(8))
@settings(max_examples=50, deadline=None)
def test_every_independent_set_of_the_kernel_lifts_with_its_weight(graph: Graph) -> None:
    kernel = kernelise(graph)
    for chosen in enumerated(kernel.graph):
        lifted = kernel.lift(chosen)
        assert graph.is_independent(lifted)
        assert graph.weight(lifted) == pytest.approx(kernel.offset + kernel.graph.weight(chosen))


@given(graphs())
@settings(max_examples=50, deadline=None)
def test_what_is_left_cannot_be_reduced_further(graph: Graph) -> None:
    kernel = kernelise(graph)
    again = kernelise(kernel.graph)
    assert again.size == kernel.size
    assert again.steps == ()
    assert all(mask.bit_count() >= 2 for mask in kernel.graph.neighbours)


@pytest.mark.parametrize("n", [4, 7, 30])
def test_trees_and_cliques_have_no_kernel(n: int) -> None:
    rng = np.random.default_rng(n)
    path = [(k, k + 1) for k in range(n - 1)]
    tree = [(int(rng.integers(k)), k) for k in range(1, n)]
    for edges in (path, tree, list(combinations(range(n), 2))):
        graph = Graph.of(rng.uniform(1, 10, n), np.array(edges))
        assert kernelise(graph).lift(()) == branch_and_bound(graph).nodes


def test_a_sparse_random_graph_keeps_a_kernel_in_parts() -> None:
    rng = np.random.default_rng(0)
    edges = [(a + s, b + s) for s in (0, 12) for a, b in combinations(range(12), 2) if rng.random() < 0.5]
    graph = Graph.of(rng.uniform(4, 5, 24), np.array(edges))
    kernel = kernelise(graph)
    parts = connected_parts(kernel.graph)
    assert 0 < kernel.size < graph.size
    assert sorted(v for part in parts for v in part) == list(range(kernel.size))
    nodes = [part[v] for part in parts for v in branch_and_bound(kernel.graph.subgraph(part)).nodes]
    assert graph.weight(kernel.lift(nodes)) == pytest.approx(branch_and_bound(graph).weight)

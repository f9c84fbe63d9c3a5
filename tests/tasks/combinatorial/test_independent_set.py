from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from tasks.combinatorial.independent_set import (
    Graph,
    best_repaired,
    branch_and_bound,
    greedy,
    heaviest,
    improve,
    independent_set_qubo,
    partition,
    repair,
)


@st.composite
def graphs(draw: st.DrawFn, most: int = 10) -> Graph:
    n = draw(st.integers(1, most))
    pairs = list(combinations(range(n), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 7.25]), min_size=n, max_size=n))
    return Graph.of(weights, np.array(edges, np.int64).reshape(-1, 2))


def random_graph(n: int, density: float, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    edges = [pair for pair in combinations(range(n), 2) if rng.random() < density]
    return Graph.of(rng.uniform(1, 10, n), np.array(edges, np.int64).reshape(-1, 2))


def cycle(n: int) -> Graph:
    return Graph.of([1.0] * n, np.array([(i, (i + 1) % n) for i in range(n)]))


def enumerated(graph: Graph) -> float:
    bits = np.arange(2**graph.size)
    legal = np.ones(len(bits), bool)
    weight = np.zeros(len(bits))
    for v, mask in enumerate(graph.neighbours):
        chosen = (bits >> v & 1).astype(bool)
        legal &= ~chosen | ((bits & mask) == 0)
        weight += chosen * graph.weights[v]
    return float(weight[legal].max())


def by_milp(graph: Graph) -> float:
    rows = [
        [1.0 if v in (i, j) else 0.0 for v in range(graph.size)]
        for i, j in combinations(range(graph.size), 2)
        if graph.neighbours[i] >> j & 1
    ]
    result = milp(
        -np.array(graph.weights),
        constraints=[LinearConstraint(np.array(rows), -np.inf, 1.0)],
        integrality=np.ones(graph.size),
        bounds=(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    assert result.fun is not None
    return -float(result.fun)


def is_maximal(graph: Graph, nodes: tuple[int, ...]) -> bool:
    inside = sum(1 << v for v in nodes)
    return graph.is_independent(nodes) and all(v in nodes or graph.neighbours[v] & inside for v in range(graph.size))


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_branch_and_bound_equals_enumeration(graph: Graph) -> None:
    found = branch_and_bound(graph)
    assert found.proven
    assert graph.is_independent(found.nodes)
    assert found.weight == found.bound == pytest.approx(enumerated(graph))


@pytest.mark.parametrize(("n", "density"), [(25, 0.15), (40, 0.3), (60, 0.6)])
def test_branch_and_bound_equals_integer_programming(n: int, density: float) -> None:
    graph = random_graph(n, density, n)
    found = branch_and_bound(graph)
    assert found.proven
    assert found.weight == pytest.approx(by_milp(graph))


@pytest.mark.parametrize("n", [5, 8, 13])
def test_a_cycle_keeps_every_second_node(n: int) -> None:
    assert branch_and_bound(cycle(n)).weight == n // 2


def test_beyond_its_limit_the_search_gives_a_bound_and_says_so() -> None:
    graph = random_graph(70, 0.1, 3)
    cut = branch_and_bound(graph, node_limit=2)
    whole = branch_and_bound(graph)
    assert not cut.proven
    assert graph.is_independent(cut.nodes)
    assert cut.weight <= whole.weight <= cut.bound


@given(graphs())
@settings(deadline=None)
def test_greedy_keeps_its_guarantee(graph: Graph) -> None:
    nodes = greedy(graph)
    assert is_maximal(graph, nodes)
    # Sakai, Togasaki, Yamazaki 2003, theorem 6
    assert (
        graph.weight(nodes)
        >= sum(w / (mask.bit_count() + 1) for w, mask in zip(graph.weights, graph.neighbours, strict=True)) - 1e-9
    )


@given(graphs(), st.data())
@settings(deadline=None)
def test_repair_gives_a_maximal_set_and_leaves_a_good_one_alone(graph: Graph, data: st.DataObject) -> None:
    nodes = data.draw(st.lists(st.integers(0, graph.size - 1), unique=True))
    assert is_maximal(graph, repair(graph, nodes))
    good = branch_and_bound(graph).nodes
    if is_maximal(graph, good):
        assert repair(graph, good) == good


@given(graphs(), st.data())
@settings(deadline=None)
def test_improving_never_loses(graph: Graph, data: st.DataObject) -> None:
    nodes = data.draw(st.lists(st.integers(0, graph.size - 1), unique=True))
    better = improve(graph, nodes)
    assert is_maximal(graph, better)
    assert graph.weight(better) >= graph.weight(repair(graph, nodes)) - 1e-9


def test_the_best_of_all_samples_is_the_optimum() -> None:
    graph = random_graph(9, 0.4, 1)
    everything = (np.arange(512)[:, None] >> np.arange(9) & 1).astype(np.uint8)
    assert graph.weight(best_repaired(graph, everything)) == pytest.approx(enumerated(graph))


@given(graphs())
@settings(deadline=None)
def test_the_ground_state_of_the_qubo_is_the_optimum(graph: Graph) -> None:
    bits = (np.arange(2**graph.size)[:, None] >> np.arange(graph.size) & 1).astype(np.uint8)
    energies = independent_set_qubo(graph).energies(bits)
    lowest = np.flatnonzero(np.isclose(energies, energies.min()))
    for k in lowest:
        assert graph.is_independent(np.flatnonzero(bits[k]).tolist())
    assert -energies.min() * np.mean(graph.weights) == pytest.approx(enumerated(graph))


@given(graphs(), st.integers(1, 6))
@settings(deadline=None)
def test_a_partition_holds_every_node_once_in_balanced_blocks(graph: Graph, limit: int) -> None:
    blocks = partition(graph, limit)
    assert sorted(v for block in blocks for v in block) == list(range(graph.size))
    assert max(map(len, blocks)) <= limit
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert len(blocks) == -(-graph.size // limit)


def test_a_partition_follows_the_gaps() -> None:
    cliques = [(a, b) for start in (0, 5) for a, b in combinations(range(start, start + 5), 2)]
    graph = Graph.of([1.0] * 10, np.array([*cliques, (4, 5)]))
    assert partition(graph, 5) == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]


def test_a_subgraph_keeps_weights_and_edges() -> None:
    graph = cycle(6)
    part = graph.subgraph((1, 2, 4))
    assert part.neighbours == (0b010, 0b001, 0)
    assert not part.is_clique
    assert Graph.of([1, 2, 3], np.array([(0, 1), (0, 2), (1, 2)])).is_clique


def test_the_heaviest_node() -> None:
    assert heaviest(Graph.of([1, 3, 3], np.zeros((0, 2), np.int64))) == (1,)


@pytest.mark.parametrize("edges", [[(0, 0)], [(0, 3)], [(-1, 1)]])
def test_an_impossible_edge_is_refused(edges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="no edge of a graph with nodes"):
        Graph.of([1.0, 1.0], np.array(edges))


def test_a_weight_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Graph.of([1.0, 0.0], np.array([(0, 1)]))


def test_a_block_needs_a_node() -> None:
    with pytest.raises(ValueError, match="at least 1 node"):
        partition(cycle(4), 0)

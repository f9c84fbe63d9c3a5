import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.combinatorial.independent_set import repair
from tasks.curation.removals import Plan, Removal, component_graph, removals


def planned(weights: list[float], components: list[list[tuple[int, int]]], posed: int, largest_posed: int) -> Plan:
    plan = Plan(posed, largest_posed)
    for pairs in components:
        plan.decide(np.array(pairs), np.full(len(pairs), 0.8), np.array(weights), "abcdef".__getitem__)
    return plan


def test_pairs_and_cliques_keep_their_worthiest_document() -> None:
    plan = planned([5, 9, 4, 4, 16], [[(0, 1)], [(2, 3), (2, 4), (3, 4)]], posed=10, largest_posed=9)
    assert plan.how == ["clique", "clique"]
    gone, witness, similarity, how = plan.removals()
    assert list(zip(gone.tolist(), witness.tolist(), strict=True)) == [(0, 1), (2, 4), (3, 4)]
    assert similarity.tolist() == [0.8] * 3
    assert how == ["clique"] * 3
    members, number = plan.members()
    assert members.tolist() == [0, 1, 2, 3, 4]
    assert number.tolist() == [0, 0, 1, 1, 1]
    assert plan.sizes == {2: 1, 3: 1}
    assert plan.largest == 3


def test_chains_are_left_to_the_arms_up_to_the_limit() -> None:
    chains = [[(0, 1), (1, 2)], [(3, 4), (4, 5)]]
    assert len(planned([1] * 6, chains, posed=2, largest_posed=3).removals()[0]) == 0
    limited = planned([1] * 6, chains, posed=1, largest_posed=3)
    assert sorted(limited.how) == ["greedy", "posed"]
    assert limited.removals()[3] == ["greedy"]
    assert planned([1] * 6, chains, posed=2, largest_posed=2).how == ["greedy", "greedy"]


def test_which_chains_the_arms_get_does_not_depend_on_their_order() -> None:
    chains = [[(0, 1), (1, 2)], [(3, 4), (4, 5)]]
    there = planned([1] * 6, chains, posed=1, largest_posed=3).how
    assert there == planned([1] * 6, chains[::-1], posed=1, largest_posed=3).how[::-1]


def test_the_witness_is_the_kept_neighbour_that_is_most_alike() -> None:
    names = ["a", "b", "c"]
    graph = component_graph([1, 1, 1], names, [("a", "b", 0.7), ("b", "c", 0.9)])
    similarity = {("a", "b"): 0.7, ("b", "c"): 0.9}
    assert removals(names, graph, (0, 2), similarity, "x") == [Removal("b", "c", 0.9, "x")]


def test_a_document_without_a_witness_is_never_removed() -> None:
    graph = component_graph([1, 1, 1], ["a", "b", "c"], [("a", "b", 0.8), ("b", "c", 0.8)])
    with pytest.raises(ValueError, match="c would go although it resembles no kept document"):
        removals(["a", "b", "c"], graph, (0,), {}, "x")


@given(st.integers(2, 12), st.data())
@settings(deadline=None)
def test_every_removed_document_has_a_kept_witness_at_the_threshold(n: int, data: st.DataObject) -> None:
    names = [f"d{k}" for k in range(n)]
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    values = data.draw(st.lists(st.floats(0.7, 1.0), min_size=len(chosen), max_size=len(chosen)))
    similarity = dict(zip(chosen, values, strict=True))
    graph = component_graph(
        data.draw(st.lists(st.integers(1, 99), min_size=n, max_size=n)),
        names,
        [(a, b, s) for (a, b), s in similarity.items()],
    )
    kept = repair(graph, data.draw(st.lists(st.integers(0, n - 1), unique=True)))
    rows = removals(names, graph, kept, similarity, "x")
    assert len(rows) + len(kept) == n
    for row in rows:
        assert names.index(row.witness) in kept
        assert row.similarity >= 0.7
        assert row.similarity == similarity.get((row.removed, row.witness), similarity.get((row.witness, row.removed)))


@given(st.floats(0.1, 9), st.floats(0.1, 9))
def test_a_pair_is_decided_as_any_other_component(a: float, b: float) -> None:
    short, long = Plan(0, 0), Plan(0, 0)
    component = np.array([[0, 1]]), np.array([0.8]), np.array([a, b]), "ab".__getitem__
    short.decide(*component)
    long._decide(*component)
    assert [x.tolist() for x in short.removals()[:3]] == [x.tolist() for x in long.removals()[:3]]
    assert short.how == long.how

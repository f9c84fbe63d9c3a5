import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.combinatorial.independent_set import repair
from tasks.curation.near_duplicates import Edges, components
from tasks.curation.removals import Removal, component_graph, plan_components, removals, survivor


def edges(pairs: list[tuple[int, int]], jaccard: float = 0.8) -> Edges:
    return Edges(np.array(pairs, np.int64).reshape(-1, 2), np.full(len(pairs), jaccard), len(pairs))


def test_pairs_and_cliques_keep_their_longest_document() -> None:
    found = edges([(0, 1), (2, 3), (2, 4), (3, 4)])
    plan = plan_components(
        list("abcde"), [5, 9, 4, 4, 16], found, components(5, found.pairs), posed=10, largest_posed=9
    )
    assert plan.how == ["clique", "clique"]
    assert [(r.removed, r.witness) for r in plan.removals] == [("a", "b"), ("c", "e"), ("d", "e")]


def test_chains_are_left_to_the_arms_up_to_the_limit() -> None:
    found = edges([(0, 1), (1, 2), (3, 4), (4, 5)])
    parts = components(6, found.pairs)
    assert plan_components(list("abcdef"), [1] * 6, found, parts, posed=2, largest_posed=3).removals == []
    limited = plan_components(list("abcdef"), [1] * 6, found, parts, posed=1, largest_posed=3)
    assert sorted(limited.how) == ["greedy", "posed"]
    assert len(limited.removals) == 1
    assert limited.removals[0].subtask == "near_duplicates/greedy"
    assert plan_components(list("abcdef"), [1] * 6, found, parts, posed=2, largest_posed=2).how == ["greedy", "greedy"]


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


def test_a_survivor_is_found_through_several_decisions() -> None:
    assert survivor("a", {"a": "b", "b": "c"}) == "c"
    assert survivor("z", {"a": "b"}) == "z"

import pytest

from tasks.combinatorial.independent_set import branch_and_bound
from tasks.combinatorial.published import PUBLISHED

# nodes and edges as the library's list of instances states them
SIZES = {
    "hamming6-2": (64, 192),
    "hamming6-4": (64, 1312),
    "johnson8-2-4": (28, 168),
    "johnson8-4-4": (70, 560),
    "1dc.64": (64, 543),
    "2dc.128": (128, 5173),
    "karate": (34, 78),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_construction_gives_the_published_graph(name: str) -> None:
    _, make, independence = PUBLISHED[name]
    graph = make()
    assert (graph.size, sum(mask.bit_count() for mask in graph.neighbours) // 2) == SIZES[name]
    found = branch_and_bound(graph)
    assert found.proven
    assert found.weight == independence

"""The problem of `representatives`: near-duplicate components, and the quality of a choice of documents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tasks.combinatorial.independent_set import (
    Graph,
    Optimum,
    branch_and_bound,
)

Kept = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Components:
    """Near-duplicate components that are no cliques.

    Attributes:
        graphs: one for each component; node weights are the square roots of word counts, edges near-duplicate pairs.
        documents: the ids of the nodes of each component.
        qubit_limit: largest block that a sampler gets.
        shots: samples for each block.
        layers: of the quantum circuit.
        reads: of an annealer, for each component.
        sweeps: of an annealer.
    """

    graphs: tuple[Graph, ...]
    documents: tuple[tuple[str, ...], ...]
    qubit_limit: int = 12
    shots: int = 256
    layers: int = 3
    reads: int = 32
    sweeps: int = 100


@lru_cache(maxsize=8192)
def best_known(graph: Graph) -> Optimum:
    """Return the optimum that solutions are scored against; cached, since scoring is charged to no arm."""
    return branch_and_bound(graph)


def quality(problem: Components, solution: Kept) -> tuple[float, ...]:
    """Return the kept weight of each component over the best known one; 0 where two kept documents are alike."""
    return tuple(
        graph.weight(nodes) / best_known(graph).weight if graph.is_independent(nodes) else 0.0
        for graph, nodes in zip(problem.graphs, solution, strict=True)
    )


def oracle(problem: Components) -> tuple[float, ...]:
    """Return 1 where the best known weight is proven optimal, else the ratio that its upper bound allows."""
    return tuple(best_known(graph).bound / best_known(graph).weight for graph in problem.graphs)

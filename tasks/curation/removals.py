"""Which documents go and which kept one stands for each: components that need no arm, witnesses, survivors."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.combinatorial.independent_set import Graph, greedy, heaviest
from tasks.curation.near_duplicates import Edges
from tasks.curation.representatives import near_duplicate_graph

EXACT, SEMANTIC = "exact_duplicates", "semantic_clusters"


class Removal(NamedTuple):
    """A removed document.

    Attributes:
        removed: its id.
        witness: the kept document that it resembles most.
        similarity: how much: Jaccard, or cosine where `subtask` is `semantic_clusters`.
        subtask: what removed it.
    """

    removed: str
    witness: str
    similarity: float
    subtask: str


@dataclass(frozen=True)
class Plan:
    """How each component is decided: alone (pairs, cliques), by an arm, or by greedy above the limit.

    Attributes:
        members: (document, component, how it is decided).
        removals: of the components that need no arm.
        how: for each component `clique`, `posed` or `greedy`.
    """

    members: list[tuple[str, int, str]]
    removals: list[Removal]
    how: list[str]


def plan_components(
    ids: Sequence[str],
    n_words: Sequence[int],
    edges: Edges,
    parts: Sequence[NDArray[np.int64]],
    posed: int,
    largest_posed: int,
) -> Plan:
    """Decide pairs and cliques: the heaviest stays. Of the rest, greedy decides what is too large or too much."""
    component = {v: k for k, part in enumerate(parts) for v in part.tolist()}
    inside: dict[int, list[tuple[str, str, float]]] = defaultdict(list)
    for (i, j), similarity in zip(edges.pairs.tolist(), edges.jaccard.tolist(), strict=True):
        inside[component[i]].append((ids[i], ids[j], similarity))
    names = [[ids[v] for v in part.tolist()] for part in parts]
    graphs = [component_graph([n_words[v] for v in part.tolist()], names[k], inside[k]) for k, part in enumerate(parts)]
    undecided = sorted(
        (k for k, graph in enumerate(graphs) if not graph.is_clique and graph.size <= largest_posed),
        key=lambda k: name_order(names[k][0]),
    )
    arms = set(undecided[:posed])
    how = ["clique" if graph.is_clique else "posed" if k in arms else "greedy" for k, graph in enumerate(graphs)]
    removed: list[Removal] = []
    for k, graph in enumerate(graphs):
        if how[k] != "posed":
            nodes = heaviest(graph) if how[k] == "clique" else greedy(graph)
            similarity = {(a, b): s for a, b, s in inside[k]}
            removed += removals(names[k], graph, nodes, similarity, f"near_duplicates/{how[k]}")
    return Plan([(name, k, how[k]) for k, part in enumerate(names) for name in part], removed, how)


def component_graph(n_words: Sequence[int], names: Sequence[str], edges: Sequence[tuple[str, str, Any]]) -> Graph:
    """Return the weighted graph of one component."""
    number = {name: k for k, name in enumerate(names)}
    pairs = [(number[a], number[b]) for a, b, _ in edges]
    return near_duplicate_graph(n_words, np.array(pairs, np.int64).reshape(-1, 2))


def removals(
    names: Sequence[str],
    graph: Graph,
    nodes: Sequence[int],
    similarity: Mapping[tuple[str, str], float],
    subtask: str,
) -> list[Removal]:
    """Name for every document outside a maximal independent set the kept neighbour that it resembles most.

    Raises:
        ValueError: the set is not maximal: a document outside it resembles no kept one.
    """
    rows: list[Removal] = []
    for v in sorted(set(range(graph.size)) - set(nodes)):
        kept = [names[u] for u in nodes if graph.neighbours[v] >> u & 1]
        if not kept:
            raise ValueError(f"{names[v]} would go although it resembles no kept document")
        known = [(similarity.get((names[v], k), similarity.get((k, names[v]), 0.0)), k) for k in kept]
        best = max(known, key=lambda pair: pair[0])
        rows.append(Removal(names[v], best[1], best[0], subtask))
    return rows


def with_kept_witnesses(rows: Sequence[Removal]) -> list[Removal]:
    """Give each exact copy of a document that went for a near duplicate the witness of that document.

    A copy has the shingles of what it repeats, hence the same similarity to the document that stays.
    """
    near = {row.removed: row for row in rows if row.subtask not in (EXACT, SEMANTIC)}
    return [
        near[row.witness]._replace(removed=row.removed, subtask=EXACT)
        if row.subtask == EXACT and row.witness in near
        else row
        for row in rows
    ]


def survivor(name: str, witness: Mapping[str, str]) -> str:
    """Follow the witnesses to a kept document: a witness can be removed by a later decision, never by an earlier."""
    while name in witness:
        name = witness[name]
    return name


def name_order(name: str) -> str:
    """Return a key that orders documents as if at random, the same in every run."""
    return hashlib.sha256(name.encode()).hexdigest()

"""Which documents are removed, and which kept document (witness) each repeats; components that need no arm."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.combinatorial.independent_set import Graph, greedy
from tasks.curation.index.shingles import I64, compiled

LARGE = 2_048  # documents of a component that the heaviest-first rule decides


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


@dataclass
class Plan:
    """Decides components one by one: pairs and cliques alone, the others by greedy unless an arm is to decide them.

    What was removed from crowds stays removed, and its witnesses stay. Documents are numbers in arrays.

    Attributes:
        posed: components that are put before the arms at most; those whose first names have the least digests.
        largest_posed: documents of the largest of them.
        crowd_witness: of each document removed from a crowd its witness, -1 of all others; None without crowds.
    """

    posed: int
    largest_posed: int
    crowd_witness: I64 | None = None
    how: list[str] = field(default_factory=list)
    largest: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    _members: array[int] = field(default_factory=lambda: array("q"))
    _member_of: array[int] = field(default_factory=lambda: array("q"))
    _gone: array[int] = field(default_factory=lambda: array("q"))
    _witness: array[int] = field(default_factory=lambda: array("q"))
    _similarity: array[float] = field(default_factory=lambda: array("d"))
    _gone_of: array[int] = field(default_factory=lambda: array("q"))
    _waiting: list[tuple[int, int]] = field(default_factory=list)

    def decide(
        self, pairs: I64, jaccard: NDArray[np.float64], weights: NDArray[np.float64], name: Callable[[int], str]
    ) -> None:
        """Decide the next component.

        Args:
            pairs: its edges (m, 2) by numbers of documents.
            jaccard: their similarities.
            weights: what every document is worth, by number.
            name: gives the id of a document.
        """
        if self.crowd_witness is not None and (self.crowd_witness[pairs] >= 0).any():
            self._thin(pairs, jaccard, weights, self.crowd_witness)
        elif len(pairs) == 1:  # as most components are: the heavier stays, of equal ones the first
            first, second = pairs[0].tolist()
            kept, gone = (second, first) if weights[second] > weights[first] else (first, second)
            self._note([first, second], [gone], [kept], jaccard.tolist(), "clique")
        else:
            self._decide(pairs, jaccard, weights, name)

    def _thin(self, pairs: I64, jaccard: NDArray[np.float64], weights: NDArray[np.float64], crowd_witness: I64) -> None:
        """Decide a component with a crowd: its representatives stay, of the others the heaviest first."""
        members, inside = np.unique(pairs, return_inverse=True)
        inside = inside.reshape(pairs.shape)
        witness = crowd_witness[members]
        removed = witness >= 0
        pinned = np.zeros(len(members), bool)
        pinned[np.searchsorted(members, witness[removed])] = True
        between = ~removed[inside].any(axis=1)  # edges between documents that are still there
        kept = _heaviest_first(inside[between], weights[members], pinned) & ~removed
        nearest, value = _nearest_kept(inside[between], jaccard[between], kept)
        gone, star = np.flatnonzero(nearest >= 0), np.flatnonzero(removed)
        # Edges are ordered by their first and second document, so an edge is found by both.
        ends = np.sort(np.column_stack([members[star], witness[star]]), axis=1)
        span = members[-1] + 1
        own = jaccard[np.searchsorted(pairs[:, 0] * span + pairs[:, 1], ends[:, 0] * span + ends[:, 1])]
        self._note(
            members.tolist(),
            members[np.r_[star, gone]].tolist(),
            [*witness[star].tolist(), *members[nearest[gone]].tolist()],
            [*own.tolist(), *value[gone].tolist()],
            "representative",
        )

    def _decide(
        self, pairs: I64, jaccard: NDArray[np.float64], weights: NDArray[np.float64], name: Callable[[int], str]
    ) -> None:
        members, inside = np.unique(pairs, return_inverse=True)
        inside = inside.reshape(pairs.shape)
        number, clique = len(self.how), len(pairs) == len(members) * (len(members) - 1) // 2
        if len(members) > LARGE and not clique:  # a graph of sets of neighbours would grow with the square
            stay = _heaviest_first(inside, weights[members], np.zeros(len(members), bool))
        else:
            stay = np.zeros(len(members), bool)
            heaviest = [int(np.argmax(weights[members]))]
            stay[heaviest if clique else list(greedy(Graph.of(weights[members].tolist(), inside)))] = True
        nearest, value = _nearest_kept(inside, jaccard, stay)
        gone = np.flatnonzero(nearest >= 0)
        if len(gone) + stay.sum() != len(members):
            raise ValueError(f"the component of {name(int(members[0]))} would lose a document without a kept witness")
        witness = members[nearest[gone]].tolist()
        self._note(
            members.tolist(), members[gone].tolist(), witness, value[gone].tolist(), "clique" if clique else "greedy"
        )
        if not clique and len(members) <= self.largest_posed and self.posed:
            self.how[number] = "posed"
            heappush(self._waiting, (-int(name_order(name(int(members[0]))), 16), number))
            if len(self._waiting) > self.posed:  # the one with the largest digest steps back
                self.how[heappop(self._waiting)[1]] = "greedy"

    def _note(self, members: list[int], gone: list[int], witness: list[int], similarity: list[float], how: str) -> None:
        number = len(self.how)
        self.how.append(how)
        self.sizes[len(members)] += 1
        self.largest = max(self.largest, len(members))
        self._members.extend(members)
        self._member_of.extend([number] * len(members))
        self._gone.extend(gone)
        self._witness.extend(witness)
        self._similarity.extend(similarity)
        self._gone_of.extend([number] * len(gone))

    def members(self) -> tuple[I64, I64]:
        """Return the documents of all components, and the number of the component of each."""
        return np.array(self._members, np.int64), np.array(self._member_of, np.int64)

    def removals(self) -> tuple[I64, I64, NDArray[np.float64], list[str]]:
        """Return what goes where no arm decides: document, witness, similarity, and how it was decided."""
        how = np.array(self.how, np.str_)[np.array(self._gone_of, np.int64)] if self.how else np.zeros(0, np.str_)
        settled = how != "posed"
        gone, witness = np.array(self._gone, np.int64), np.array(self._witness, np.int64)
        value = np.array(self._similarity)
        return gone[settled], witness[settled], value[settled], how[settled].tolist()


@compiled
def _nearest_kept(edges: I64, jaccard: NDArray[np.float64], stay: NDArray[np.bool_]) -> tuple[I64, NDArray[np.float64]]:
    """Return for each removed document the kept one that it resembles most, of equal ones the first, and how much.

    The former is -1 where a document is kept, or has an edge to no kept one.
    """
    nearest, value = np.full(len(stay), -1, np.int64), np.zeros(len(stay))
    for k in range(len(edges)):
        for side in range(2):
            gone, kept = edges[k, side], edges[k, 1 - side]
            if stay[gone] or not stay[kept]:
                continue
            if nearest[gone] < 0 or jaccard[k] > value[gone] or (jaccard[k] == value[gone] and kept < nearest[gone]):
                nearest[gone], value[gone] = kept, jaccard[k]
    return nearest, value


def _heaviest_first(edges: I64, weights: NDArray[np.float64], pinned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which documents stay when each stays that resembles none that stays, pinned and heavy ones first."""
    rank = np.empty(len(weights), np.int64)
    order = np.lexsort((-weights, ~pinned))
    rank[order] = np.arange(len(order))
    links = np.concatenate([edges, edges[:, ::-1]])
    links = links[np.argsort(rank[links[:, 0]], kind="stable")]
    starts = np.searchsorted(rank[links[:, 0]], np.arange(len(order) + 1))
    return _stay(order, starts, links[:, 1].copy(), pinned)


@compiled
def _stay(order: I64, starts: I64, others: I64, pinned: NDArray[np.bool_]) -> NDArray[np.bool_]:
    stay = np.zeros(len(order), np.bool_)
    for k in range(len(order)):
        stay[order[k]] = True
        if pinned[order[k]]:
            continue
        for e in range(starts[k], starts[k + 1]):
            if others[e] != order[k] and stay[others[e]]:
                stay[order[k]] = False
                break
    return stay


def component_graph(weights: Sequence[float], names: Sequence[str], edges: Sequence[tuple[str, str, Any]]) -> Graph:
    """Return the weighted graph of one component."""
    number = {name: k for k, name in enumerate(names)}
    pairs = [(number[a], number[b]) for a, b, _ in edges]
    return Graph.of(weights, np.array(pairs, np.int64).reshape(-1, 2))


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


def name_order(name: str) -> str:
    """Return a key that orders documents as if at random, the same in every run."""
    return hashlib.sha256(name.encode()).hexdigest()

"""Exact reductions of the maximum-weight independent set problem: what they leave is the kernel of a graph.

The rules, applied until none fits (Lamm, Schulz, Strash, Williger, Zhang, "Exactly solving the maximum weight
independent set problem on large real-world graphs", ALENEX 2019, arXiv 1810.10834):

* neighbourhood: a node that weighs at least as much as all its neighbours together is taken (isolated nodes are);
* simplicial weight transfer: the neighbours of a node are a clique. Lighter neighbours are dropped, the weight of the
  node is taken off the others, and the node is taken if none of the others is (this solves all nodes of degree 1);
* folding: the two neighbours of a node of degree 2 are not joined and each weigh no more than it, together more. The
  three become one node, which stands for both neighbours if it is taken and for the node if it is not;
* domination: a node is dropped if one of its neighbours weighs at least as much and has no further neighbour;
* twins: nodes with the same neighbours, not joined, become one node with the weight of both.

A kernel may fall into parts. Some optimum of the graph is the lifted optimum of its kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tasks.combinatorial.independent_set import Graph

_EPSILON = 1e-12


@dataclass(frozen=True)
class Step:
    """One decision that was put off: how the nodes of a solution of the rest become nodes of the graph.

    Attributes:
        node: the node that is taken if none of `rivals` is.
        rivals: nodes of the rest, none where `node` is taken in any case.
        instead: replaced by `both` if it is taken: a node that stands for several.
        both: the nodes that `instead` stands for.
    """

    node: int | None
    rivals: tuple[int, ...] = ()
    instead: int | None = None
    both: tuple[int, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """What the reductions leave of a graph.

    Attributes:
        graph: the kernel; empty where the reductions solve the graph.
        nodes: number of each node of the kernel in the steps.
        offset: weight that the steps add to every independent set of the kernel.
        steps: in the order they were made.
    """

    graph: Graph
    nodes: tuple[int, ...]
    offset: float
    steps: tuple[Step, ...]

    @property
    def size(self) -> int:
        """Number of nodes that are left."""
        return self.graph.size

    def lift(self, chosen: Iterable[int]) -> tuple[int, ...]:
        """Return the independent set of the graph for an independent set of its kernel."""
        taken = {self.nodes[v] for v in chosen}
        for step in reversed(self.steps):
            if step.instead is not None and step.instead in taken:
                taken.remove(step.instead)
                taken.update(step.both)
            elif step.node is not None and taken.isdisjoint(step.rivals):
                taken.add(step.node)
        return tuple(sorted(taken))


def kernelise(graph: Graph) -> Kernel:
    """Apply the reductions until none fits."""
    return _Reduction(graph).run()


class _Reduction:
    """A graph while it is reduced; numbers of nodes that come from folding follow those of the graph."""

    def __init__(self, graph: Graph) -> None:
        self.weights = dict(enumerate(graph.weights))
        self.around = {v: set(_ones(mask)) for v, mask in enumerate(graph.neighbours)}
        self.steps: list[Step] = []
        self.offset = 0.0
        self.next = graph.size

    def run(self) -> Kernel:
        waiting = set(self.weights)
        while waiting:
            node = min(waiting)
            waiting.remove(node)
            if node in self.weights:
                changed = self._reduce(node) & self.weights.keys()
                waiting |= changed.union(*(self.around[v] for v in changed))
        nodes = tuple(sorted(self.weights))
        number = {v: k for k, v in enumerate(nodes)}
        edges = [(number[v], number[u]) for v in nodes for u in sorted(self.around[v]) if v < u]
        left = Graph.of([self.weights[v] for v in nodes], np.array(edges, np.int64).reshape(-1, 2))
        return Kernel(left, nodes, self.offset, tuple(self.steps))

    def _reduce(self, v: int) -> set[int]:
        """Apply the first rule that fits the node; return the nodes whose surroundings changed."""
        around, weight = self.around[v], self.weights[v]
        if sum(self.weights[u] for u in around) <= weight + _EPSILON:
            return self._take(v)
        if all(b in self.around[a] for a, b in combinations(around, 2)):
            return self._transfer(v)
        if len(around) == 2 and max(self.weights[u] for u in around) <= weight:
            return self._fold(v)
        for u in sorted(around):
            if self.weights[u] >= weight and self.around[u] - {v} <= around:
                return self._drop(v)
        for u in sorted(self.around[min(around)]):
            if u != v and u not in around and self.around[u] == around:
                return self._merge(v, u)
        return set()

    def _take(self, v: int) -> set[int]:
        self.offset += self.weights[v]
        self.steps.append(Step(v))
        changed = set[int]()
        for u in sorted(self.around[v]):
            changed |= self._drop(u)
        self._drop(v)
        return changed

    def _transfer(self, v: int) -> set[int]:
        weight, changed = self.weights[v], set[int]()
        for u in sorted(self.around[v]):
            if self.weights[u] <= weight + _EPSILON:
                changed |= self._drop(u)
        rivals = tuple(sorted(self.around[v]))
        self.offset += weight
        self.steps.append(Step(v, rivals))
        changed |= self._drop(v)
        for u in rivals:
            self.weights[u] -= weight
        return changed.union(rivals)

    def _fold(self, v: int) -> set[int]:
        x, y = sorted(self.around[v])
        weight, joined = self.weights[v], self.weights[x] + self.weights[y] - self.weights[v]
        around = (self.around[x] | self.around[y]) - {v}
        for gone in (v, x, y):
            self._drop(gone)
        new, self.next = self.next, self.next + 1
        self.weights[new], self.around[new] = joined, around
        for u in around:
            self.around[u].add(new)
        self.offset += weight
        self.steps.append(Step(v, (new,), new, (x, y)))
        return {new, *around}

    def _merge(self, v: int, twin: int) -> set[int]:
        self.weights[twin] += self.weights[v]
        self.steps.append(Step(None, (), twin, (v, twin)))
        return self._drop(v) | {twin}

    def _drop(self, v: int) -> set[int]:
        around = self.around.pop(v)
        del self.weights[v]
        for u in around:
            self.around[u].discard(v)
        return around


def _ones(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low

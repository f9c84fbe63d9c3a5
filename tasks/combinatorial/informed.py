"""Independent sets built step by step from estimates of a sampler: which nodes are chosen, and which pairs together.

The estimates may come from a circuit, from its exact probabilities, or from coins; all of them go through these steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.combinatorial.independent_set import Graph
from tasks.combinatorial.kernel import Kernel, kernelise
from tasks.combinatorial.qubo import Floats

_EPSILON = 1e-9


@dataclass(frozen=True)
class Moments:
    """Estimates for a graph with z = 1 - 2x, so that -1 is a chosen node.

    Attributes:
        single: (n,) mean of z of each node.
        pairs: (n, n) mean of z_i z_j, 0 where it was not estimated.
    """

    single: Floats
    pairs: Floats


Estimate = Callable[[Sequence[Graph]], Sequence[Moments]]


@dataclass
class _Branch:
    """One graph on its way down, and how to come back up."""

    left: Graph
    steps: list[Callable[[tuple[int, ...]], tuple[int, ...]]] = field(default_factory=list)

    def reduce(self) -> Graph:
        """Replace what is left by its kernel."""
        kernel: Kernel = kernelise(self.left)
        self.steps.append(kernel.lift)
        self.left = kernel.graph
        return self.left

    def cut(self, taken: tuple[int, ...], dropped: int) -> None:
        """Take some nodes, drop them and others (a bit mask)."""
        rest = tuple(v for v in range(self.left.size) if not dropped >> v & 1)
        self.steps.append(lambda chosen: (*taken, *(rest[v] for v in chosen)))
        self.left = self.left.subgraph(rest)

    def result(self) -> tuple[int, ...]:
        chosen: tuple[int, ...] = ()
        for step in reversed(self.steps):
            chosen = step(chosen)
        return tuple(sorted(chosen))


def reduce_recursively(graphs: Sequence[Graph], estimate: Estimate) -> tuple[tuple[int, ...], ...]:
    """Return an independent set of each graph: reduce it by its strongest correlation until nothing is left.

    Quantum-informed recursive optimisation (Finzgar, Kerschbaumer, Schuetz, Mendl, Katzgraber, PRX Quantum 5, 020327
    (2024), arXiv 2308.13607) without backtracking, with exact reductions between the rounds. In every round the largest
    absolute value among the means of nodes and of edges decides: a node with a negative mean is taken, one with a
    positive mean is dropped; two neighbours with a positive correlation are both dropped; with a negative one exactly
    one of them is chosen, so their common neighbours are dropped. All graphs go through a round together: a job each.
    """
    branches = [_Branch(graph) for graph in graphs]
    while active := [branch for branch in branches if branch.reduce().size]:
        for branch, moments in zip(active, estimate([branch.left for branch in active]), strict=True):
            branch.cut(*_strongest(branch.left, moments))
    return tuple(branch.result() for branch in branches)


def choose_greedily(graphs: Sequence[Graph], estimate: Estimate) -> tuple[tuple[int, ...], ...]:
    """Return an independent set of each graph: greedy, informed by how often a sampler chooses a node.

    After the quantum-enhanced greedy algorithm (Wybo et al., arXiv 2601.21923): fixed angles, local expectation values
    computed once, sequential greedy choices. It is stated there for regular graphs and equal weights; here the measure
    of the weighted greedy algorithm, weight/(degree + 1) in the remaining graph, is multiplied by the estimated
    probability that the node is chosen.
    """
    branches = [_Branch(graph) for graph in graphs]
    active = [branch for branch in branches if branch.reduce().size]
    for branch, moments in zip(active, estimate([branch.left for branch in active]) if active else (), strict=True):
        graph, chance = branch.left, (1 - moments.single) / 2
        left, taken = (1 << graph.size) - 1, list[int]()
        while left:
            nodes = [v for v in range(graph.size) if left >> v & 1]
            degrees = [(graph.neighbours[v] & left).bit_count() for v in nodes]
            worth = [chance[v] * graph.weights[v] / (d + 1) for v, d in zip(nodes, degrees, strict=True)]
            best = nodes[int(np.argmax(worth))]
            taken.append(best)
            left &= ~(graph.neighbours[best] | 1 << best)
        branch.cut(tuple(taken), (1 << graph.size) - 1)
    return tuple(branch.result() for branch in branches)


def _strongest(graph: Graph, moments: Moments) -> tuple[tuple[int, ...], int]:
    """Return the nodes to take and the nodes to drop (a bit mask, those taken included)."""
    return max(_candidates(graph, moments), key=lambda found: found[0])[1:]


def _candidates(graph: Graph, moments: Moments) -> Iterator[tuple[float, tuple[int, ...], int]]:
    for v, mean in enumerate(moments.single.tolist()):
        if mean < 0:
            yield -mean, (v,), graph.neighbours[v] | 1 << v
        else:
            yield mean, (), 1 << v
    for i, mask in enumerate(graph.neighbours):
        for j in range(i + 1, graph.size):
            mean = float(moments.pairs[i, j]) if mask >> j & 1 else 0.0
            common = mask & graph.neighbours[j]
            if mean > _EPSILON:
                yield mean, (), 1 << i | 1 << j
            elif mean < -_EPSILON and common:
                yield -mean, (), common

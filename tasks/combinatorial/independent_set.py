"""Maximum-weight independent sets of small graphs: greedy, exact, and the repair that samplers share.

Nodes are 0..n-1, a set of nodes is an integer bit mask, a result is a sorted tuple of nodes. Every tie is broken by
the smaller node, so all functions here are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.combinatorial.qubo import Qubo

PENALTY = 1.25
NODE_LIMIT = 20_000
_EPSILON = 1e-9


@dataclass(frozen=True)
class Graph:
    """A weighted graph.

    Attributes:
        weights: positive weight of each node.
        neighbours: bit mask of the neighbours of each node.
    """

    weights: tuple[float, ...]
    neighbours: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[float] | NDArray[np.float64], edges: NDArray[np.int64]) -> Graph:
        """Build the graph of node weights and an (m, 2) array of edges.

        Raises:
            ValueError: a weight is not positive, an edge is a loop or names a node that does not exist.
        """
        n = len(weights)
        if not (np.asarray(weights) > 0).all():
            raise ValueError("weights of an independent set problem are positive numbers")
        masks = [0] * n
        for i, j in np.asarray(edges, np.int64).reshape(-1, 2).tolist():
            if i == j or not (0 <= i < n and 0 <= j < n):
                raise ValueError(f"edge ({i}, {j}) is no edge of a graph with nodes 0..{n - 1}")
            masks[i] |= 1 << j
            masks[j] |= 1 << i
        return cls(tuple(float(w) for w in weights), tuple(masks))

    @property
    def size(self) -> int:
        """Number of nodes."""
        return len(self.weights)

    @property
    def is_clique(self) -> bool:
        """Whether every two nodes are neighbours."""
        return sum(mask.bit_count() for mask in self.neighbours) == self.size * (self.size - 1)

    def weight(self, nodes: Sequence[int]) -> float:
        """Return the total weight of some nodes."""
        return sum(self.weights[v] for v in nodes)

    def is_independent(self, nodes: Sequence[int]) -> bool:
        """Whether no two of the nodes are neighbours."""
        mask = _mask(nodes)
        return all(not self.neighbours[v] & mask for v in nodes)

    def subgraph(self, nodes: Sequence[int]) -> Graph:
        """Return the graph induced on some nodes, renumbered in the given order."""
        number = {v: k for k, v in enumerate(nodes)}
        inside = _mask(nodes)
        masks = [sum(1 << number[u] for u in _bits(self.neighbours[v] & inside)) for v in nodes]
        return Graph(tuple(self.weights[v] for v in nodes), tuple(masks))


@dataclass(frozen=True)
class Optimum:
    """The result of an exact search.

    Attributes:
        nodes: the best independent set found.
        weight: its weight.
        bound: upper bound on the weight of every independent set; equal to `weight` if proven.
        proven: whether the search was completed.
    """

    nodes: tuple[int, ...]
    weight: float
    bound: float
    proven: bool


def heaviest(graph: Graph) -> tuple[int, ...]:
    """Return the heaviest node alone."""
    return (max(range(graph.size), key=lambda v: (graph.weights[v], -v)),)


def connected_parts(graph: Graph) -> list[tuple[int, ...]]:
    """Return the nodes of each connected part, rising."""
    return [tuple(_bits(part)) for part in _parts(graph, (1 << graph.size) - 1)]


def greedy(graph: Graph) -> tuple[int, ...]:
    """Choose the node with the largest weight/(degree + 1) in the remaining graph, drop its neighbours, repeat.

    Sakai, Togasaki, Yamazaki (2003), algorithm GWMIN: at least sum of w(v)/(deg(v) + 1).
    """
    left = (1 << graph.size) - 1
    taken: list[int] = []
    while left:
        best = max(_bits(left), key=lambda v: (graph.weights[v] / ((graph.neighbours[v] & left).bit_count() + 1), -v))
        taken.append(best)
        left &= ~(graph.neighbours[best] | 1 << best)
    return tuple(sorted(taken))


def repair(graph: Graph, nodes: Sequence[int]) -> tuple[int, ...]:
    """Make a maximal independent set from any set of nodes: drop conflicts, then add what still fits.

    Both steps visit the nodes by falling weight/(degree + 1) in the whole graph.
    """
    mask, blocked, chosen = _mask(nodes), 0, 0
    order = _priority(graph)
    for wanted in (True, False):
        for v in order:
            bit = 1 << v
            if bool(mask & bit) is wanted and not blocked & bit:
                chosen |= bit
                blocked |= graph.neighbours[v] | bit
    return tuple(_bits(chosen))


def best_repaired(graph: Graph, samples: NDArray[np.uint8]) -> tuple[int, ...]:
    """Repair every sample, a row of 0/1 for each node, and return the heaviest result."""
    candidates = (repair(graph, np.flatnonzero(row).tolist()) for row in np.unique(samples, axis=0))
    return max(candidates, key=lambda nodes: (graph.weight(nodes), nodes))


def improve(graph: Graph, nodes: Sequence[int]) -> tuple[int, ...]:
    """Swap chosen neighbours for a heavier node while the weight grows, then add free nodes; starts from any nodes."""
    chosen = _mask(repair(graph, nodes))
    gained = True
    while gained:
        gained = False
        for v in range(graph.size):
            bit = 1 << v
            lost = graph.neighbours[v] & chosen
            if not chosen & bit and graph.weights[v] > sum(graph.weights[u] for u in _bits(lost)) + _EPSILON:
                chosen = _mask(repair(graph, tuple(_bits(chosen & ~lost | bit))))
                gained = True
    return tuple(_bits(chosen))


def branch_and_bound(graph: Graph, node_limit: int = NODE_LIMIT) -> Optimum:
    """Search exactly: weight reductions, split into connected parts, clique-cover bound, branch on the largest degree.

    The limit on search nodes is for graphs of up to 100 nodes and falls with the cube of the size above, as a
    search node costs that much more. Components of up to 235 near-duplicate licence texts were solved within the
    limit. If the limit is reached, the best set found is returned with the bound of the root.
    """
    start = max((improve(graph, greedy(graph)), improve(graph, ())), key=graph.weight)
    everything = (1 << graph.size) - 1
    bound = _cover_bound(graph, everything)
    budget = _Budget(max(1, int(node_limit * min(1.0, (100 / max(1, graph.size)) ** 3))))
    found = _search(graph, everything, graph.weight(start), budget)
    nodes = start if found is None else tuple(_bits(found))
    weight = graph.weight(nodes)
    proven = not budget.exceeded
    return Optimum(nodes, weight, weight if proven else max(bound, weight), proven)


def partition(graph: Graph, limit: int) -> list[tuple[int, ...]]:
    """Split the nodes into connected-as-possible blocks of nearly equal size, none larger than `limit`.

    Greedy graph growing (Karypis and Kumar, 1998): each block starts at the node with the fewest free neighbours and
    takes the free node with the most neighbours inside it, the fewest outside.

    Raises:
        ValueError: `limit` is less than 1.
    """
    if limit < 1:
        raise ValueError(f"a block holds at least 1 node, not {limit}")
    count = -(-graph.size // limit)
    free = (1 << graph.size) - 1
    blocks: list[tuple[int, ...]] = []
    for k in range(count):
        target = -(-free.bit_count() // (count - k))
        block = 0
        for _ in range(target):
            node = max(_bits(free), key=lambda v: _pull(graph, v, block, free))
            block |= 1 << node
            free &= ~(1 << node)
        blocks.append(tuple(_bits(block)))
    return blocks


def independent_set_qubo(graph: Graph) -> Qubo:
    """Return the QUBO -sum w x + sum over edges of 1.25 min(w_i, w_j) x_i x_j, weights scaled to mean 1.

    A penalty above min(w_i, w_j) suffices for an independent optimum (Lucas, 2014, section 4.2, weighted).
    """
    n = graph.size
    weights = np.array(graph.weights) / np.mean(graph.weights)
    adjacency = np.array([[mask >> j & 1 for j in range(n)] for mask in graph.neighbours], float).reshape(n, n)
    return Qubo(linear=-weights, quadratic=PENALTY * adjacency * np.minimum.outer(weights, weights))


@dataclass
class _Budget:
    nodes: int
    exceeded: bool = False

    def spend(self) -> bool:
        if self.nodes <= 0:
            self.exceeded = True
            return False
        self.nodes -= 1
        return True


def _search(graph: Graph, left: int, floor: float, budget: _Budget) -> int | None:
    """Return the best independent set inside `left` that weighs more than `floor`, or None."""
    forced, left = _reduce(graph, left)
    base = sum(graph.weights[v] for v in _bits(forced))
    if not left:
        return forced if base > floor + _EPSILON else None
    parts = list(_parts(graph, left))
    if len(parts) > 1:
        return _search_parts(graph, parts, forced, base, floor, budget)
    if base + _cover_bound(graph, left) <= floor + _EPSILON or not budget.spend():
        return None
    node = max(_bits(left), key=lambda v: ((graph.neighbours[v] & left).bit_count(), graph.weights[v], -v))
    best: int | None = None
    bit = 1 << node
    inside = left & ~(graph.neighbours[node] | bit)
    for taken, rest in ((bit, inside), (0, left & ~bit)):
        gain = graph.weights[node] if taken else 0.0
        found = _search(graph, rest, floor - base - gain, budget)
        if found is not None:
            best = forced | taken | found
            floor = sum(graph.weights[v] for v in _bits(best))
    return best


def _search_parts(
    graph: Graph, parts: list[int], forced: int, base: float, floor: float, budget: _Budget
) -> int | None:
    """Solve unconnected parts one after the other; the bounds of the later ones prune the earlier ones."""
    bounds = [_cover_bound(graph, part) for part in parts]
    chosen, reached = forced, base
    for k, part in enumerate(parts):
        need = floor - reached - sum(bounds[k + 1 :])
        found = _search(graph, part, max(need, 0.0), budget)
        if found is None:
            return None
        chosen |= found
        reached += sum(graph.weights[v] for v in _bits(found))
    return chosen if reached > floor + _EPSILON else None


def _reduce(graph: Graph, left: int) -> tuple[int, int]:
    """Choose every node that weighs at least as much as all its neighbours together; some optimum contains it."""
    forced, changed = 0, True
    while changed and left:
        changed = False
        for v in _bits(left):
            if not left >> v & 1:
                continue
            around = graph.neighbours[v] & left
            if sum(graph.weights[u] for u in _bits(around)) <= graph.weights[v]:
                forced |= 1 << v
                left &= ~(around | 1 << v)
                changed = True
    return forced, left


def _parts(graph: Graph, left: int) -> Iterator[int]:
    """Yield the connected parts of a set of nodes."""
    while left:
        part = frontier = left & -left
        while frontier:
            reached = 0
            for v in _bits(frontier):
                reached |= graph.neighbours[v]
            frontier = reached & left & ~part
            part |= frontier
        yield part
        left &= ~part


def _cover_bound(graph: Graph, left: int) -> float:
    """Cover the nodes with cliques, heaviest first; a set keeps at most the heaviest node of each clique."""
    bound = 0.0
    cliques: list[int] = []
    for v in sorted(_bits(left), key=lambda v: (-graph.weights[v], v)):
        for k, common in enumerate(cliques):
            if common >> v & 1:
                cliques[k] = common & graph.neighbours[v]
                break
        else:
            bound += graph.weights[v]
            cliques.append(graph.neighbours[v])
    return bound


def _pull(graph: Graph, node: int, block: int, free: int) -> tuple[int, int, int]:
    return ((graph.neighbours[node] & block).bit_count(), -(graph.neighbours[node] & free).bit_count(), -node)


def _priority(graph: Graph) -> list[int]:
    return sorted(range(graph.size), key=lambda v: (-graph.weights[v] / (graph.neighbours[v].bit_count() + 1), v))


def _mask(nodes: Sequence[int]) -> int:
    mask = 0
    for v in nodes:
        mask |= 1 << v
    return mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low

"""Samplers of independent sets: every one gets the same blocks of the kernels, and the same repair afterwards.

The kernel of a component is what exact reductions leave of it (`tasks.combinatorial.kernel`). Its connected parts are
split into blocks of at most `qubit_limit` nodes, a circuit each, all of them in one job. Where the kernels are empty
there is no circuit: the reductions have solved the problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.combinatorial.independent_set import (
    Graph,
    connected_parts,
    independent_set_qubo,
    partition,
    repair,
)
from tasks.combinatorial.informed import Moments
from tasks.combinatorial.kernel import Kernel, kernelise
from tasks.combinatorial.qubo import Bits, Floats
from tasks.contract import Bench
from tasks.curation.representatives.problem import Components, Kept
from tasks.quantum.angles import tuned_ramp
from tasks.quantum.qaoa import Angles, sample_qaoa
from tasks.quantum.statevector import draw, energies_of_all, qaoa_probabilities

KEY = "curation/representatives"
WARMTH = 0.25  # probability of the other value in a warm start: Egger, Marecek, Woerner 2021, section 3.2
KEPT_SHARE = 0.1  # best samples that the conditional value at risk averages


@dataclass(frozen=True)
class Blocks:
    """The kernels of the components of a problem, split into blocks.

    Attributes:
        kernels: one for each component.
        parts: the blocks of each kernel, as nodes of the kernel; none where it is empty.
    """

    kernels: tuple[Kernel, ...]
    parts: tuple[tuple[tuple[int, ...], ...], ...]

    @property
    def graphs(self) -> list[Graph]:
        """The graph of each block, all components in turn."""
        return [k.graph.subgraph(part) for k, parts in zip(self.kernels, self.parts, strict=True) for part in parts]


def split(graph: Graph, limit: int) -> tuple[tuple[int, ...], ...]:
    """Split the connected parts of a graph into blocks of at most `limit` nodes."""
    return tuple(
        tuple(part[v] for v in block)
        for part in connected_parts(graph)
        for block in partition(graph.subgraph(part), limit)
    )


def blocks_of(problem: Components, bench: Bench) -> Blocks:
    """Return the kernels of the components in blocks; shared by the arms."""

    def make() -> Blocks:
        kernels = tuple(kernelise(graph) for graph in problem.graphs)
        return Blocks(kernels, tuple(split(k.graph, problem.qubit_limit) for k in kernels))

    return bench.once("kernels", make)


def qaoa_samples(problem: Components, bench: Bench) -> list[Bits]:
    """Sample the circuits of all blocks in one job; shared by the arms that use these samples."""
    angles = tuned_ramp(KEY, "qaoa").angles(problem.layers)
    graphs = blocks_of(problem, bench).graphs
    return bench.once("qaoa samples", lambda: _sample(graphs, problem, bench, angles))


def exact_samples(problem: Components, bench: Bench) -> list[Bits]:
    """Draw what QAOA draws from its probabilities, computed from the energies of all bit strings of each block."""
    angles = tuned_ramp(KEY, "qaoa").angles(problem.layers)
    return [_draw(graph, problem, bench, angles) for graph in blocks_of(problem, bench).graphs]


def warm_bits(graph: Graph, chosen: Sequence[int]) -> Floats:
    """Return the probability of a one of each node in a warm start from an independent set."""
    start = np.full(graph.size, WARMTH)
    start[list(chosen)] = 1 - WARMTH
    return start


def warm_samples(problem: Components, bench: Bench, warm: Callable[[Graph], Sequence[int]], exact: bool) -> list[Bits]:
    """Sample the circuits with a warm start; keep the best tenth of each block, which the angles were tuned for."""
    angles = tuned_ramp(KEY, "warm-start").angles(problem.layers)
    graphs = blocks_of(problem, bench).graphs
    starts = [warm_bits(graph, warm(graph)) for graph in graphs]
    if exact:
        samples = [_draw(g, problem, bench, angles, s) for g, s in zip(graphs, starts, strict=True)]
    else:
        samples = _sample(graphs, problem, bench, angles, starts)
    return [_best_share(graph, bits) for graph, bits in zip(graphs, samples, strict=True)]


def join(problem: Components, bench: Bench, samples: Sequence[Bits]) -> Kept:
    """Repair the samples in their blocks, join the best with the best, the second with the second, repair again.

    The result is an independent set of each kernel, lifted to its component.
    """
    blocks = blocks_of(problem, bench)
    if len(samples) == 1 and len(problem.graphs) == 1:
        # One block holds the whole kernel in the order of the partition.
        bench.drew(drawn_solutions(blocks.kernels[0], samples[0][:, np.argsort(blocks.parts[0][0])]))
    left = iter(zip(blocks.graphs, samples, strict=True))
    return tuple(
        kernel.lift(_join_kernel(kernel.graph, parts, [next(left) for _ in parts]))
        for kernel, parts in zip(blocks.kernels, blocks.parts, strict=True)
    )


def drawn_solutions(kernel: Kernel, bits: Bits) -> dict[Kept, int]:
    """Return the repaired and lifted solution of each sample of a kernel, by how often it came."""
    found: Counter[Kept] = Counter()
    for row, count in zip(*np.unique(bits, axis=0, return_counts=True), strict=True):
        found[(kernel.lift(repair(kernel.graph, np.flatnonzero(row).tolist())),)] += int(count)
    return found


def estimator(
    problem: Components, sample: Callable[[list[Graph]], list[Bits]]
) -> Callable[[Sequence[Graph]], list[Moments]]:
    """Return the function that estimates the moments of graphs from samples of their blocks.

    Pairs in different blocks are not estimated.
    """

    def estimate(graphs: Sequence[Graph]) -> list[Moments]:
        parts = [split(graph, problem.qubit_limit) for graph in graphs]
        blocks = [graph.subgraph(part) for graph, some in zip(graphs, parts, strict=True) for part in some]
        samples, found = iter(sample(blocks)), []
        for graph, some in zip(graphs, parts, strict=True):
            moments = Moments(np.zeros(graph.size), np.zeros((graph.size, graph.size)))
            for part in some:
                spins = 1 - 2 * next(samples).astype(np.float64)
                moments.single[list(part)] = spins.mean(axis=0)
                moments.pairs[np.ix_(part, part)] = spins.T @ spins / len(spins)
            found.append(moments)
        return found

    return estimate


def circuits(problem: Components, bench: Bench) -> Callable[[list[Graph]], list[Bits]]:
    """Return the function that samples graphs by circuits, one job for each call."""
    angles = tuned_ramp(KEY, "qaoa").angles(problem.layers)
    return lambda graphs: _sample(graphs, problem, bench, angles)


def exactly(problem: Components, bench: Bench) -> Callable[[list[Graph]], list[Bits]]:
    """Return the function that draws the samples of those circuits from their exact probabilities."""
    angles = tuned_ramp(KEY, "qaoa").angles(problem.layers)
    return lambda graphs: [_draw(graph, problem, bench, angles) for graph in graphs]


def coins(problem: Components, bench: Bench) -> Callable[[list[Graph]], list[Bits]]:
    """Return the function that draws uniform bits in place of samples."""
    return lambda graphs: [bench.rng.integers(0, 2, (problem.shots, g.size), dtype=np.uint8) for g in graphs]


def _sample(
    graphs: Sequence[Graph],
    problem: Components,
    bench: Bench,
    angles: Angles,
    starts: Sequence[Floats] | None = None,
) -> list[Bits]:
    return sample_qaoa([independent_set_qubo(g) for g in graphs], bench.sampler, problem.shots, angles, starts)


def _draw(graph: Graph, problem: Components, bench: Bench, angles: Angles, start: Floats | None = None) -> Bits:
    qubo = independent_set_qubo(graph)
    probabilities = qaoa_probabilities(qubo, *angles, start, energies_of_all(qubo))
    return draw(probabilities, qubo.size, problem.shots, bench.rng)


def _best_share(graph: Graph, bits: Bits) -> Bits:
    energies = independent_set_qubo(graph).energies(bits)
    return bits[np.argsort(energies, kind="stable")[: max(1, round(KEPT_SHARE * len(bits)))]]


def _join_kernel(
    kernel: Graph, parts: Sequence[tuple[int, ...]], sampled: Sequence[tuple[Graph, Bits]]
) -> tuple[int, ...]:
    if not parts:
        return ()
    ranked: list[list[tuple[int, ...]]] = []
    for part, (block, bits) in zip(parts, sampled, strict=True):
        repaired = {repair(block, np.flatnonzero(row).tolist()) for row in np.unique(bits, axis=0)}
        best = sorted(repaired, key=lambda nodes: (-block.weight(nodes), nodes))
        ranked.append([tuple(part[v] for v in nodes) for nodes in best])
    joined = {
        repair(kernel, [v for rows in ranked for v in rows[rank % len(rows)]]) for rank in range(max(map(len, ranked)))
    }
    return max(joined, key=lambda nodes: (kernel.weight(nodes), nodes))

"""Which documents of a near-duplicate component stay: a maximum-weight independent set.

Keeping one document per component throws away documents that resemble no kept one; an independent set of the
near-duplicate graph keeps as much text as possible with no two kept documents alike, and a maximal one gives every
removed document a kept witness. Pairs and cliques are trivial (the heaviest stays) and no part of the problem.

All components are decided at once, so that a quantum arm needs a single job. Samplers work on blocks of at most
`qubit_limit` nodes; the best samples of the blocks are joined and repaired. Controls run through the same steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from tasks.combinatorial.annealing import path_integral_annealing, simulated_annealing
from tasks.combinatorial.independent_set import (
    Graph,
    best_repaired,
    branch_and_bound,
    greedy,
    heaviest,
    independent_set_qubo,
    partition,
    repair,
)
from tasks.combinatorial.qubo import Bits, Qubo
from tasks.contract import Arm, Bench, Kind
from tasks.curation.representatives.problem import Components, Kept
from tasks.quantum.qaoa import linear_ramp, sample_qaoa
from tasks.quantum.statevector import draw, qaoa_probabilities

Blocks = list[list[tuple[int, ...]]]


def _each(solve: Callable[[Graph], tuple[int, ...]]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, _: Bench) -> Kept:
        return tuple(solve(graph) for graph in problem.graphs)

    return arm


def _anneal(sampler: Callable[[Qubo, int, int, Generator], Bits]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, bench: Bench) -> Kept:
        bits = [sampler(independent_set_qubo(g), problem.reads, problem.sweeps, bench.rng) for g in problem.graphs]
        if len(problem.graphs) == 1:
            bench.drew(_drawn(problem.graphs[0], bits[0]))
        return tuple(best_repaired(graph, rows) for graph, rows in zip(problem.graphs, bits, strict=True))

    return arm


def _blocks(problem: Components) -> Blocks:
    return [partition(graph, problem.qubit_limit) for graph in problem.graphs]


def _subgraphs(problem: Components, blocks: Blocks) -> list[Graph]:
    return [graph.subgraph(b) for graph, parts in zip(problem.graphs, blocks, strict=True) for b in parts]


def _qaoa_samples(problem: Components, bench: Bench) -> list[Bits]:
    """Sample all blocks of all components in one job."""

    def make() -> list[Bits]:
        qubos = [independent_set_qubo(graph) for graph in _subgraphs(problem, _blocks(problem))]
        return sample_qaoa(qubos, bench.sampler, problem.shots, problem.layers)

    return bench.once("qaoa samples", make)


def _drawn(graph: Graph, bits: Bits) -> dict[Kept, int]:
    """Return the repaired solution of each sample of a component, by how often it came."""
    found: Counter[Kept] = Counter()
    for row, count in zip(*np.unique(bits, axis=0, return_counts=True), strict=True):
        found[(repair(graph, np.flatnonzero(row).tolist()),)] += int(count)
    return found


def _join(problem: Components, bench: Bench, samples: Sequence[Bits]) -> Kept:
    """Repair the samples in their blocks, join the best with the best, the second with the second, repair again."""
    blocks = _blocks(problem)
    if len(samples) == 1 and len(problem.graphs) == 1:
        # One block holds the whole component in the order of the partition.
        order = np.argsort(blocks[0][0])
        bench.drew(_drawn(problem.graphs[0], samples[0][:, order]))
    left = iter(zip(_subgraphs(problem, blocks), samples, strict=True))
    return tuple(
        _join_component(graph, parts, [next(left) for _ in parts])
        for graph, parts in zip(problem.graphs, blocks, strict=True)
    )


def _join_component(
    graph: Graph, parts: Sequence[tuple[int, ...]], sampled: Sequence[tuple[Graph, Bits]]
) -> tuple[int, ...]:
    ranked: list[list[tuple[int, ...]]] = []
    for part, (block, bits) in zip(parts, sampled, strict=True):
        repaired = {repair(block, np.flatnonzero(row).tolist()) for row in np.unique(bits, axis=0)}
        best = sorted(repaired, key=lambda nodes: (-block.weight(nodes), nodes))
        ranked.append([tuple(part[v] for v in nodes) for nodes in best])
    joined = {
        repair(graph, [v for rows in ranked for v in rows[rank % len(rows)]]) for rank in range(max(map(len, ranked)))
    }
    return max(joined, key=lambda nodes: (graph.weight(nodes), nodes))


def _qaoa(problem: Components, bench: Bench) -> Kept:
    return _join(problem, bench, _qaoa_samples(problem, bench))


def _qaoa_exact(problem: Components, bench: Bench) -> Kept:
    """Draw what QAOA draws from its probabilities, computed from the energies of all bit strings of each block."""
    qubos = [independent_set_qubo(graph) for graph in _subgraphs(problem, _blocks(problem))]
    ramp = linear_ramp(problem.layers)
    samples = [draw(qaoa_probabilities(qubo, *ramp), qubo.size, problem.shots, bench.rng) for qubo in qubos]
    return _join(problem, bench, samples)


def _marginals(problem: Components, bench: Bench) -> Kept:
    """Draw every bit on its own with the frequency it has in the circuit's samples: the samples without correlation."""
    return _join(
        problem,
        bench,
        [(bench.rng.random(bits.shape) < bits.mean(axis=0)).astype(np.uint8) for bits in _qaoa_samples(problem, bench)],
    )


def _uniform(problem: Components, bench: Bench) -> Kept:
    graphs = _subgraphs(problem, _blocks(problem))
    return _join(problem, bench, [bench.rng.integers(0, 2, (problem.shots, g.size), dtype=np.uint8) for g in graphs])


def _exact_on_split(problem: Components, _: Bench) -> Kept:
    return tuple(
        repair(graph, [part[v] for part in parts for v in branch_and_bound(graph.subgraph(part)).nodes])
        for graph, parts in zip(problem.graphs, _blocks(problem), strict=True)
    )


INCUMBENT: Arm[Components, Kept] = Arm("greedy", Kind.CLASSICAL, _each(greedy))
CHALLENGER: Arm[Components, Kept] = Arm("qaoa", Kind.QUANTUM, _qaoa, twin="qaoa-exact")
OTHERS: tuple[Arm[Components, Kept], ...] = (
    Arm("uniform-repair", Kind.CONTROL, _uniform),
    Arm("keep-one", Kind.CONTROL, _each(heaviest)),
    Arm("empty-repair", Kind.CONTROL, _each(lambda graph: repair(graph, ()))),
    Arm("marginals-repair", Kind.CONTROL, _marginals),
    Arm("qaoa-exact", Kind.TWIN, _qaoa_exact),
    Arm("exact", Kind.CLASSICAL, _each(lambda graph: branch_and_bound(graph).nodes)),
    Arm("exact-on-split", Kind.CLASSICAL, _exact_on_split),
    Arm("simulated-annealing", Kind.CLASSICAL, _anneal(simulated_annealing)),
    Arm("path-integral-annealing", Kind.CLASSICAL, _anneal(path_integral_annealing)),
)

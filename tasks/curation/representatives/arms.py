"""Which documents of a near-duplicate component stay: a maximum-weight independent set.

Keeping one document per component throws away documents that resemble no kept one; an independent set of the
near-duplicate graph keeps as much text as possible with no two kept documents alike, and a maximal one gives every
removed document a kept witness. Pairs and cliques are trivial (the heaviest stays) and no part of the problem.

Exact reductions come first: the exact arm, the annealers and every sampler work on the kernel that the reductions
leave of a component. Where it is empty no circuit is run. All components are decided at once, so that a quantum arm
needs a single job (the recursive one a job for each round). Controls run through the same steps. The angles of the
circuits are tuned on components that no study has (`angles.yaml`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from tasks.combinatorial.annealing import path_integral_annealing, simulated_annealing
from tasks.combinatorial.independent_set import (
    Graph,
    best_repaired,
    branch_and_bound,
    greedy,
    heaviest,
    improve,
    independent_set_qubo,
    repair,
)
from tasks.combinatorial.informed import choose_greedily, reduce_recursively
from tasks.combinatorial.qubo import Bits, Qubo
from tasks.contract import Arm, Bench, Kind
from tasks.curation.representatives.problem import Components, Kept
from tasks.curation.representatives.samplers import (
    blocks_of,
    circuits,
    coins,
    drawn_solutions,
    estimator,
    exact_samples,
    exactly,
    join,
    qaoa_samples,
    warm_bits,
    warm_samples,
)


def _each(solve: Callable[[Graph], tuple[int, ...]]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, _: Bench) -> Kept:
        return tuple(solve(graph) for graph in problem.graphs)

    return arm


def _anneal(sampler: Callable[[Qubo, int, int, Generator], Bits]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, bench: Bench) -> Kept:
        kernels = blocks_of(problem, bench).kernels
        qubos = [independent_set_qubo(k.graph) if k.size else None for k in kernels]
        bits = [None if q is None else sampler(q, problem.reads, problem.sweeps, bench.rng) for q in qubos]
        if len(kernels) == 1 and bits[0] is not None:
            bench.drew(drawn_solutions(kernels[0], bits[0]))
        return tuple(
            kernel.lift(() if rows is None else best_repaired(kernel.graph, rows))
            for kernel, rows in zip(kernels, bits, strict=True)
        )

    return arm


def _exact(problem: Components, bench: Bench) -> Kept:
    return tuple(k.lift(branch_and_bound(k.graph).nodes if k.size else ()) for k in blocks_of(problem, bench).kernels)


def _exact_on_split(problem: Components, bench: Bench) -> Kept:
    blocks = blocks_of(problem, bench)
    return tuple(
        kernel.lift(
            repair(kernel.graph, [p[v] for p in parts for v in branch_and_bound(kernel.graph.subgraph(p)).nodes])
        )
        for kernel, parts in zip(blocks.kernels, blocks.parts, strict=True)
    )


def _qaoa(problem: Components, bench: Bench) -> Kept:
    return join(problem, bench, qaoa_samples(problem, bench))


def _qaoa_exact(problem: Components, bench: Bench) -> Kept:
    return join(problem, bench, exact_samples(problem, bench))


def _marginals(problem: Components, bench: Bench) -> Kept:
    """Draw every bit on its own with the frequency it has in the circuit's samples: the samples without correlation."""
    samples = qaoa_samples(problem, bench)
    return join(
        problem, bench, [(bench.rng.random(bits.shape) < bits.mean(axis=0)).astype(np.uint8) for bits in samples]
    )


def _uniform(problem: Components, bench: Bench) -> Kept:
    return join(problem, bench, coins(problem, bench)(blocks_of(problem, bench).graphs))


def _warm(exact: bool) -> Callable[[Components, Bench], Kept]:
    return lambda problem, bench: join(problem, bench, warm_samples(problem, bench, greedy, exact))


def _warm_bits(problem: Components, bench: Bench) -> Kept:
    """Draw the bits of the warm start themselves: the circuit without its layers."""
    starts = [warm_bits(graph, greedy(graph)) for graph in blocks_of(problem, bench).graphs]
    return join(problem, bench, [(bench.rng.random((problem.shots, len(s))) < s).astype(np.uint8) for s in starts])


Sample = Callable[[list[Graph]], list[Bits]]


def _recursive(sample: Callable[[Components, Bench], Sample]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, bench: Bench) -> Kept:
        found = reduce_recursively(problem.graphs, estimator(problem, sample(problem, bench)))
        return tuple(repair(graph, nodes) for graph, nodes in zip(problem.graphs, found, strict=True))

    return arm


def _informed_greedy(sample: Callable[[Components, Bench], Sample]) -> Callable[[Components, Bench], Kept]:
    return lambda problem, bench: choose_greedily(problem.graphs, estimator(problem, sample(problem, bench)))


INCUMBENT: Arm[Components, Kept] = Arm("greedy", Kind.CLASSICAL, _each(greedy))
CHALLENGER: Arm[Components, Kept] = Arm("qaoa", Kind.QUANTUM, _qaoa, version="2", twin="qaoa-exact")
OTHERS: tuple[Arm[Components, Kept], ...] = (
    Arm("uniform-repair", Kind.CONTROL, _uniform, version="2"),
    Arm("keep-one", Kind.CONTROL, _each(heaviest)),
    Arm("empty-repair", Kind.CONTROL, _each(lambda graph: repair(graph, ()))),
    Arm("marginals-repair", Kind.CONTROL, _marginals, version="2"),
    Arm("warm-bits-repair", Kind.CONTROL, _warm_bits),
    Arm("coin-recursion", Kind.CONTROL, _recursive(coins)),
    Arm("qaoa-exact", Kind.TWIN, _qaoa_exact, version="2"),
    Arm("greedy-improved", Kind.CLASSICAL, _each(lambda graph: improve(graph, greedy(graph)))),
    Arm("exact", Kind.CLASSICAL, _exact, version="2"),
    Arm("exact-on-split", Kind.CLASSICAL, _exact_on_split, version="2"),
    Arm("simulated-annealing", Kind.CLASSICAL, _anneal(simulated_annealing), version="2"),
    Arm("path-integral-annealing", Kind.CLASSICAL, _anneal(path_integral_annealing), version="2"),
    Arm("recursive-qaoa", Kind.QUANTUM, _recursive(circuits), twin="recursive-qaoa-exact"),
    Arm("recursive-qaoa-exact", Kind.TWIN, _recursive(exactly)),
    Arm("greedy-by-qaoa", Kind.QUANTUM, _informed_greedy(circuits), twin="greedy-by-qaoa-exact"),
    Arm("greedy-by-qaoa-exact", Kind.TWIN, _informed_greedy(exactly)),
    Arm("warm-start-qaoa", Kind.QUANTUM, _warm(exact=False), twin="warm-start-qaoa-exact"),
    Arm("warm-start-qaoa-exact", Kind.TWIN, _warm(exact=True)),
)

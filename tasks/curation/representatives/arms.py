"""Which documents of a near-duplicate component stay: a maximum-weight independent set.

Keeping one document per component throws away documents that resemble no kept one; an independent set of the
near-duplicate graph keeps as much text as possible with no two kept documents alike, and a maximal one gives every
removed document a kept witness. Pairs and cliques are trivial (the heaviest stays) and no part of the problem.

All components are decided at once, so that a quantum arm needs a single job. Samplers work on blocks of at most
`qubit_limit` nodes; the best samples of the blocks are joined and repaired. Controls run through the same steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from statistics import median_high

import numpy as np
import pyarrow.parquet as pq
from numpy.random import Generator

from tasks.combinatorial.annealing import path_integral_annealing, simulated_annealing
from tasks.combinatorial.independent_set import (
    Graph,
    Optimum,
    best_repaired,
    branch_and_bound,
    greedy,
    heaviest,
    independent_set_qubo,
    partition,
    repair,
)
from tasks.combinatorial.qubo import Bits, Qubo
from tasks.contract import Arm, Bench, Instance, Kind, Material, Subtask, in_turns
from tasks.corpus.sample import sample_path
from tasks.curation.index.exact_components import exact_components
from tasks.curation.index.near_duplicates import normalised_words
from tasks.curation.index.shards import length_weights
from tasks.quantum.qaoa import sample_qaoa

THRESHOLD = 0.7
THRESHOLDS = (THRESHOLD, 0.6, 0.5)
ENOUGH = 20
EXAMPLE_COMPONENTS, EXAMPLE_LARGEST = 8, 8

Kept = tuple[tuple[int, ...], ...]
Blocks = list[list[tuple[int, ...]]]


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
    """Return the optimum that solutions are scored against; remembered, as scoring is booked to nobody."""
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


def _each(solve: Callable[[Graph], tuple[int, ...]]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, _: Bench) -> Kept:
        return tuple(solve(graph) for graph in problem.graphs)

    return arm


def _anneal(sampler: Callable[[Qubo, int, int, Generator], Bits]) -> Callable[[Components, Bench], Kept]:
    def arm(problem: Components, bench: Bench) -> Kept:
        return tuple(
            best_repaired(graph, sampler(independent_set_qubo(graph), problem.reads, problem.sweeps, bench.rng))
            for graph in problem.graphs
        )

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


def _join(problem: Components, samples: Sequence[Bits]) -> Kept:
    """Repair the samples in their blocks, join the best with the best, the second with the second, repair again."""
    blocks = _blocks(problem)
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
    return _join(problem, _qaoa_samples(problem, bench))


def _marginals(problem: Components, bench: Bench) -> Kept:
    """Draw every bit on its own with the frequency it has in the circuit's samples: the samples without correlation."""
    return _join(
        problem,
        [(bench.rng.random(bits.shape) < bits.mean(axis=0)).astype(np.uint8) for bits in _qaoa_samples(problem, bench)],
    )


def _uniform(problem: Components, bench: Bench) -> Kept:
    graphs = _subgraphs(problem, _blocks(problem))
    return _join(problem, [bench.rng.integers(0, 2, (problem.shots, g.size), dtype=np.uint8) for g in graphs])


def _exact_on_split(problem: Components, _: Bench) -> Kept:
    return tuple(
        repair(graph, [part[v] for part in parts for v in branch_and_bound(graph.subgraph(part)).nodes])
        for graph, parts in zip(problem.graphs, _blocks(problem), strict=True)
    )


def bank(material: Material, rng: Generator) -> Iterator[Instance[Components]]:
    """Yield the components of each source that are no cliques, each alone and with a proven optimum, in random order.

    Licences repeat each other at Jaccard .7; where a source has fewer than 20 components there, the threshold falls
    to .6 and .5, as for docstrings. A source without near duplicates (the documentation) gives no instances.
    """
    yield from in_turns([_of_source(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> list[Instance[Components]]:
    threshold, found = exact_components(texts, THRESHOLDS, ENOUGH)
    instances = []
    for part in (found[k] for k in rng.permutation(len(found))):
        graph = Graph.of(length_weights(part.words).tolist(), part.edges)
        if best_known(graph).proven:
            name = f"component of text {part.rows[0]} at {threshold:g}"
            problem = Components((graph,), (tuple(f"{source}/{row}" for row in part.rows),))
            instances.append(Instance(source, name, graph.size, partial(_as_is, problem)))
    return instances


def _as_is(problem: Components) -> Components:
    return problem


def sample_components(smallest: int, largest: int) -> Components:
    """Return the components of the shipped licence texts that are no cliques, from the true pairs at Jaccard .7."""
    truth = pq.read_table(sample_path("truth"))
    pairs = [
        (a, b)
        for a, b, jaccard in zip(*(truth[name].to_pylist() for name in ("a", "b", "jaccard")), strict=True)
        if jaccard >= THRESHOLD
    ]
    around: dict[str, set[str]] = defaultdict(set)
    for a, b in pairs:
        around[a].add(b)
        around[b].add(a)
    parts = [part for part in _connected(around) if smallest <= len(part) <= largest]
    texts = pq.read_table(sample_path("second"), columns=["doc_id", "text"])
    wanted = {doc_id for part in parts for doc_id in part}
    words = {
        doc_id: len(normalised_words(text))
        for doc_id, text in zip(texts["doc_id"].to_pylist(), texts["text"].to_pylist(), strict=True)
        if doc_id in wanted
    }
    graphs: list[Graph] = []
    documents: list[tuple[str, ...]] = []
    for part in parts:
        number = {doc_id: k for k, doc_id in enumerate(part)}
        edges = np.array([(number[a], number[b]) for a in part for b in sorted(around[a]) if a < b], np.int64)
        graph = Graph.of(length_weights([words[doc_id] for doc_id in part]).tolist(), edges)
        if not graph.is_clique:
            graphs.append(graph)
            documents.append(part)
    return Components(tuple(graphs), tuple(documents))


def _connected(around: Mapping[str, set[str]]) -> Iterator[tuple[str, ...]]:
    left = set(around)
    for start in sorted(around):
        if start in left:
            part: set[str] = set()
            frontier = {start}
            while frontier:
                part |= frontier
                frontier = {u for v in frontier for u in around[v]} - part
            left -= part
            yield tuple(sorted(part))


def example(rng: Generator) -> Components:
    """Return eight components of 3 to 8 shipped licence texts."""
    everything = sample_components(3, EXAMPLE_LARGEST)
    chosen = sorted(rng.permutation(len(everything.graphs))[:EXAMPLE_COMPONENTS].tolist())
    return replace(
        everything,
        graphs=tuple(everything.graphs[k] for k in chosen),
        documents=tuple(everything.documents[k] for k in chosen),
    )


REPRESENTATIVES: Subtask[Components, Kept] = Subtask(
    stage="curation",
    name="representatives",
    incumbent=Arm("greedy", Kind.CLASSICAL, _each(greedy)),
    challenger=Arm("qaoa", Kind.QUANTUM, _qaoa),
    others=(
        Arm("keep-one", Kind.CONTROL, _each(heaviest)),
        Arm("empty-repair", Kind.CONTROL, _each(lambda graph: repair(graph, ()))),
        Arm("uniform-repair", Kind.CONTROL, _uniform),
        Arm("marginals-repair", Kind.CONTROL, _marginals),
        Arm("exact", Kind.CLASSICAL, _each(lambda graph: branch_and_bound(graph).nodes)),
        Arm("exact-on-split", Kind.CLASSICAL, _exact_on_split),
        Arm("simulated-annealing", Kind.CLASSICAL, _anneal(simulated_annealing)),
        Arm("path-integral-annealing", Kind.CLASSICAL, _anneal(path_integral_annealing)),
    ),
    quality=quality,
    metric="kept weight / optimum",
    size=lambda problem: median_high(graph.size for graph in problem.graphs),
    tolerance=0.01,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=0.95,
)

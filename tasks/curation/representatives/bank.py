"""The instance bank of `representatives`: components of real near duplicates and published graphs, optimum proven."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial

import networkx
import numpy as np
import pyarrow.parquet as pq
from numpy.random import Generator

from tasks.combinatorial.independent_set import Graph
from tasks.combinatorial.kernel import kernelise
from tasks.combinatorial.published import PUBLISHED
from tasks.contract import Instance, Material, in_turns
from tasks.corpus.sample import sample_path
from tasks.curation.index.exact_components import Found, exact_components
from tasks.curation.index.near_duplicates import normalised_words
from tasks.curation.index.shards import length_weights
from tasks.curation.representatives.problem import Components, best_known

THRESHOLD = 0.7
THRESHOLDS = (0.7, 0.5, 0.3, 0.2)
SMALLEST, LARGEST = 4, 160  # documents of a component
PUBLISHED_SOURCE = "published graphs"
EXAMPLE_COMPONENTS, EXAMPLE_LARGEST = 8, 8


def bank(material: Material, rng: Generator) -> Iterator[Instance[Components]]:
    """Yield graphs of at least 4 nodes, each alone and with a proven optimum, the sources in turns.

    They are the components that are no cliques at Jaccard .7, .5, .3 and .2: the lower, the larger and denser. Of each
    source those with a kernel come first (what reductions solve is no work for a sampler; most components are), in
    random order; unweighted graphs that were not yielded before come before repeated ones. The unit of independence is
    the group of texts that are connected at Jaccard .2; no two instances of a unit have the same unweighted graph. A
    fifth of the groups is left out: circuits are tuned on them. Published graphs are a source of their own, a family a
    unit.
    """
    seen: set[tuple[str, str]] = set()
    sources = [_of_source(name, tuple(texts), rng, seen) for name, texts in sorted(material.texts.items())]
    yield from in_turns([*sources, _published(rng)])


def tuning_graphs(material: Material) -> list[Graph]:
    """Return the components that the bank leaves out, on which angles are tuned."""
    return [
        graph
        for name, texts in sorted(material.texts.items())
        for part, graph in _components(tuple(texts))
        if _for_tuning(name, part)
    ]


def _of_source(
    source: str, texts: tuple[str, ...], rng: Generator, seen: set[tuple[str, str]]
) -> Iterator[Instance[Components]]:
    found = [(part, graph) for part, graph in _components(texts) if not _for_tuning(source, part)]
    left = [kernelise(graph).size for _, graph in found]
    order = sorted(rng.permutation(len(found)).tolist(), key=lambda k: not left[k])
    for within in (False, True):
        for part, graph, kernel in ((*found[k], left[k]) for k in order):
            name = f"component of text {part.rows[0]} at {part.threshold:g}, kernel {kernel} of {graph.size}"
            problem = Components((graph,), (tuple(f"{source}/{row}" for row in part.rows),))
            instance = Instance(source, name, graph.size, partial(_as_is, problem), _unit(source, part))
            if _is_new(graph, instance.unit if within else "", seen):
                seen.add((instance.unit, _shape(graph)))
                yield instance


def _published(rng: Generator) -> Iterator[Instance[Components]]:
    names = list(PUBLISHED)
    for name in (names[k] for k in rng.permutation(len(names)).tolist()):
        family, make, _ = PUBLISHED[name]
        graph = make()
        problem = Components((graph,), (tuple(f"{name}/{v}" for v in range(graph.size)),))
        about = f"{name}, kernel {kernelise(graph).size} of {graph.size}"
        yield Instance(PUBLISHED_SOURCE, about, graph.size, partial(_as_is, problem), f"published {family}")


def _is_new(graph: Graph, unit: str, seen: set[tuple[str, str]]) -> bool:
    """Return whether no instance of a unit (empty: of all) has this unweighted graph; note that one will have it.

    A graph without a proven optimum is not new either.
    """
    key = (unit, _shape(graph))
    if key in seen or not best_known(graph).proven:
        return False
    seen.add(key)
    return True


@lru_cache(maxsize=8)  # a study and the tests draw the bank several times
def _components(texts: tuple[str, ...]) -> list[tuple[Found, Graph]]:
    parts = [part for part in exact_components(texts, THRESHOLDS) if SMALLEST <= len(part.rows) <= LARGEST]
    return [(part, Graph.of(length_weights(part.words).tolist(), part.edges)) for part in parts]


def _unit(source: str, part: Found) -> str:
    return f"{source}, texts around {part.group}"


def _for_tuning(source: str, part: Found) -> bool:
    return zlib.crc32(_unit(source, part).encode()) % 5 == 0


@lru_cache(maxsize=8192)
def _shape(graph: Graph) -> str:
    """Return a digest of the unweighted graph that does not depend on the order of its nodes."""
    drawn: networkx.Graph[int] = networkx.Graph()
    drawn.add_nodes_from((v, {"degree": str(mask.bit_count())}) for v, mask in enumerate(graph.neighbours))
    drawn.add_edges_from((v, u) for v, mask in enumerate(graph.neighbours) for u in range(v) if mask >> u & 1)
    return str(networkx.weisfeiler_lehman_graph_hash(drawn, node_attr="degree"))


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

"""The instance bank of `representatives`: components of real near duplicates with a proven optimum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from numpy.random import Generator

from tasks.combinatorial.independent_set import (
    Graph,
)
from tasks.contract import Instance, Material, in_turns
from tasks.corpus.sample import sample_path
from tasks.curation.index.exact_components import exact_components
from tasks.curation.index.near_duplicates import normalised_words
from tasks.curation.index.shards import length_weights
from tasks.curation.representatives.problem import Components, best_known

THRESHOLD = 0.7


THRESHOLDS = (THRESHOLD, 0.6, 0.5)


ENOUGH = 20


EXAMPLE_COMPONENTS, EXAMPLE_LARGEST = 8, 8


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

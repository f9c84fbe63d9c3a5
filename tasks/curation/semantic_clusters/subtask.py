"""The decision `semantic_clusters`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

import logging

import numpy as np

from tasks.contract import Subtask
from tasks.curation import outcome
from tasks.curation.options import Options as StageOptions
from tasks.curation.outcome import with_decisions
from tasks.curation.removals import (
    Removal,
)
from tasks.curation.semantic_clusters.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.curation.semantic_clusters.bank import bank, example
from tasks.curation.semantic_clusters.options import Options
from tasks.curation.semantic_clusters.problem import Clustering, Duplicates, quality
from tasks.stage import Context, State
from tasks.terms import terms
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.curation")

TERMS = terms("curation/semantic_clusters")


def pose(context: Context, state: State, options: Options) -> Clustering | None:
    """Return the documents to compare; None where a corpus is curated for itself or has too few of them."""
    if context.parsed(StageOptions).alone:
        return None
    documents = _documents(context, state, options)
    if len(documents) <= options.clusters:
        return None
    return Clustering(
        vectors=embed([text for _, text, _ in documents]),
        threshold=options.threshold,
        clusters=options.clusters,
        iterations=options.iterations,
        start=context.seed,
        weights=np.array([weight for *_, weight in documents]),
        shots=options.shots,
        names=tuple(name for name, _, _ in documents),
    )


def apply(context: Context, state: State, problem: Clustering, solution: Duplicates) -> State:
    """Record which documents are removed, each with the kept document that it repeats.

    Raises:
        ValueError: the solution fits another problem.
    """
    names = problem.names
    if len(names) != len(solution.labels):
        raise ValueError(f"the solution is for {len(solution.labels)} documents, the problem has {len(names)}")
    rows = [Removal(names[i], names[j], cosine, "semantic_clusters") for i, j, cosine in solution.removed]
    log.info("semantic_clusters: %d of %d documents removed", len(rows), len(names))
    return with_decisions(context, state, rows).add(
        semantic_clusters={"documents": len(names), "removed": len(rows), "threshold": problem.threshold}
    )


def _documents(context: Context, state: State, options: Options) -> list[tuple[str, str, float]]:
    """Return id, head and weight of the documents to compare."""
    candidates, components, decisions = (
        state.refs[f"curation/{name}"] for name in ("candidates", "components", "decisions")
    )
    found = outcome.worth_comparing(context.lake, candidates, components, decisions, options.documents)
    return [(row["doc_id"], row["text"][: options.characters], row["weight"]) for row in found]


SEMANTIC_CLUSTERS: Subtask[Clustering, Duplicates] = Subtask(
    stage="curation",
    name="semantic_clusters",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: len(problem.vectors),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=lambda _: (1.0,),
    floor=0.6,
    options=Options,
    pose=pose,
    apply=apply,
)

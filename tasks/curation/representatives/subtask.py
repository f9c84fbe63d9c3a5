"""The decision `representatives`: how it is posed in a run, and what follows from it."""

from __future__ import annotations

import logging
from collections import defaultdict
from statistics import median_high

from tasks.combinatorial.independent_set import repair
from tasks.combinatorial.kernel import kernelise
from tasks.contract import Subtask
from tasks.curation.outcome import with_decisions
from tasks.curation.removals import (
    Removal,
    component_graph,
    removals,
)
from tasks.curation.representatives.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.curation.representatives.bank import bank, example
from tasks.curation.representatives.options import Options
from tasks.curation.representatives.problem import Components, Kept, oracle, quality
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.curation")

TERMS = terms("curation/representatives")


def pose(context: Context, state: State, options: Options) -> Components | None:
    """Return the components that `prepare` left to the arms; None where there are none."""
    posed = context.lake.sql(
        "select c.doc_id, c.component, d.weight from components c join candidates d using (doc_id) "
        "where c.decided = 'posed' order by c.component, c.doc_id",
        components=state.refs["curation/components"],
        candidates=state.refs["curation/candidates"],
    ).to_pylist()
    if not posed:
        return None
    members: dict[int, list[str]] = defaultdict(list)
    weights: dict[int, list[float]] = defaultdict(list)
    for row in posed:
        members[row["component"]].append(row["doc_id"])
        weights[row["component"]].append(row["weight"])
    component = {name: k for k, names in members.items() for name in names}
    inside: dict[int, list[tuple[str, str, float]]] = defaultdict(list)
    for (i, j), similarity in _similarities(context, state).items():
        inside[component[i]].append((i, j, similarity))
    return Components(
        graphs=tuple(component_graph(weights[k], members[k], inside[k]) for k in members),
        documents=tuple(tuple(names) for names in members.values()),
        qubit_limit=options.qubit_limit,
        shots=options.shots,
        layers=options.layers,
        reads=options.reads,
        sweeps=options.sweeps,
    )


def apply(context: Context, state: State, problem: Components, solution: Kept) -> State:
    """Record which documents are removed, each with the kept near duplicate that it repeats.

    Raises:
        ValueError: the solution fits another problem, or keeps two documents that are near duplicates.
    """
    if len(problem.graphs) != len(solution):
        raise ValueError(f"the solution is for {len(solution)} components, the problem has {len(problem.graphs)}")
    similarity = _similarities(context, state)
    rows: list[Removal] = []
    weight = kept_weight = 0.0
    extended = 0
    for names, graph, nodes in zip(problem.documents, problem.graphs, solution, strict=True):
        if not graph.is_independent(nodes):
            raise ValueError(f"the solution keeps near duplicates in the component of {names[0]}")
        # A set that is not maximal would remove documents that resemble no kept one.
        maximal = repair(graph, nodes)
        extended += len(maximal) - len(nodes)
        rows += removals(names, graph, maximal, similarity, "representatives")
        weight += sum(graph.weights)
        kept_weight += graph.weight(maximal)
    log.info("representatives: %d documents removed in %d components", len(rows), len(problem.graphs))
    return with_decisions(context, state, rows).add(
        representatives={
            "components": len(problem.graphs),
            "documents": sum(map(len, problem.documents)),
            "removed": len(rows),
            "kept_weight_share": kept_weight / weight,
            "keep_one_weight_share": sum(max(graph.weights) for graph in problem.graphs) / weight,
            "added_to_be_maximal": extended,
            "kernels": _kernels(problem),
        }
    )


def _kernels(problem: Components) -> dict[str, int]:
    """Return what exact reductions leave of the components for a sampler: nothing, where they solve them all."""
    sizes = [kernelise(graph).size for graph in problem.graphs]
    return {
        "empty": sizes.count(0),
        "not_empty": len(sizes) - sizes.count(0),
        "nodes": sum(sizes),
        "largest": max(sizes),
    }


def _similarities(context: Context, state: State) -> dict[tuple[str, str], float]:
    """Return the edges of the components that are put before the arms."""
    table = context.lake.sql(
        "select i, j, jaccard from edges semi join (from components where decided = 'posed') c on edges.i = c.doc_id",
        edges=state.refs["curation/edges"],
        components=state.refs["curation/components"],
    )
    columns = [column.to_pylist() for column in table.columns]
    return {(i, j): jaccard for i, j, jaccard in zip(*columns, strict=True)}


REPRESENTATIVES: Subtask[Components, Kept] = Subtask(
    stage="curation",
    name="representatives",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: median_high(graph.size for graph in problem.graphs),
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=0.95,
    options=Options,
    pose=pose,
    apply=apply,
)

"""Curation: read, filter, drop exact copies, find near duplicates, and decide which documents stay."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from infra.errors import BadInput, NoDocuments
from infra.lake import Ref
from tasks.combinatorial.independent_set import repair
from tasks.contract import Subtask
from tasks.curation.filters import Rule, fineweb, language, named_rule, rules
from tasks.curation.funnel import Funnel
from tasks.curation.near_duplicates import (
    Edges,
    ShingleSets,
    candidates,
    components,
    verified_edges,
)
from tasks.curation.read import Document, Quarantined, Reader
from tasks.curation.removals import (
    SEMANTIC,
    Removal,
    component_graph,
    name_order,
    plan_components,
    removals,
    survivor,
    with_kept_witnesses,
)
from tasks.curation.representatives import REPRESENTATIVES, Components, Kept
from tasks.curation.sample import sample_path
from tasks.curation.semantic_clusters import SEMANTIC_CLUSTERS, Clustering, Duplicates
from tasks.curation.truth import agreement, found_pairs, true_pairs
from tasks.stage import Context, State
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.curation")

SUBTASKS: tuple[Subtask[Any, Any], ...] = (REPRESENTATIVES, SEMANTIC_CLUSTERS)

BATCH = 512
TEXT = pa.string()
CANDIDATES = pa.schema(
    [(name, TEXT) for name in ("doc_id", "domain", "source", "label", "text")]
    + [("n_words", pa.int64()), ("n_bytes", pa.int64())]
)
KEPT = pa.schema([("doc_id", TEXT), ("domain", TEXT), ("source", TEXT), ("text", TEXT), ("n_bytes", pa.int64())])
DROPPED = pa.schema([("doc_id", TEXT), ("reason", TEXT), ("detail", TEXT)])
EDGES = pa.schema([("i", TEXT), ("j", TEXT), ("jaccard", pa.float64())])
COMPONENTS = pa.schema([("doc_id", TEXT), ("component", pa.int64()), ("decided", TEXT)])
DECISIONS = pa.schema([("removed", TEXT), ("witness", TEXT), ("similarity", pa.float64()), ("subtask", TEXT)])
FINAL_DECISIONS = pa.schema(
    {"removed": TEXT, "witness": TEXT, "jaccard": pa.float64(), "cosine": pa.float64(), "subtask": TEXT, "kept": TEXT}
)
QUARANTINED = pa.schema([("domain", TEXT), ("path", TEXT), ("reason", TEXT), ("detail", TEXT)])


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        corpus: files or folders of the base domain; empty = the shipped documentation.
        second: files or folders of the second domain; empty = the shipped licence texts.
        text_column: column or field that holds the text; empty = `text`, `content` or `body`.
        id_column: column or field that names a document; empty = `doc_id` or `id`, else path and row.
        alone: whether the corpus is curated for itself: no shipped second domain is read, and nothing is removed by
            meaning, so that every removed document has a kept witness at or above the threshold.
        truth: Parquet file of true near-duplicate pairs (a, b, jaccard) of the second domain, complete from the
            threshold on; empty = the shipped one where the shipped texts are read.
        english: whether a text needs English stop words.
        languages: languages, by ISO 639-1 code, in one of which a text has to be; empty = not asked.
        fineweb: whether FineWeb's rules against menus and lists are asked too; they are made for web pages.
        own_rules: further rules, each as `package.module:function`.
        redact: whether addresses and numbers that name a person are replaced.
        min_words: shortest document.
        max_words: longest document.
        min_alphabetic: least share of words with a letter. Gopher's .8 is for web pages; documentation with code and
            tables needs less.
        threshold: Jaccard similarity from which two documents are near duplicates.
        posed: components that are put before the arms of `representatives` at most; the others are decided by greedy.
        largest_posed: documents of the largest component that is put before the arms.
        qubit_limit: largest block of a component that a sampler gets.
        shots: samples of each circuit.
        layers: of the circuit for `representatives`.
        reads: of an annealer for each component.
        sweeps: of an annealer.
        semantic_documents: documents that are put before `semantic_clusters` at most; 0 = leave it out.
        semantic_characters: head of a document that is embedded.
        semantic_threshold: cosine similarity from which a document repeats another one.
        clusters: number of clusters in which documents are compared.
        iterations: of Lloyd's algorithm at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    text_column: str = ""
    id_column: str = ""
    alone: bool = False
    truth: str = ""
    english: bool = True
    languages: tuple[str, ...] = ()
    fineweb: bool = False
    own_rules: tuple[str, ...] = ()
    redact: bool = False
    min_words: int = Field(50, ge=1)
    max_words: int = Field(100_000, ge=1)
    min_alphabetic: float = Field(0.6, ge=0, le=1)
    threshold: float = Field(0.7, gt=0, le=1)
    posed: int = Field(128, ge=0)
    largest_posed: int = Field(120, ge=3)
    qubit_limit: int = Field(12, ge=2, le=28)
    shots: int = Field(256, ge=1)
    layers: int = Field(3, ge=1)
    reads: int = Field(32, ge=1)
    sweeps: int = Field(100, ge=1)
    semantic_documents: int = Field(384, ge=0)
    semantic_characters: int = Field(2000, ge=100)
    semantic_threshold: float = Field(0.93, gt=0, le=1)
    clusters: int = Field(4, ge=2)
    iterations: int = Field(4, ge=1)


def prepare(context: Context) -> State:
    """Read, filter, drop exact copies, find near duplicates, and decide the components that need no arm."""
    options = context.parsed(Options)
    quarantined: list[tuple[str, Quarantined]] = []
    with TemporaryDirectory(dir=context.scratch) as folder, ShingleSets(Path(folder) / "shingles.u64") as sets:
        funnel = Funnel(_rules(options), sets, redact=options.redact)
        kept = context.lake.write("curation/candidates", _candidates(funnel, _documents(options, funnel, quarantined)))
        log.info("%d documents read, %d pass, searching near duplicates", funnel.read.total(), len(funnel.ids))
        sets.seal()
        edges = verified_edges(candidates(funnel.signatures, options.threshold), sets, options.threshold)
    parts = components(len(funnel.ids), edges.pairs)
    plan = plan_components(funnel.ids, funnel.n_words, edges, parts, options.posed, options.largest_posed)
    copies = [Removal(copy, first, 1.0, "exact_duplicates") for copy, first in funnel.copies]
    state = State().add(
        {
            "curation/candidates": kept,
            "curation/edges": context.lake.write("curation/edges", _edges(funnel.ids, edges)),
            "curation/components": context.lake.write("curation/components", _table(COMPONENTS, plan.members)),
            "curation/decisions": context.lake.write("curation/decisions", _table(DECISIONS, copies + plan.removals)),
            "curation/filtered": context.lake.write("curation/filtered", _table(DROPPED, funnel.dropped)),
            "curation/quarantined": context.lake.write(
                "curation/quarantined",
                _table(QUARANTINED, [(domain, q.path, q.reason, q.detail) for domain, q in quarantined]),
            ),
        },
        documents_read=dict(sorted(funnel.read.items())),
        quarantined=len(quarantined),
        undecodable_characters=funnel.replaced,
        redacted=dict(sorted(funnel.redacted.items())),
        dropped_by_rule=dict(sorted(Counter(rule for _, rule, _ in funnel.dropped).items())),
        exact_duplicates=len(funnel.copies),
        candidates=dict(sorted(Counter(funnel.domains).items())),
        pairs_checked=edges.candidates,
        near_duplicate_pairs=len(edges.pairs),
        components=dict(sorted(Counter(plan.how).items())),
        largest_component=max(map(len, parts), default=0),
    )
    return state.add(**_against_truth(options, funnel, edges))


def pose(context: Context, state: State, subtask: str) -> Components | Clustering | None:
    """Return the problem of one decision, or None where there is nothing to decide.

    Raises:
        KeyError: the stage has no such subtask.
    """
    options = context.parsed(Options)
    match subtask:
        case "representatives":
            return _pose_representatives(context, state, options)
        case "semantic_clusters":
            return _pose_semantic_clusters(context, state, options)
    raise KeyError(f"curation has no subtask {subtask!r}")


def apply(context: Context, state: State, subtask: str, solution: Any) -> State:
    """Write down which documents a decision removes, each with the kept document that stands for it.

    Raises:
        KeyError: the stage has no such subtask.
        ValueError: the solution keeps two documents that are near duplicates, or fits another problem.
    """
    match subtask:
        case "representatives":
            return _apply_representatives(context, state, solution)
        case "semantic_clusters":
            return _apply_semantic_clusters(context, state, solution)
    raise KeyError(f"curation has no subtask {subtask!r}")


def publish(context: Context, state: State) -> State:
    """Write the kept and the dropped documents and, for every removed one, the kept document that stands for it."""
    decisions = with_kept_witnesses(
        [Removal(*row.values()) for row in context.lake.read(state.refs["curation/decisions"]).to_pylist()]
    )
    witness = {row.removed: row.witness for row in decisions}
    final = [
        (row.removed, row.witness, *_either(row), row.subtask, survivor(row.removed, witness)) for row in decisions
    ]
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    kept = context.lake.write(
        "curation/kept", _kept(context, state.refs["curation/candidates"], witness, counts, sizes)
    )
    dropped = context.lake.read(state.refs["curation/filtered"]).to_pylist()
    rows = [tuple(row.values()) for row in dropped]
    rows += [(r.removed, r.subtask, f"{r.similarity:.4f} like {r.witness}") for r in decisions]
    removed = Counter(row.subtask for row in decisions)
    log.info("%d documents kept, %d removed as duplicates", counts.total(), removed.total())
    return state.add(
        {
            "curation/kept": kept,
            "curation/dropped": context.lake.write("curation/dropped", _table(DROPPED, rows)),
            "curation/decisions": context.lake.write("curation/decisions", _table(FINAL_DECISIONS, final)),
        },
        documents_kept=dict(sorted(counts.items())),
        bytes_kept=dict(sorted(sizes.items())),
        removed=dict(sorted(removed.items())),
    )


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    read, kept = sum(state.facts["documents_read"].values()), sum(state.facts["documents_kept"].values())
    duplicates = sum(state.facts["removed"].values())
    truth = state.facts.get("truth") or {}
    scored = f"; pairs: precision {truth['precision']:.3f}, recall {truth['recall']:.3f}" if truth else ""
    return f"{kept} of {read} documents kept, {duplicates} removed as duplicates{scored}"


def _rules(options: Options) -> tuple[tuple[str, Rule], ...]:
    chosen = list(rules(options.min_words, options.max_words, options.min_alphabetic, options.english))
    try:
        if options.languages:
            chosen.append(("language", language(options.languages)))
        if options.fineweb:
            chosen.append(("fineweb", fineweb()))
        chosen += map(named_rule, options.own_rules)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return tuple(chosen)


def _documents(
    options: Options, funnel: Funnel, quarantined: list[tuple[str, Quarantined]]
) -> Iterator[list[Document]]:
    """Read both domains; stop with advice where one of them has led to no candidate."""
    domains = [("base", "corpus", options.corpus), ("second", "second", options.second)]
    if options.alone and not options.second:
        domains.pop()
    paths = {
        domain: [Path(path).expanduser() for path in given] or [sample_path(domain)] for domain, _, given in domains
    }
    for path in (path for group in paths.values() for path in group):
        if not path.exists():
            raise BadInput(f"there is no {path}; give files or folders of Parquet, JSON lines or plain text")
    seen: dict[str, int] = {}
    for domain, option, given in domains:
        named = (options.text_column, options.id_column) if given else ("", "")
        reader = Reader(domain, *named, seen=seen)
        yield from reader.read(paths[domain])
        quarantined += [(domain, item) for item in reader.quarantined]
        for item in reader.quarantined[:5]:
            log.warning("%s put aside: %s (%s)", item.path, item.reason, item.detail)
        if domain not in funnel.domains:
            aside = Counter(item.reason for item in reader.quarantined)
            why = Counter(rule for _, rule, _ in funnel.dropped)
            raise NoDocuments(
                f"no usable document in the {domain} domain: {funnel.read[domain]} read, {reader.skipped} files "
                f"skipped for their ending, put aside: {dict(aside)}, dropped by rules so far: {dict(why)}. Give text "
                f"files, JSON lines or Parquet with a text column by `{option}`, name the column by --text-column, or "
                f"loosen min_words, min_alphabetic, english"
            )


def _candidates(funnel: Funnel, batches: Iterable[list[Document]]) -> Iterator[pa.Table]:
    yield CANDIDATES.empty_table()
    for batch in funnel.pass_through(batches):
        rows = [
            (d.doc_id, d.domain, d.source, d.label, d.text, c.n_words, len(d.text.encode()))
            for c in batch
            for d in (c.document,)
        ]
        if rows:
            yield _table(CANDIDATES, rows)


def _pose_representatives(context: Context, state: State, options: Options) -> Components | None:
    posed = context.lake.sql(
        "select c.doc_id, c.component, d.n_words from components c join candidates d using (doc_id) "
        "where c.decided = 'posed' order by c.component, c.doc_id",
        components=state.refs["curation/components"],
        candidates=state.refs["curation/candidates"],
    ).to_pylist()
    if not posed:
        return None
    members: dict[int, list[str]] = defaultdict(list)
    words: dict[int, list[int]] = defaultdict(list)
    for row in posed:
        members[row["component"]].append(row["doc_id"])
        words[row["component"]].append(row["n_words"])
    component = {name: k for k, names in members.items() for name in names}
    inside: dict[int, list[tuple[str, str, float]]] = defaultdict(list)
    for (i, j), similarity in _similarities(context, state).items():
        if i in component:
            inside[component[i]].append((i, j, similarity))
    return Components(
        graphs=tuple(component_graph(words[k], members[k], inside[k]) for k in members),
        documents=tuple(tuple(names) for names in members.values()),
        qubit_limit=options.qubit_limit,
        shots=options.shots,
        layers=options.layers,
        reads=options.reads,
        sweeps=options.sweeps,
    )


def _apply_representatives(context: Context, state: State, solution: Kept) -> State:
    problem = _pose_representatives(context, state, context.parsed(Options))
    if problem is None or len(problem.graphs) != len(solution):
        raise ValueError("the solution is not one of the components of this state")
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
    return _with_decisions(context, state, rows).add(
        representatives={
            "components": len(problem.graphs),
            "documents": sum(map(len, problem.documents)),
            "removed": len(rows),
            "kept_weight_share": kept_weight / weight,
            "keep_one_weight_share": sum(max(graph.weights) for graph in problem.graphs) / weight,
            "added_to_be_maximal": extended,
        }
    )


def _pose_semantic_clusters(context: Context, state: State, options: Options) -> Clustering | None:
    if options.alone:
        return None
    documents = _semantic_documents(context, state, options)
    if len(documents) <= options.clusters:
        return None
    return Clustering(
        vectors=embed([text for _, text, _ in documents]),
        threshold=options.semantic_threshold,
        clusters=options.clusters,
        iterations=options.iterations,
        start=context.seed,
        weights=np.sqrt([words for *_, words in documents]),
        shots=options.shots,
    )


def _apply_semantic_clusters(context: Context, state: State, solution: Duplicates) -> State:
    options = context.parsed(Options)
    names = [name for name, _, _ in _semantic_documents(context, state, options)]
    if len(names) != len(solution.labels):
        raise ValueError(
            f"the solution is for {len(solution.labels)} documents, not for the {len(names)} of this state"
        )
    rows = [Removal(names[i], names[j], cosine, "semantic_clusters") for i, j, cosine in solution.removed]
    log.info("semantic_clusters: %d of %d documents removed", len(rows), len(names))
    return _with_decisions(context, state, rows).add(
        semantic_clusters={"documents": len(names), "removed": len(rows), "threshold": options.semantic_threshold}
    )


def _semantic_documents(context: Context, state: State, options: Options) -> list[tuple[str, str, int]]:
    """Return id, head and words of the documents to compare: those kept of near-duplicate components come first.

    Where some texts were almost copies, others say the same in other words.
    """
    removed = set(context.lake.read(state.refs["curation/decisions"], ["removed"])["removed"].to_pylist())
    crowded = set(context.lake.read(state.refs["curation/components"], ["doc_id"])["doc_id"].to_pylist())
    ref = state.refs["curation/candidates"]
    left = [n for n in context.lake.read(ref, ["doc_id"])["doc_id"].to_pylist() if n not in removed]
    left.sort(key=lambda name: (name not in crowded, name_order(name)))
    chosen = set(left[: options.semantic_documents])
    found: list[tuple[str, str, int]] = []
    for batch in context.lake.scan(ref, ["doc_id", "text", "n_words"], BATCH):
        rows = (row for row in batch.to_pylist() if row["doc_id"] in chosen)
        found += [(row["doc_id"], row["text"][: options.semantic_characters], row["n_words"]) for row in rows]
    return found


def _either(row: Removal) -> tuple[float | None, float | None]:
    """Return the Jaccard similarity or the cosine of a removal, and None for the other."""
    return (None, row.similarity) if row.subtask == SEMANTIC else (row.similarity, None)


def _with_decisions(context: Context, state: State, rows: Sequence[Removal]) -> State:
    before = context.lake.read(state.refs["curation/decisions"])
    table = pa.concat_tables([before, _table(DECISIONS, rows)])
    return state.add({"curation/decisions": context.lake.write("curation/decisions", table)})


def _similarities(context: Context, state: State) -> dict[tuple[str, str], float]:
    table = context.lake.read(state.refs["curation/edges"])
    return dict(
        zip(zip(table["i"].to_pylist(), table["j"].to_pylist(), strict=True), table["jaccard"].to_pylist(), strict=True)
    )


def _kept(
    context: Context, ref: Ref, removed: Mapping[str, str], counts: Counter[str], sizes: Counter[str]
) -> Iterator[pa.Table]:
    yield KEPT.empty_table()
    for batch in context.lake.scan(ref, KEPT.names, BATCH):
        keep = pa.array([name not in removed for name in batch["doc_id"].to_pylist()], pa.bool_())
        rows = batch.filter(keep)
        for domain, size in zip(rows["domain"].to_pylist(), rows["n_bytes"].to_pylist(), strict=True):
            counts[domain] += 1
            sizes[domain] += size
        yield pa.Table.from_batches([rows]).cast(KEPT)


def _against_truth(options: Options, funnel: Funnel, edges: Edges) -> dict[str, Any]:
    """Compare the pairs found in the second domain, exact copies included, with the true pairs."""
    path = Path(options.truth).expanduser() if options.truth else None
    if path is None and not options.second and not options.alone:
        path = sample_path("truth")
    if path is None:
        return {}
    domain = dict(zip(funnel.ids, funnel.domains, strict=True))
    second = {name for name in domain if domain[name] == "second"}
    second |= {copy for copy, first in funnel.copies if first in second}
    found = found_pairs(funnel.ids, funnel.copies, edges.pairs)
    result = agreement(
        [(a, b) for a, b in found if a in second and b in second],
        [(a, b) for a, b in true_pairs(path, options.threshold) if a in second and b in second],
    )
    return {"truth": {"pairs": result.true, "precision": result.precision, "recall": result.recall}}


def _edges(ids: Sequence[str], edges: Edges) -> pa.Table:
    rows = [(ids[i], ids[j], s) for (i, j), s in zip(edges.pairs.tolist(), edges.jaccard.tolist(), strict=True)]
    return _table(EDGES, rows)


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)

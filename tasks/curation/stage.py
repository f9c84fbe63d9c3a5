"""Curation: read, filter, drop exact copies, find near duplicates, and decide which documents stay."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from infra.errors import BadInput, NoDocuments
from tasks.combinatorial.independent_set import repair
from tasks.contract import Subtask
from tasks.corpus.filters import RuleSet, source_digest
from tasks.corpus.sample import sample_path
from tasks.curation import outcome
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import by_component, choose_bands, component_of
from tasks.curation.index.search import find_edges
from tasks.curation.index.shards import WORTHLESS, Index, Recipe, Work, make_shard, plan_shards
from tasks.curation.index.shingles import I64
from tasks.curation.index.truth import agreement, found_pairs, true_pairs
from tasks.curation.outcome import DECISIONS, DROPPED, EXACT
from tasks.curation.removals import (
    Plan,
    Removal,
    component_graph,
    removals,
)
from tasks.curation.representatives.arms import REPRESENTATIVES, Components, Kept
from tasks.curation.semantic_clusters.arms import SEMANTIC_CLUSTERS, Clustering, Duplicates
from tasks.spread import Spread
from tasks.stage import Context, State
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.curation")

SUBTASKS: tuple[Subtask[Any, Any], ...] = (REPRESENTATIVES, SEMANTIC_CLUSTERS)

TEXT = pa.string()
EDGES_AT_ONCE = 50_000
EDGES = pa.schema([("i", TEXT), ("j", TEXT), ("jaccard", pa.float64())])
COMPONENTS = pa.schema([("doc_id", TEXT), ("component", pa.int64()), ("decided", TEXT)])


class Options(BaseModel):
    """Settings of the stage; the defaults are the demo profile.

    Attributes:
        corpus: files or folders of the base domain; empty = the shipped documentation.
        second: files or folders of the second domain; empty = the shipped licence texts.
        text_column: column or field that holds the text; empty = `text`, `content` or `body`.
        id_column: column or field that names a document; empty = `doc_id` or `id`, else path and row.
        weight_column: column or field whose positive number says what a document is worth among near duplicates;
            empty = the square root of its words. Without such a number a document is worth next to nothing.
        alone: whether the corpus is curated for itself: no shipped second domain is read, and nothing is removed by
            meaning, so that every removed document has a kept witness at or above the threshold.
        truth: Parquet file of true near-duplicate pairs (a, b, jaccard) of the second domain, complete from the
            threshold on; empty = the shipped one where the shipped texts are read.
        shard_mb: MiB of files that are read as one part of the stored index; memory follows it.
        permutations: values of a MinHash signature.
        bands: bands of a signature; 0 = what the threshold needs.
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
    weight_column: str = ""
    alone: bool = False
    truth: str = ""
    shard_mb: int = Field(16, ge=1)
    permutations: int = Field(128, ge=16, le=1024)
    bands: int = Field(0, ge=0)
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
    recipe = _recipe(options)
    root = context.home / "index" / "curation"
    work, skipped = _work(options, recipe)
    folders = Spread(context, "prepare shard")(_MakeShard(root / "shards", recipe), work)
    index = Index.open(folders, recipe)
    with TemporaryDirectory(dir=context.scratch) as folder:
        scratch = Path(folder)
        spread = Spread(context, "prepare bands")
        found = find_edges(root / "searches", index, recipe, options.threshold, scratch, spread)
        corpus = Corpus(index, found.first)
        filtered: Counter[str] = Counter()
        refs = {
            "curation/filtered": context.lake.write("curation/filtered", _filtered(corpus, filtered)),
            "curation/quarantined": context.lake.write("curation/quarantined", corpus.aside()),
        }
        _check_read(options, corpus, skipped, filtered)
        refs["curation/candidates"] = context.lake.write("curation/candidates", corpus.candidates())
        log.info("%d documents read, %d pass, deciding near duplicates", len(corpus.names), int(corpus.is_first.sum()))
        plan = Plan(options.posed, options.largest_posed)
        edges = [0]
        refs["curation/edges"] = context.lake.write("curation/edges", _edges(corpus, plan, found.path, scratch, edges))
    copies, originals = corpus.copies()
    refs["curation/components"] = context.lake.write("curation/components", _components(corpus, plan))
    refs["curation/decisions"] = context.lake.write("curation/decisions", _decisions(corpus, plan, copies, originals))
    state = State().add(
        refs,
        documents_read=dict(sorted(corpus.total("read").items())),
        quarantined=corpus.total("quarantined").total(),
        undecodable_characters=corpus.total("replaced").total(),
        redacted=dict(sorted(corpus.redacted().items())),
        dropped_by_rule=dict(sorted(filtered.items())),
        exact_duplicates=len(copies),
        candidates=dict(sorted(corpus.domains().items())),
        pairs_checked=found.checked,
        near_duplicate_pairs=edges[0],
        components=dict(sorted(Counter(plan.how).items())),
        component_sizes={str(size): count for size, count in sorted(plan.sizes.items())},
        largest_component=plan.largest,
        shards=len(index.shards),
    )
    return state.add(**_against_truth(options, corpus, found.path, copies, originals))


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
    lake, before = context.lake, outcome.totals(context.lake, state.refs["curation/candidates"])
    decisions = lake.write("curation/decisions", outcome.final_decisions(lake, state.refs["curation/decisions"]))
    kept = lake.write("curation/kept", outcome.kept(lake, state.refs["curation/candidates"], decisions))
    dropped = lake.write("curation/dropped", outcome.dropped(lake, state.refs["curation/filtered"], decisions))
    after = outcome.totals(lake, kept)
    removed = Counter(lake.read(decisions, ["subtask"])["subtask"].to_pylist())
    log.info(
        "%d documents kept, %d removed as duplicates", sum(d["documents"] for d in after.values()), removed.total()
    )
    none = {"documents": 0, "n_bytes": 0}
    return state.add(
        {"curation/kept": kept, "curation/dropped": dropped, "curation/decisions": decisions},
        documents_kept={domain: its["documents"] for domain, its in after.items()},
        bytes_kept={domain: its["n_bytes"] for domain, its in after.items()},
        # of near and semantic duplicates; exact copies were never stored
        bytes_repeated={domain: its["n_bytes"] - after.get(domain, none)["n_bytes"] for domain, its in before.items()},
        removed=dict(sorted(removed.items())),
    )


def headline(state: State) -> str:
    """Return the result of the stage in one line."""
    read, kept = sum(state.facts["documents_read"].values()), sum(state.facts["documents_kept"].values())
    duplicates = sum(state.facts["removed"].values())
    truth = state.facts.get("truth") or {}
    scored = f"; pairs: precision {truth['precision']:.3f}, recall {truth['recall']:.3f}" if truth else ""
    return f"{kept} of {read} documents kept, {duplicates} removed as duplicates{scored}"


@dataclass(frozen=True)
class _MakeShard:
    """Makes a shard; picklable."""

    root: Path
    recipe: Recipe

    def __call__(self, work: Work) -> Path:
        return make_shard(self.root, work, self.recipe)


def _recipe(options: Options) -> Recipe:
    rules = RuleSet(
        min_words=options.min_words,
        max_words=options.max_words,
        min_alphabetic=options.min_alphabetic,
        english=options.english,
        languages=options.languages,
        fineweb=options.fineweb,
        own_rules=options.own_rules,
    )
    try:
        rules.build()  # said now, not by a worker
        bands, rows = choose_bands(options.threshold, options.permutations, options.bands)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return Recipe(
        rules=rules,
        text_column=options.text_column,
        id_column=options.id_column,
        weight_column=options.weight_column,
        redact=options.redact,
        permutations=options.permutations,
        bands=bands,
        band_rows=rows,
        own_code=source_digest(options.own_rules),
    )


def _domains(options: Options) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each domain, the option that names its files, and what was given."""
    domains = [("base", "corpus", options.corpus), ("second", "second", options.second)]
    return domains[:1] if options.alone and not options.second else domains


def _work(options: Options, recipe: Recipe) -> tuple[list[Work], Counter[str]]:
    """Return the shards of all domains, and how many files were passed over."""
    work: list[Work] = []
    skipped: Counter[str] = Counter()
    for domain, _, given in _domains(options):
        paths = [Path(path).expanduser() for path in given] or [sample_path(domain)]
        for path in paths:
            if not path.exists():
                raise BadInput(f"there is no {path}; give files or folders of Parquet, JSON lines or plain text")
        named = recipe if given else replace(recipe, text_column="", id_column="", weight_column="")
        some, skipped[domain] = plan_shards(domain, paths, named, options.shard_mb * 2**20)
        work += some
    return work, skipped


def _check_read(options: Options, corpus: Corpus, skipped: Counter[str], filtered: Counter[str]) -> None:
    """Warn of what was put aside; stop with advice where a domain has led to no candidate."""
    aside = corpus.aside().to_pylist()
    for item in aside[:5]:
        log.warning("%s put aside: %s (%s)", item["path"], item["reason"], item["detail"])
    candidates, read = corpus.domains(), corpus.total("read")
    for domain, option, _ in _domains(options):
        if domain not in candidates:
            why = Counter(item["reason"] for item in aside if item["domain"] == domain)
            raise NoDocuments(
                f"no usable document in the {domain} domain: {read[domain]} read, {skipped[domain]} files "
                f"skipped for their ending, put aside: {dict(why)}, dropped by rules: {dict(filtered)}. Give text "
                f"files, JSON lines or Parquet with a text column by `{option}`, name the column by --text-column, or "
                f"loosen min_words, min_alphabetic, english"
            )
    if options.weight_column and bool(np.all(corpus.index.gather("weights") == WORTHLESS)):
        raise BadInput(f"no document has a positive number in {options.weight_column}; name another by --weight-column")


def _filtered(corpus: Corpus, counts: Counter[str]) -> Iterator[pa.Table]:
    yield DROPPED.empty_table()
    for table in corpus.filtered(counts):
        yield table.rename_columns(DROPPED.names).cast(DROPPED)


def _edges(corpus: Corpus, plan: Plan, path: Path, folder: Path, count: list[int]) -> Iterator[pa.Table]:
    """Yield the edges by component, and let the plan decide each component on the way."""
    yield EDGES.empty_table()
    weights = corpus.index.gather("weights")
    component = component_of(corpus.index.size, [path])
    waiting: list[tuple[I64, NDArray[np.float64]]] = []
    held = 0

    def table() -> pa.Table:
        pairs, jaccard = (np.concatenate(column) for column in zip(*waiting, strict=True))
        i, j = (corpus.names_of(pairs[:, k]).cast(TEXT) for k in (0, 1))
        return pa.table([i, j, pa.array(jaccard)], schema=EDGES)

    for pairs, jaccard in by_component([path], component, folder):
        plan.decide(pairs, jaccard, weights, corpus.name)
        count[0] += len(pairs)
        waiting.append((pairs, jaccard))
        held += len(pairs)
        if held >= EDGES_AT_ONCE:
            yield table()
            waiting, held = [], 0
    if waiting:
        yield table()


def _components(corpus: Corpus, plan: Plan) -> pa.Table:
    members, number = plan.members()
    how = np.array(plan.how, object)[number] if len(number) else np.zeros(0, object)
    names = corpus.names_of(members).cast(TEXT)
    return pa.table([names, pa.array(number), pa.array(how.tolist(), TEXT)], schema=COMPONENTS)


def _decisions(corpus: Corpus, plan: Plan, copies: I64, originals: I64) -> Iterator[pa.Table]:
    """Yield exact copies and what goes where no arm decides."""
    names = [corpus.names.take(pa.array(rows)).cast(TEXT) for rows in (copies, originals)]
    yield pa.table([*names, pa.array(np.ones(len(copies))), pa.array([EXACT] * len(copies), TEXT)], schema=DECISIONS)
    gone, witness, jaccard, how = plan.removals()
    names = [corpus.names_of(rows).cast(TEXT) for rows in (gone, witness)]
    subtask = pa.array([f"near_duplicates/{name}" for name in how], TEXT)
    yield pa.table([*names, pa.array(jaccard), subtask], schema=DECISIONS)


def _pose_representatives(context: Context, state: State, options: Options) -> Components | None:
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
        weights=np.array([weight for *_, weight in documents]),
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


def _semantic_documents(context: Context, state: State, options: Options) -> list[tuple[str, str, float]]:
    """Return id, head and weight of the documents to compare."""
    candidates, components, decisions = (
        state.refs[f"curation/{name}"] for name in ("candidates", "components", "decisions")
    )
    found = outcome.worth_comparing(context.lake, candidates, components, decisions, options.semantic_documents)
    return [(row["doc_id"], row["text"][: options.semantic_characters], row["weight"]) for row in found]


def _with_decisions(context: Context, state: State, rows: Sequence[Removal]) -> State:
    before = context.lake.read(state.refs["curation/decisions"])
    table = pa.concat_tables([before, _table(DECISIONS, rows)])
    return state.add({"curation/decisions": context.lake.write("curation/decisions", table)})


def _similarities(context: Context, state: State) -> dict[tuple[str, str], float]:
    """Return the edges of the components that are put before the arms."""
    table = context.lake.sql(
        "select i, j, jaccard from edges semi join (from components where decided = 'posed') c on edges.i = c.doc_id",
        edges=state.refs["curation/edges"],
        components=state.refs["curation/components"],
    )
    columns = [column.to_pylist() for column in table.columns]
    return {(i, j): jaccard for i, j, jaccard in zip(*columns, strict=True)}


def _against_truth(options: Options, corpus: Corpus, edges: Path, copies: I64, originals: I64) -> dict[str, Any]:
    """Compare the pairs found in the second domain, exact copies included, with the true pairs."""
    path = Path(options.truth).expanduser() if options.truth else None
    if path is None and not options.second and not options.alone:
        path = sample_path("truth")
    if path is None:
        return {}
    names: list[str] = corpus.names.to_pylist()
    ids = [names[k] for k in corpus.documents.tolist()]
    second: set[str] = set()
    for shard, start in zip(corpus.index.shards, corpus.index.starts.tolist(), strict=False):
        if shard.domain == "second":
            second.update(ids[g] for g in range(start, start + shard.size) if corpus.is_first[g])
    repeated = [(names[a], names[b]) for a, b in zip(copies.tolist(), originals.tolist(), strict=True)]
    second |= {copy for copy, first in repeated if first in second}
    table = pq.read_table(edges)
    found = found_pairs(ids, repeated, np.column_stack([table["i"].to_numpy(), table["j"].to_numpy()]))
    result = agreement(
        [(a, b) for a, b in found if a in second and b in second],
        [(a, b) for a, b in true_pairs(path, options.threshold) if a in second and b in second],
    )
    return {"truth": {"pairs": result.true, "precision": result.precision, "recall": result.recall}}


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)

"""Curation: read, filter, drop exact copies, find near duplicates, and decide which documents stay."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.errors import BadInput, NoDocuments
from tasks.corpus.filters import RuleSet, source_digest
from tasks.corpus.sample import sample_path
from tasks.curation import outcome
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import by_component, choose_bands, component_of
from tasks.curation.index.search import find_edges
from tasks.curation.index.shards import WORTHLESS, Index, Recipe, Work, make_shard, plan_shards
from tasks.curation.index.shingles import I64
from tasks.curation.index.truth import agreement, found_pairs, true_pairs
from tasks.curation.options import Options
from tasks.curation.outcome import DECISIONS, DROPPED, EXACT
from tasks.curation.removals import (
    Plan,
)
from tasks.curation.representatives.options import Options as PosedOptions
from tasks.spread import Spread
from tasks.stage import Context, Road, State

log = logging.getLogger("ketcycle.curation")

TEXT = pa.string()
EDGES_AT_ONCE = 50_000
EDGES = pa.schema([("i", TEXT), ("j", TEXT), ("jaccard", pa.float64())])
COMPONENTS = pa.schema([("doc_id", TEXT), ("component", pa.int64()), ("decided", TEXT)])


def prepare(context: Context, _: State) -> State:
    """Read, filter, drop exact copies, find near duplicates, and decide the components that need no arm."""
    options = context.parsed(Options)
    posed = context.parsed(PosedOptions, "representatives")
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
        plan = Plan(posed.posed, posed.largest_posed)
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


ROAD: Road = (prepare, "representatives", "semantic_clusters", publish)


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

"""Curation: read, filter, drop exact copies, find near duplicates, and decide which documents stay."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.corpus.sample import sample_path
from tasks.curation import outcome
from tasks.curation.exchange import JoinBands, MakeShard
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import by_component, component_of
from tasks.curation.index.search import Bands, find_edges
from tasks.curation.index.shards import Index
from tasks.curation.index.shingles import I64
from tasks.curation.index.truth import agreement, found_pairs, true_pairs
from tasks.curation.options import Options
from tasks.curation.outcome import DECISIONS, EXACT
from tasks.curation.reading import check_read, closing_line, exchanged, plan_work, put_aside, recipe_of
from tasks.curation.removals import Plan
from tasks.curation.representatives.options import Options as PosedOptions
from tasks.sections import Chart, Section, Series, counts
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
    recipe = recipe_of(options)
    root = context.home / "index" / "curation"
    work, skipped = plan_work(options, recipe)
    folders = Spread(context, "prepare shard")(MakeShard(context, recipe), work)
    index = Index.open(folders, recipe)
    with TemporaryDirectory(dir=context.scratch) as folder:
        scratch = Path(folder)
        found = find_edges(root / "searches", index, recipe, options.threshold, scratch, _spread_bands(context))
        exchange = exchanged(index, recipe, found)
        corpus = Corpus(index, found.first)
        filtered: Counter[str] = Counter()
        name = {"text": corpus.text_name(options.text_column)}
        refs = {
            "curation/filtered": context.lake.write("curation/filtered", corpus.filtered(filtered), name),
            "curation/quarantined": context.lake.write("curation/quarantined", put_aside(corpus, skipped)),
        }
        check_read(options, corpus, skipped, filtered)
        refs["curation/candidates"] = context.lake.write("curation/candidates", corpus.candidates(), name)
        log.info("%d documents read, %d pass, deciding near duplicates", len(corpus.names), int(corpus.is_first.sum()))
        plan = Plan(posed.posed, posed.largest_posed, found.witness)
        edges, parts = [0], [found.path, found.crowds]
        refs["curation/edges"] = context.lake.write("curation/edges", _edges(corpus, plan, parts, scratch, edges))
    copies, originals = corpus.copies()
    refs["curation/components"] = context.lake.write("curation/components", _components(corpus, plan))
    refs["curation/decisions"] = context.lake.write("curation/decisions", _decisions(corpus, plan, copies, originals))
    state = State().add(
        refs,
        documents_read=dict(sorted(corpus.total("read").items())),
        quarantined=corpus.total("quarantined").total(),
        skipped_files=dict(sorted(Counter(item.ending for some in skipped.values() for item in some).items())),
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
        exchanged_bytes=exchange,
    )
    return state.add(**_against_truth(options, corpus, parts, copies, originals))


def publish(context: Context, state: State) -> State:
    """Write the kept and the dropped documents and, for every removed one, its kept near duplicate."""
    lake, before = context.lake, outcome.totals(context.lake, state.refs["curation/candidates"])
    name = lake.meta(state.refs["curation/candidates"])
    decisions = lake.write("curation/decisions", outcome.final_decisions(lake, state.refs["curation/decisions"]))
    candidates, filtered = state.refs["curation/candidates"], state.refs["curation/filtered"]
    kept = lake.write("curation/kept", outcome.kept(lake, candidates, decisions), name)
    dropped = lake.write("curation/dropped", outcome.dropped(lake, filtered, candidates, decisions), name)
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
        # of near and semantic duplicates
        bytes_repeated={domain: its["n_bytes"] - after.get(domain, none)["n_bytes"] for domain, its in before.items()},
        removed=dict(sorted(removed.items())),
    )


def headline(state: State) -> str:
    """Return the result of the stage in one line; its numbers add up to what was read."""
    return closing_line(state.facts)


def sections(facts: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the tables and charts of the result."""
    columns = ("documents_read", "candidates", "documents_kept", "bytes_kept", "bytes_repeated")
    documents = tuple(
        (domain, *(facts.get(name, {}).get(domain, 0) for name in columns))
        for domain in facts.get("documents_read", {})
    )
    header = ("domain", "read", "without dropped and copies", "kept", "bytes kept", "bytes repeated")
    found: tuple[Section, ...] = (Section("Documents", _measured(facts), header, documents),) if documents else ()
    found += counts("Dropped by rule", ("rule", "documents"), facts.get("dropped_by_rule", {}))
    removed = {way.replace("_", " "): count for way, count in facts.get("removed", {}).items()}
    found += counts("Removed duplicates", ("way", "documents"), removed)
    if sizes := facts.get("component_sizes"):
        points = tuple(sorted((int(size), count) for size, count in sizes.items()))
        chart = Chart("documents in a component", "components", (Series("components", points),), log="xy")
        sentence = "Components of near duplicates by their size; in each, which documents stay is decided."
        found += (Section("Near-duplicate components", sentence, chart=chart),)
    return found


def _measured(facts: Mapping[str, Any]) -> str:
    """Return how the pairs found agree with the true pairs, empty where the true pairs are unknown."""
    if "truth" not in facts:
        return ""
    truth = facts["truth"]
    return (
        f"Of {truth['pairs']} true pairs, the pairs found have precision {truth['precision']:.3f} and "
        f"recall {truth['recall']:.3f}."
    )


ROAD: Road = (prepare, "representatives", "semantic_clusters", publish)


def _spread_bands(context: Context) -> Callable[[Bands, Sequence[Any]], list[Path]]:
    spread = Spread(context, "prepare bands")
    return lambda bands, items: spread(JoinBands(context, bands.join), items)


def _edges(corpus: Corpus, plan: Plan, parts: list[Path], folder: Path, count: list[int]) -> Iterator[pa.Table]:
    """Yield the edges by component, and let the plan decide each component on the way."""
    yield EDGES.empty_table()
    weights = corpus.index.gather("weights")
    component = component_of(corpus.index.size, parts)
    waiting: list[tuple[I64, NDArray[np.float64]]] = []
    held = 0

    def table() -> pa.Table:
        pairs, jaccard = (np.concatenate(column) for column in zip(*waiting, strict=True))
        i, j = (corpus.names_of(pairs[:, k]).cast(TEXT) for k in (0, 1))
        return pa.table([i, j, pa.array(jaccard)], schema=EDGES)

    for pairs, jaccard in by_component(parts, component, folder):
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


def _against_truth(options: Options, corpus: Corpus, edges: list[Path], copies: I64, originals: I64) -> dict[str, Any]:
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
    table = pa.concat_tables([pq.read_table(path) for path in edges])
    found = found_pairs(ids, repeated, np.column_stack([table["i"].to_numpy(), table["j"].to_numpy()]))
    result = agreement(
        [(a, b) for a, b in found if a in second and b in second],
        [(a, b) for a, b in true_pairs(path, options.threshold) if a in second and b in second],
    )
    return {"truth": {"pairs": result.true, "precision": result.precision, "recall": result.recall}}

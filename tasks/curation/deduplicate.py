"""Deduplication as a function: a table or files in, Arrow tables out; no service, no home, no run.

from tasks.curation.deduplicate import deduplicate

found = deduplicate(table, threshold=0.7)
found.kept, found.dropped, found.edges, found.components
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.corpus.documents import Layout
from tasks.corpus.filters import choose_rules
from tasks.corpus.formats.kinds import expanded
from tasks.corpus.tabular.arrow import frame_reader
from tasks.curation.direct import curate
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import by_component, choose_bands, component_of
from tasks.curation.index.search import find_edges
from tasks.curation.index.shards import Index, Recipe, make_shard, plan_shards
from tasks.curation.index.shingles import PERMUTATIONS
from tasks.curation.options import Options
from tasks.curation.outcome import EXACT, OURS, as_given
from tasks.curation.reading import put_aside
from tasks.curation.removals import Plan

SHARD_BYTES = 16 * 2**20
ROWS_AT_ONCE = 1_024
EDGES = pa.schema({"i": pa.string(), "j": pa.string(), "jaccard": pa.float64()})


@dataclass(frozen=True)
class Result:
    """The outcome of a deduplication.

    Attributes:
        kept: the documents that stay, with all columns of the user, in their order.
        dropped: all others, with the reason, the kept document that each resembles (`ketcycle_witness`) and how much
            (`ketcycle_jaccard`, 1 for exact copies).
        edges: near duplicates (i, j, jaccard) by id, and pairs of removed documents of crowds and their witnesses.
        components: the number of the component of each document (`id`) that has near duplicates.
        quarantined: files, rows and lines that could not be read or are of an unknown format, with the reason.
    """

    kept: pa.Table
    dropped: pa.Table
    edges: pa.Table
    components: pa.Table
    quarantined: pa.Table


def deduplicate(
    source: Any,
    *,
    threshold: float = 0.7,
    layout: Layout | None = None,
    rules: str = "none",
    languages: str | Sequence[str] = (),
    ignore_case: bool = False,
) -> Result:
    """Remove exact copies and near duplicates; of a component the heaviest documents stay, by default the longest.

    Args:
        source: an Arrow table, dataset or reader, anything that exports one (pandas, Polars, DuckDB, `datasets`, also
            streamed), or paths of files and folders, or patterns of them (`data/*.jsonl`).
        threshold: Jaccard similarity from which two documents are near duplicates.
        layout: the columns of text, id and weight; None = the usual names.
        rules: quality rules: `none`, `prose`, `web`, `code`, or a YAML file.
        languages: languages to keep, with rules.
        ignore_case: whether texts that differ in case alone are exact copies.

    Raises:
        BadInput: a file whose format is not recognised.
        FileNotFoundError: there is no such file or folder, and none that matches the pattern.
        ValueError: a threshold, rules or languages that there are not, or a source without a text.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold is above 0 and at most 1, not {threshold}")
    bands, band_rows = choose_bands(threshold, PERMUTATIONS)
    chosen = choose_rules(rules, {}, [languages] if isinstance(languages, str) else languages)
    recipe = Recipe(
        rules=chosen,
        layout=layout or Layout(code=rules == "code"),
        ignore_case=ignore_case,
        bands=bands,
        band_rows=band_rows,
    )
    with TemporaryDirectory(prefix="ketcycle-") as name:
        folder = Path(name)
        paths = _paths(source, folder / "table.arrow")
        work, skipped = plan_shards("base", paths, recipe, SHARD_BYTES)
        index = Index.open([make_shard(folder / "shards", item, recipe) for item in work], recipe)
        found = find_edges(folder / "searches", index, recipe, threshold, folder, _one_by_one)
        corpus, plan = Corpus(index, found.first), Plan(0, 3, found.witness)
        weights, parts = index.gather("weights"), [found.path, found.crowds]
        for pairs, jaccard in by_component(parts, component_of(index.size, parts), folder):
            plan.decide(pairs, jaccard, weights, corpus.name)
        if not len(corpus.names):
            first = put_aside(corpus, {"base": skipped}).slice(0, 3).to_pylist()
            aside = "; ".join(f"{row['path']}: {row['reason']} ({row['detail']})" for row in first)
            raise ValueError(f"no document can be read ({aside or 'no file'})")
        return _result(corpus, plan, parts, recipe.layout.text_column, put_aside(corpus, {"base": skipped}))


def deduplicate_into(
    source: Any,
    out: Path | str,
    *,
    threshold: float = 0.7,
    layout: Layout | None = None,
    rules: str = "none",
    languages: str | Sequence[str] = (),
    ignore_case: bool = False,
) -> dict[str, Any]:
    """Do the same with a source of any size: the tables are written into a folder batch by batch.

    Args:
        source: as for `deduplicate`.
        out: gets `kept.parquet`, `dropped.parquet`, `edges.parquet`, `components.parquet`, `decisions.parquet` and
            `quarantined.parquet`; it is made if it is not there.
        threshold: as for `deduplicate`.
        layout: as for `deduplicate`.
        rules: as for `deduplicate`.
        languages: as for `deduplicate`.
        ignore_case: as for `deduplicate`.

    Returns:
        How many documents were read, kept, dropped by each rule and removed, and what was put aside.

    Raises:
        BadInput: options or files that cannot be used.
    """
    where = layout or Layout(code=rules == "code")
    names = ("text_column", "id_column", "weight_column", "columns", "list_rows", "form")
    target = Path(out).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".ketcycle-", dir=target) as name:
        folder = Path(name)
        given: dict[str, Any] = {name: getattr(where, name) for name in names}
        options = Options(
            corpus=tuple(str(path.absolute()) for path in _paths(source, folder / "table.arrow")),
            alone=True,
            threshold=threshold,
            rules=rules,
            languages=(languages,) if isinstance(languages, str) else tuple(languages),
            ignore_case=ignore_case,
            max_line_mb=max(1, where.max_line >> 20),
            **given,
        )
        return curate(options, target, folder / "index")


def _one_by_one(function: Any, items: Sequence[Any]) -> list[Path]:
    return [function(item) for item in items]


def _paths(source: Any, target: Path) -> list[Path]:
    """Return the paths of a source; a table is written to a file first, some rows in memory at a time."""
    if isinstance(source, str | Path):
        return expanded(source)
    if isinstance(source, list | tuple) and all(isinstance(item, str | Path) for item in source):
        return [path for item in source for path in expanded(item)]
    reader = _reader(source)
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, reader.schema) as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]), max_chunksize=ROWS_AT_ONCE)
    return [target]


def _reader(source: Any) -> pa.RecordBatchReader:
    if isinstance(source, pa.RecordBatchReader):
        return source
    if hasattr(source, "scanner"):  # a dataset of Arrow
        source = source.scanner()
    if hasattr(source, "to_reader"):  # a table or scanner of Arrow
        return source.to_reader()
    if hasattr(source, "with_format") and hasattr(source, "iter"):  # a dataset of `datasets`, or one that is streamed
        return _of_tables(source.with_format("arrow").iter(ROWS_AT_ONCE))
    if hasattr(source, "__arrow_c_stream__"):  # pandas, Polars, DuckDB, and whatever else speaks Arrow's C interface
        try:
            return frame_reader(source)
        except pa.ArrowInvalid as error:  # a single column
            raise ValueError(f"a {type(source).__name__} is no table; give one with a column of texts") from error
    raise ValueError(f"a {type(source).__name__} is no table and no path; give an Arrow table, or files")


def _of_tables(tables: Iterator[pa.Table]) -> pa.RecordBatchReader:
    first = next(tables, None)
    if first is None:
        raise ValueError("the dataset has no rows")
    batches = (batch for table in chain([first], tables) for batch in table.cast(first.schema).to_batches())
    return pa.RecordBatchReader.from_batches(first.schema, batches)


def _result(corpus: Corpus, plan: Plan, parts: list[Path], text_column: str, aside: pa.Table) -> Result:
    copies, originals = corpus.copies()
    gone, witness, jaccard, how = plan.removals()
    of = {int(g): (int(w), j, h) for g, w, j, h in zip(gone, witness, jaccard, how, strict=True)}
    why: dict[str, tuple[str, str, float]] = {}
    candidate = {int(document): k for k, document in enumerate(corpus.documents)}
    for document, first in zip(copies.tolist(), originals.tolist(), strict=True):
        end, value, _ = of.get(candidate[first], (candidate[first], 1.0, ""))
        why[corpus.names[document].as_py()] = (EXACT, corpus.name(end), value)
    for k, (end, value, name) in of.items():
        why[corpus.name(k)] = (f"near_duplicates/{name}", corpus.name(end), value)
    counts: Counter[str] = Counter()
    text = corpus.text_name(text_column)
    candidates = pa.concat_tables(corpus.candidates())
    filtered = pa.concat_tables(corpus.filtered(counts))
    stays = np.array([name not in why for name in candidates["doc_id"].to_pylist()], bool)
    drop = ("n_words", "weight", "label")
    rest = candidates.filter(pa.array(~stays)).drop_columns(drop)
    nothing = pa.nulls(len(rest), pa.string())
    rest = rest.append_column("reason", nothing).append_column("detail", nothing).select(filtered.column_names)
    dropped = pa.concat_tables([filtered, rest.cast(filtered.schema)])
    return Result(
        kept=as_given(candidates.filter(pa.array(stays)).drop_columns(drop), text),
        dropped=_with_reasons(as_given(dropped, text), why),
        edges=_edges(corpus, parts),
        components=_components(corpus, plan),
        quarantined=aside,
    )


def _with_reasons(dropped: pa.Table, why: dict[str, tuple[str, str, float]]) -> pa.Table:
    found = [why.get(name) for name in dropped[f"{OURS}id"].to_pylist()]
    reason = [own[0] if own else rule for own, rule in zip(found, dropped[f"{OURS}reason"].to_pylist(), strict=True)]
    at = dropped.column_names.index(f"{OURS}reason")
    dropped = dropped.set_column(at, f"{OURS}reason", pa.array(reason, pa.string()))
    dropped = dropped.append_column(f"{OURS}witness", pa.array([own and own[1] for own in found], pa.string()))
    return dropped.append_column(f"{OURS}jaccard", pa.array([own and own[2] for own in found], pa.float64()))


def _edges(corpus: Corpus, parts: list[Path]) -> pa.Table:
    tables = [pq.read_table(path) for path in parts]
    i, j = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("i", "j"))
    value = np.concatenate([table["jaccard"].to_numpy() for table in tables])
    names = [corpus.names_of(numbers).cast(pa.string()) for numbers in (i, j)]
    return pa.table([*names, pa.array(value)], schema=EDGES)


def _components(corpus: Corpus, plan: Plan) -> pa.Table:
    members, number = plan.members()
    return pa.table({"id": corpus.names_of(members).cast(pa.string()), "component": pa.array(number)})

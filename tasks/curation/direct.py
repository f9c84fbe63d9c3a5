"""Curation of one corpus into a folder of Parquet files, in this process: no Prefect, Dask, MLflow or circuit.

The tables are those of the stage by its classical method (components are decided by greedy). Shards and searches are
stored below the home as the stage stores them, so that either goes on from what the other has read.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.lake import row_groups
from tasks.corpus.formats.kinds import shown
from tasks.curation.index.corpus import Corpus
from tasks.curation.index.near_duplicates import by_component, component_of
from tasks.curation.index.search import find_edges
from tasks.curation.index.shards import Index, make_shard
from tasks.curation.index.shingles import I64
from tasks.curation.options import Options
from tasks.curation.outcome import DROPPED, EXACT, FINAL, KEPT, as_given
from tasks.curation.reading import check_read, exchanged, plan_work, put_aside, recipe_of
from tasks.curation.removals import Plan

log = logging.getLogger("ketcycle.curation")

TEXT = pa.string()
EDGES = pa.schema({"i": TEXT, "j": TEXT, "jaccard": pa.float64()})
COMPONENTS = pa.schema({"doc_id": TEXT, "component": pa.int64(), "decided": TEXT})
TELL_S = 0.5


@dataclass(frozen=True)
class Removed:
    """The removed documents, by their numbers: rising, each with a kept document and how much it resembles that one."""

    documents: I64
    kept: I64
    jaccard: NDArray[np.float64]
    why: NDArray[np.str_]


def curate(options: Options, out: Path, root: Path) -> dict[str, Any]:
    """Curate the corpus of the options into `out/<table>.parquet`; return the facts for the closing line.

    Args:
        options: of the stage; `corpus` names the files.
        out: the folder, which is there.
        root: folder of stored shards and searches.

    Raises:
        BadInput: options or files that cannot be used; the message says what to do.
    """
    if shown(out) != str(out):
        raise BadInput(f"the name of the folder {shown(out)} is no UTF-8; write to another one")
    recipe = recipe_of(options)
    work, skipped = plan_work(options, recipe, out)
    index = Index.open(_with_progress("reading", work, lambda item: make_shard(root / "shards", item, recipe)), recipe)
    with TemporaryDirectory(prefix="ketcycle-") as name:
        scratch = Path(name)

        def spread(function: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
            return _with_progress("comparing", items, function)

        found = find_edges(root / "searches", index, recipe, options.threshold, scratch, spread)
        exchanged(index, recipe, found)
        corpus, plan = Corpus(index, found.first), Plan(0, 3, found.witness)
        parts, weights = [found.path, found.crowds], index.gather("weights")
        for pairs, jaccard in by_component(parts, component_of(index.size, parts), scratch):
            plan.decide(pairs, jaccard, weights, corpus.name)
        removed, filtered = _removed(corpus, plan), Counter[str]()
        text = corpus.text_name(options.text_column)
        _put(out, "quarantined", iter([put_aside(corpus, skipped)]))
        dropped = _put(out, "dropped", _dropped(corpus, removed, filtered), text)
        check_read(options, corpus, skipped, filtered)
        kept = _put(out, "kept", _kept(corpus, removed), text)
        _put(out, "edges", _edges(corpus, parts))
        _put(out, "components", iter([_components(corpus, plan)]))
        _put(out, "decisions", iter([_decisions(corpus, removed)]))
    log.info("%d documents in %s, %d in dropped.parquet", kept, out / "kept.parquet", dropped)
    return {
        "documents_read": {"base": len(corpus.names)},
        "documents_kept": {"base": kept},
        "dropped_by_rule": dict(filtered),
        "removed": dict(Counter(removed.why.tolist())),
        "quarantined": corpus.total("quarantined").total(),
        "skipped_files": dict(Counter(item.ending for some in skipped.values() for item in some)),
    }


def _with_progress(what: str, items: Sequence[Any], function: Callable[[Any], Path]) -> list[Path]:
    """Do parts one after another; log how many are done and the time left, now and then."""
    began = told = time.monotonic()
    found: list[Path] = []
    for k, item in enumerate(items, 1):
        found.append(function(item))
        now = time.monotonic()
        if now - told > TELL_S and k < len(items):
            told, left = now, (now - began) / k * (len(items) - k)
            bar = {"bar": (f"{what}, parts", k, len(items))}
            log.info("%s: %d of %d parts, about %.0f s left", what, k, len(items), left, extra=bar)
    return found


def _removed(corpus: Corpus, plan: Plan) -> Removed:
    gone, witness, jaccard, how = plan.removals()
    end, value = np.arange(corpus.index.size), np.ones(corpus.index.size)
    end[gone], value[gone] = witness, jaccard
    copies, originals = corpus.copies()
    first = corpus.first[corpus.slots[originals]]
    documents = np.concatenate([copies, corpus.documents[gone]])
    kept = corpus.documents[np.concatenate([end[first], witness])]
    why = np.array([EXACT] * len(copies) + [f"near_duplicates/{name}" for name in how], dtype=np.str_)
    order = np.argsort(documents)
    return Removed(documents[order], kept[order], np.concatenate([value[first], jaccard])[order], why[order])


def _kept(corpus: Corpus, removed: Removed) -> Iterator[pa.Table]:
    """Yield the documents that stay, in the order of the corpus."""
    schema, numbers, at = pa.schema([*KEPT, *corpus.index.given_columns]), np.flatnonzero(corpus.stays), 0
    for table in corpus.candidates():
        part = numbers[at : at + len(table)]
        at += len(table)
        rows = table.filter(pa.array(~np.isin(part, removed.documents)))
        yield rows.select(schema.names).cast(schema)


def _dropped(corpus: Corpus, removed: Removed, filtered: Counter[str]) -> Iterator[pa.Table]:
    """Yield what rules dropped and exact copies, then the other removed documents."""
    schema = pa.schema([*DROPPED, *corpus.index.given_columns])
    for numbers, tables in (
        (np.flatnonzero(~corpus.stays), corpus.filtered(filtered)),
        (np.flatnonzero(corpus.stays), corpus.candidates()),
    ):
        at = 0
        for table in tables:
            part = numbers[at : at + len(table)]
            at += len(table)
            place = np.searchsorted(removed.documents, part)
            place[place == len(removed.documents)] = 0
            here = removed.documents[place] == part if len(removed.documents) else np.zeros(len(part), bool)
            found = pa.array(np.where(here, place, -1))
            columns = {name: table[name] for name in schema.names if name in table.column_names}
            columns["reason"], columns["detail"] = (
                pc.coalesce(columns[name], own) if name in columns else own
                for name, own in zip(("reason", "detail"), _reasons(corpus, removed, found), strict=True)
            )
            rows = pa.table([columns[name] for name in schema.names], names=schema.names)
            yield rows.filter(pc.is_valid(rows["reason"])).cast(schema)


def _reasons(corpus: Corpus, removed: Removed, found: pa.Array) -> tuple[pa.Array, pa.Array]:
    rows = found.to_pylist()
    why = [None if k < 0 else str(removed.why[k]) for k in rows]
    like = [None if k < 0 else f"{removed.jaccard[k]:.4f} like {corpus.names[int(removed.kept[k])]}" for k in rows]
    return pa.array(why, TEXT), pa.array(like, TEXT)


def _edges(corpus: Corpus, parts: list[Path]) -> Iterator[pa.Table]:
    yield EDGES.empty_table()
    for path in parts:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches():
                i, j = (corpus.names_of(batch.column(k).to_numpy()).cast(TEXT) for k in (0, 1))
                yield pa.table([i, j, batch.column(2)], schema=EDGES)


def _components(corpus: Corpus, plan: Plan) -> pa.Table:
    members, number = plan.members()
    how = [plan.how[k] for k in number.tolist()]
    return pa.table([corpus.names_of(members).cast(TEXT), pa.array(number), pa.array(how, TEXT)], schema=COMPONENTS)


def _decisions(corpus: Corpus, removed: Removed) -> pa.Table:
    gone, kept = (corpus.names.take(pa.array(rows)).cast(TEXT) for rows in (removed.documents, removed.kept))
    nothing, why = pa.nulls(len(gone), pa.float64()), pa.array(removed.why.tolist(), TEXT)
    return pa.table([gone, kept, pa.array(removed.jaccard), nothing, why, kept], schema=FINAL)


def _put(out: Path, name: str, tables: Iterator[pa.Table], text: str = "") -> int:
    """Write a table under its name, with the user's columns if the name of the text is given; return its rows."""
    target, rows = out / f"{name}.parquet", 0
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    writer: pq.ParquetWriter | None = None
    try:
        for table in row_groups(tables):
            table = as_given(table, text) if text else table
            writer = writer or pq.ParquetWriter(draft, table.schema, compression="zstd")
            writer.write_table(table)
            rows += len(table)
        if writer is not None:
            writer.close()
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return rows

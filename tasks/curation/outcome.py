"""The products of the stage: kept and dropped documents, and the kept near duplicate of each removed one.

Tables hold our columns under fixed names and the user's under names that begin with `GIVEN`; what goes back to the user
has the user's names, and ours begin with `OURS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.lake import Lake, Ref
from tasks.corpus.documents import GIVEN
from tasks.curation.removals import (
    Removal,
)
from tasks.stage import Context, State

EXACT, SEMANTIC = "exact_duplicates", "semantic_clusters"
BATCH, IDS = 512, 65_536
TEXT = pa.string()
OURS = "ketcycle_"
KEPT = pa.schema([("doc_id", TEXT), ("domain", TEXT), ("source", TEXT), ("text", TEXT), ("n_bytes", pa.int64())])
DROPPED = pa.schema([*KEPT, ("reason", TEXT), ("detail", TEXT)])
_NAMES = {"doc_id": "id", "n_bytes": "bytes"}
_MADE = ("id", "domain", "source", "bytes", "reason", "detail", "witness", "jaccard", "text")
MADE = frozenset(f"{OURS}{name}" for name in _MADE)  # columns of a curation
DECISIONS = pa.schema([("removed", TEXT), ("witness", TEXT), ("similarity", pa.float64()), ("subtask", TEXT)])
FINAL = pa.schema(
    {"removed": TEXT, "witness": TEXT, "jaccard": pa.float64(), "cosine": pa.float64(), "subtask": TEXT, "kept": TEXT}
)
# A copy has the shingles of what it repeats, hence the same similarity to the document that stays for it. A witness
# can be removed by a later decision, never by an earlier one: from a copy to a kept document it is two steps at most.
_FINAL = f"""
    with near as (from decisions where subtask not in ('{EXACT}', '{SEMANTIC}')),
    own as (
        select d.removed, coalesce(n.witness, d.witness) as witness, d.subtask,
            coalesce(n.similarity, d.similarity) as similarity
        from decisions d left join near n on d.subtask = '{EXACT}' and d.witness = n.removed)
    select a.removed, a.witness, case when a.subtask <> '{SEMANTIC}' then a.similarity end as jaccard,
        case when a.subtask = '{SEMANTIC}' then a.similarity end as cosine, a.subtask,
        coalesce(c.witness, b.witness, a.witness) as kept
    from own a left join own b on a.witness = b.removed left join own c on b.witness = c.removed
    order by a.subtask, a.removed"""  # noqa: S608


def final_decisions(lake: Lake, decisions: Ref) -> pa.Table:
    """Return what was removed, its witness, and the kept document at the end of the witnesses.

    An exact copy of a document that went for a near duplicate gets the witness of that document.
    """
    return lake.sql(_FINAL, decisions=decisions).cast(FINAL)


def dropped(lake: Lake, filtered: Ref, candidates: Ref, decisions: Ref) -> Iterator[pa.Table]:
    """Yield every document that is not kept, with the rule that dropped it or the decision that removed it."""
    removed = lake.sql(
        "select removed, subtask, format('{:.4f} like {}', coalesce(jaccard, cosine), witness) from decisions",
        decisions=decisions,
    )
    ids, why = (removed.column(k).combine_chunks() for k in (0, 1))
    details = removed.column(2).combine_chunks()
    schema = _columns(lake, candidates, DROPPED)
    yield schema.empty_table()
    for ref in (filtered, candidates):
        for batch in lake.scan(ref, batch_size=BATCH):
            at = pc.index_in(batch.column("doc_id"), ids)
            columns = {name: batch.column(name) for name in schema.names if name in batch.schema.names}
            columns["reason"], columns["detail"] = (
                pc.coalesce(columns[name], found.take(at)) if name in columns else found.take(at)
                for name, found in (("reason", why), ("detail", details))
            )
            rows = pa.table([columns[name] for name in schema.names], names=schema.names)
            yield rows.filter(pc.is_valid(rows["reason"])).cast(schema)


def kept(lake: Lake, candidates: Ref, decisions: Ref) -> Iterator[pa.Table]:
    """Yield the documents that stay, in the order of the corpus."""
    removed = lake.read(decisions, ["removed"])["removed"].combine_chunks()
    names = (batch.column(0) for batch in lake.scan(candidates, ["doc_id"], IDS))
    stays = np.concatenate([np.zeros(0, bool), *(~pc.is_in(ids, removed).to_numpy(False) for ids in names)])
    schema = _columns(lake, candidates, KEPT)
    yield schema.empty_table()
    at = 0
    for batch in lake.scan(candidates, batch_size=BATCH):
        rows = batch.select(schema.names).filter(pa.array(stays[at : at + len(batch)]))
        at += len(batch)
        yield pa.Table.from_batches([rows]).cast(schema)


def _columns(lake: Lake, candidates: Ref, ours: pa.Schema) -> pa.Schema:
    """Return some columns of ours, then the user's."""
    found = next(iter(lake.scan(candidates, batch_size=1)), None)
    theirs = [] if found is None else [field for field in found.schema if field.name.startswith(GIVEN)]
    return pa.schema([*ours, *theirs])


def as_given(table: pa.Table, text: str) -> pa.Table:
    """Return a table of kept or dropped documents with the user's columns under the user's names, ours behind them.

    Args:
        table: as it is in the lake.
        text: name of the text.
    """
    theirs = [name for name in table.column_names if name.startswith(GIVEN)]
    ours = [name for name in table.column_names if name not in theirs and name != "text"]
    columns = {name.removeprefix(GIVEN): table[name] for name in theirs}
    columns = {name: column for name, column in columns.items() if name not in MADE}  # those of an earlier curation
    columns = {text: table["text"], **columns} if text not in columns else {f"{OURS}text": table["text"], **columns}
    columns |= {OURS + _NAMES.get(name, name): table[name] for name in ours}
    return pa.table(list(columns.values()), names=list(columns))


def totals(lake: Lake, documents: Ref) -> dict[str, dict[str, int]]:
    """Return how many documents of each domain there are and their bytes."""
    found = lake.sql(
        "select domain, count(*) as documents, sum(n_bytes)::bigint as n_bytes from texts group by domain "
        "order by domain",
        texts=documents,
    )
    return {row.pop("domain"): row for row in found.to_pylist()}


def worth_comparing(lake: Lake, candidates: Ref, components: Ref, decisions: Ref, most: int) -> list[dict[str, Any]]:
    """Return id, text and weight of the documents whose meaning is compared.

    Those kept of near-duplicate components come first: where some texts were almost copies, others say the same in
    other words. Else the order is as if at random, the same in every run.

    Args:
        lake: holds the tables.
        candidates: all documents that may stay.
        components: documents that have near duplicates.
        decisions: documents that were removed.
        most: how many to return.
    """
    query = f"""
        select doc_id from candidates anti join decisions on doc_id = removed
        order by doc_id not in (select doc_id from components), sha256(doc_id) limit {int(most)}"""  # noqa: S608
    tables = {"candidates": candidates, "components": components, "decisions": decisions}
    chosen = lake.sql(query, **tables)["doc_id"].combine_chunks()
    found: list[dict[str, Any]] = []
    for batch in lake.scan(candidates, ["doc_id", "text", "weight"], BATCH):
        found += batch.filter(pc.is_in(batch.column(0), chosen)).to_pylist()
    return found


def with_decisions(context: Context, state: State, rows: Sequence[Removal]) -> State:
    """Return the state with more removals in `curation/decisions`."""
    before = context.lake.read(state.refs["curation/decisions"])
    table = pa.concat_tables([before, _table(DECISIONS, rows)])
    return state.add({"curation/decisions": context.lake.write("curation/decisions", table)})


def _table(schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)

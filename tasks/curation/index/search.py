"""Near-duplicate edges of an index: what earlier searches found is taken over, only new candidates are searched for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.curation.index.crowds import Thinned, thin_out
from tasks.curation.index.near_duplicates import EDGES, Join, classes, join_bands, least_equal
from tasks.curation.index.shards import LAYOUT, Index, Recipe
from tasks.curation.index.shingles import I64

PARTITIONS = 8
COMPARED_BEFORE, REPRESENTATIVE = 1, 2  # bits of candidates of which two need no comparison


class Spread(Protocol):
    """Does the same with several things: one after another, or beside each other on workers."""

    def __call__(self, function: Bands, items: Sequence[Any], /) -> list[Path]:
        """Return the results in the order of the things."""
        ...


@dataclass(frozen=True)
class Found:
    """The near-duplicate edges of an index.

    Attributes:
        path: file of the edges: numbers of candidates, i < j, that are no exact copies, in any order.
        crowds: file of the edges between candidates removed from crowds and their witnesses, in the same form.
        first: of each candidate the first one with the same text, (n,).
        witness: of each candidate that was removed from a crowd its witness, -1 of all others, (n,).
        checked: pairs that were compared exactly, over all searches that led here.
        compared_before: candidates that an earlier search had compared with each other.
    """

    path: Path
    crowds: Path
    first: I64
    witness: I64
    checked: int
    compared_before: int


@dataclass(frozen=True)
class _Record:
    """A stored search: its shards and their sizes, in order, and which candidates took no part in it."""

    path: Path
    sizes: dict[str, int]
    checked: int

    def removed(self) -> I64:
        """Return the candidates that were removed from crowds, by their numbers in that search."""
        found: I64 = pq.read_table(self.path / "removed.parquet")["removed"].to_numpy()
        return found


def find_edges(root: Path, index: Index, recipe: Recipe, threshold: float, scratch: Path, spread: Spread) -> Found:
    """Return the near duplicates of an index, and store them for the next search.

    Crowds are thinned out first (`tasks.curation.index.crowds`); pairs of all other candidates are compared, in
    partitions of the bands, on workers where there are any. The result is the same whether the shards came at once or
    one by one.

    Args:
        root: folder of stored searches.
        index: the candidates.
        recipe: how the shards were made.
        threshold: Jaccard similarity.
        scratch: folder for what is passed between the parts.
        spread: does the partitions.
    """
    first = classes(index.gather("fingerprints"))
    alike = _digest(LAYOUT, asdict(recipe), threshold)
    sizes = {shard.key: shard.size for shard in index.shards}
    target = root / f"{alike}-{_digest(list(sizes))}"
    records = [record for path in sorted(root.glob(f"{alike}-*")) if (record := _stored(path)) is not None]
    same = next((record for record in records if record.path == target), None)
    if same is not None:
        os.utime(target)
        return _found(target, first, same.checked, index.size)
    before = max(
        (record for record in records if record.sizes.keys() <= sizes.keys()),
        key=lambda record: sum(record.sizes.values()),
        default=None,
    )
    active = first == np.arange(index.size)
    thinned = thin_out(index, recipe, threshold, active, least_equal(threshold, recipe.permutations))
    active[thinned.removed] = False
    known, compared_before = _known(before, index, first)
    known[thinned.kept] |= REPRESENTATIVE
    active.tofile(scratch / "active")
    known.tofile(scratch / "known")
    join = Join(tuple(shard.folder for shard in index.shards), recipe, threshold, scratch)
    bands = np.array_split(np.arange(recipe.bands), min(PARTITIONS, recipe.bands))
    parts = spread(Bands(join), [part.tolist() for part in bands]) if ((known == 0) & active).any() else []
    checked = thinned.checked + sum(int(pq.read_metadata(path).metadata[b"checked"]) for path in parts)
    checked += before.checked if before is not None else 0
    with _draft(target) as draft:
        with pq.ParquetWriter(draft / "edges.parquet", EDGES, compression="zstd") as writer:
            if before is not None:
                _take_over(before, index, first, active, known, writer)
            for path in parts:
                _copy(path, writer)
        _store_crowds(thinned, draft)
        (draft / "facts.json").write_text(json.dumps({"sizes": sizes, "checked": checked}))
    return _found(target, first, checked, compared_before)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` at the end, or is removed if the block fails."""
    draft = target.with_name(f".{uuid.uuid4().hex}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _store_crowds(thinned: Thinned, folder: Path) -> None:
    """Write the edges between removed candidates of crowds and their witnesses, and the pairs in that order."""
    pairs = np.sort(np.column_stack([thinned.removed, thinned.witness]), axis=1)
    columns = [pa.array(pairs[:, 0]), pa.array(pairs[:, 1]), pa.array(thinned.jaccard)]
    pq.write_table(pa.table(columns, schema=EDGES), folder / "crowds.parquet")
    table = {"removed": thinned.removed, "witness": thinned.witness}
    pq.write_table(pa.table(table), folder / "removed.parquet")


def _found(folder: Path, first: I64, checked: int, compared_before: int) -> Found:
    witness = np.full(len(first), -1, np.int64)
    table = pq.read_table(folder / "removed.parquet")
    witness[table["removed"].to_numpy()] = table["witness"].to_numpy()
    return Found(folder / "edges.parquet", folder / "crowds.parquet", first, witness, checked, compared_before)


@dataclass(frozen=True)
class Bands:
    """Searches some bands; picklable."""

    join: Join

    def __call__(self, bands: list[int]) -> Path:
        """Return the file of the edges that some bands propose."""
        return join_bands(self.join, bands)


def _stored(path: Path) -> _Record | None:
    try:
        facts = json.loads((path / "facts.json").read_text())
    except (OSError, ValueError):
        return None
    return _Record(path, facts["sizes"], facts["checked"])


def _now(record: _Record, index: Index) -> Callable[[I64], I64]:
    """Return a function from the numbers that candidates had in a search to those that they have in an index."""
    now = dict(zip((shard.key for shard in index.shards), index.starts.tolist(), strict=False))
    starts = np.cumsum([0, *record.sizes.values()])
    moved = np.array([now[key] for key in record.sizes], np.int64) - starts[:-1]
    return lambda numbers: numbers + moved[np.searchsorted(starts, numbers, side="right") - 1]


def _known(record: _Record | None, index: Index, first: I64) -> tuple[NDArray[np.uint8], int]:
    """Return COMPARED_BEFORE for candidates that an earlier search compared, else 0, and how many it had."""
    known = np.zeros(index.size, np.uint8)
    if record is None:
        return known, 0
    in_both = np.concatenate([np.full(shard.size, shard.key in record.sizes) for shard in index.shards])
    known[first[in_both]] = COMPARED_BEFORE
    known[first[_now(record, index)(record.removed())]] = 0  # compared with the representatives of their crowds only
    return known, int(in_both.sum())


def _take_over(
    record: _Record,
    index: Index,
    first: I64,
    active: NDArray[np.bool_],
    known: NDArray[np.uint8],
    writer: pq.ParquetWriter,
) -> None:
    """Write the edges of an earlier search by the numbers that its candidates have now, if both still take part."""
    now = _now(record, index)
    with pq.ParquetFile(record.path / "edges.parquet", pre_buffer=False) as file:
        for batch in file.iter_batches():
            numbers = first[now(np.column_stack([batch.column(0).to_numpy(), batch.column(1).to_numpy()]))]
            numbers.sort(axis=1)
            stays = active[numbers].all(axis=1) & ((known[numbers] & REPRESENTATIVE).min(axis=1) == 0)
            columns = [
                pa.array(numbers[stays, 0]),
                pa.array(numbers[stays, 1]),
                batch.column(2).filter(pa.array(stays)),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=EDGES))


def _copy(path: Path, writer: pq.ParquetWriter) -> None:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches():
            writer.write_batch(batch.cast(EDGES))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

"""Near-duplicate edges of an index: what earlier searches found is taken over, only new candidates are searched for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.curation.index.near_duplicates import EDGES, Join, classes, join_bands
from tasks.curation.index.shards import LAYOUT, Index, Recipe
from tasks.curation.index.shingles import I64

PARTITIONS = 8


class Spread(Protocol):
    """Does the same with several things: one after another, or beside each other on workers."""

    def __call__(self, function: Callable[[Any], Path], items: Sequence[Any], /) -> list[Path]:
        """Return the results in the order of the things."""
        ...


@dataclass(frozen=True)
class Found:
    """The near-duplicate edges of an index.

    Attributes:
        path: file of them: numbers of candidates, i < j, of different words each, in any order.
        first: of each candidate the first one with the same words, (n,).
        checked: pairs that were compared exactly, over all searches that led here.
        compared_before: candidates that an earlier search had compared with each other.
    """

    path: Path
    first: I64
    checked: int
    compared_before: int


@dataclass(frozen=True)
class _Record:
    """A stored search: its shards and their sizes, in order."""

    path: Path
    sizes: dict[str, int]
    checked: int


def find_edges(root: Path, index: Index, recipe: Recipe, threshold: float, scratch: Path, spread: Spread) -> Found:
    """Return the near duplicates of an index, and store them for the next search.

    The result is the same whether the shards came at once or one by one: a pair is found or not by its two documents
    alone. Bands are searched in partitions, on workers where there are any; a partition is done once.

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
        return Found(target / "edges.parquet", first, same.checked, index.size)
    before = max(
        (record for record in records if record.sizes.keys() <= sizes.keys()),
        key=lambda record: sum(record.sizes.values()),
        default=None,
    )
    known = np.concatenate(
        [np.zeros(0, bool), *(np.full(s.size, before is not None and s.key in before.sizes) for s in index.shards)]
    )
    old = np.zeros(index.size, bool)
    old[first[known]] = True
    (first == np.arange(index.size)).tofile(scratch / "active")
    old[first].tofile(scratch / "old")
    join = Join(tuple(shard.folder for shard in index.shards), recipe, threshold, scratch)
    bands = np.array_split(np.arange(recipe.bands), min(PARTITIONS, recipe.bands))
    parts = spread(_Bands(join), [part.tolist() for part in bands]) if not known.all() else []
    checked = sum(int(pq.read_metadata(path).metadata[b"checked"]) for path in parts)
    draft = root / f".{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    try:
        with pq.ParquetWriter(draft / "edges.parquet", EDGES, compression="zstd") as writer:
            if before is not None:
                checked += before.checked
                _take_over(before, index, first, writer)
            for path in parts:
                _copy(path, writer)
        (draft / "facts.json").write_text(json.dumps({"sizes": sizes, "checked": checked}))
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Found(target / "edges.parquet", first, checked, int(known.sum()))


@dataclass(frozen=True)
class _Bands:
    """Searches some bands; picklable."""

    join: Join

    def __call__(self, bands: list[int]) -> Path:
        return join_bands(self.join, bands)


def _stored(path: Path) -> _Record | None:
    try:
        facts = json.loads((path / "facts.json").read_text())
    except (OSError, ValueError):
        return None
    return _Record(path, facts["sizes"], facts["checked"])


def _take_over(record: _Record, index: Index, first: I64, writer: pq.ParquetWriter) -> None:
    """Write the edges of an earlier search by the numbers that its candidates have now."""
    now = dict(zip((shard.key for shard in index.shards), index.starts.tolist(), strict=False))
    starts = np.cumsum([0, *record.sizes.values()])
    moved = np.array([now[key] for key in record.sizes], np.int64) - starts[:-1]
    with pq.ParquetFile(record.path / "edges.parquet", pre_buffer=False) as file:
        for batch in file.iter_batches():
            numbers = np.column_stack([batch.column(0).to_numpy(), batch.column(1).to_numpy()])
            numbers = first[numbers + moved[np.searchsorted(starts, numbers, side="right") - 1]]
            numbers.sort(axis=1)
            columns = [pa.array(numbers[:, 0]), pa.array(numbers[:, 1]), batch.column(2)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=EDGES))


def _copy(path: Path, writer: pq.ParquetWriter) -> None:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches():
            writer.write_batch(batch.cast(EDGES))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]

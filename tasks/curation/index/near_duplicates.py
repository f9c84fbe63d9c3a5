"""Near duplicates: MinHash-LSH proposes pairs, exact Jaccard decides each of them.

Two texts are near duplicates when the Jaccard similarity of their sets of shingles reaches the threshold. Texts with
the same shingles that are not equal count as different in one shingle each, so that 1 means an exact copy. MinHash
(Broder 1997; `datasketch`, scheme affine32) only proposes; an edge needs the exact value, so chance collisions never
chain documents together.

Everything large stays on disk: the keys of a band are sorted range by range, at most `SORTED_AT_ONCE` at a time;
DuckDB sorts the edges within `MEMORY` and spills the rest; signatures and shingle sets are mapped and released again.
Memory grows by a few numbers for each candidate.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.curation.index.shards import Index, Recipe
from tasks.curation.index.shingles import I64, U8, U32, U64, compiled, intersection_over_union

MEMORY = "128MB"
PAIRS_AT_ONCE = 30_000
DOCUMENTS_AT_ONCE = 8_192
SORTED_AT_ONCE = 2**20
MISSED = 1e-3
EDGES = pa.schema({"i": pa.int64(), "j": pa.int64(), "jaccard": pa.float64()})
_WORD = re.compile(r"\w+")
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_SEEN_MOST = 26  # 2^26 bytes tell keys that occur once from those that may occur again


def normalised_words(text: str) -> list[str]:
    """Return the lower-case words of a text, as they are compared."""
    return _WORD.findall(text.lower())


def choose_bands(threshold: float, permutations: int, bands: int = 0) -> tuple[int, int]:
    """Return the number of bands and of values in each; permutations that are left over sharpen the estimate only.

    A pair of similarity s is proposed with probability 1 - (1 - s^rows)^bands. Of the divisions that miss less than
    one pair in a thousand at the threshold the one with the longest bands is taken: it proposes least.

    Raises:
        ValueError: there are more bands than permutations.
    """
    if bands > permutations:
        raise ValueError(f"{bands} bands cannot be cut from {permutations} permutations; give at most {permutations}")
    if bands:
        return bands, permutations // bands
    rows = 1
    while rows < permutations and (1 - threshold ** (rows + 1)) ** (permutations // (rows + 1)) <= MISSED:
        rows += 1
    return permutations // rows, rows


@dataclass(frozen=True)
class Join:
    """A search for near duplicates among the candidates of an index.

    Attributes:
        folders: the shards.
        recipe: how they were made.
        threshold: Jaccard similarity.
        scratch: folder for what is passed between the parts. `active` and `known` are there, one byte a candidate:
            which take part, and bits that two candidates share if they were compared before.
    """

    folders: tuple[Path, ...]
    recipe: Recipe
    threshold: float
    scratch: Path


def classes(fingerprints: U64) -> I64:
    """Return for each candidate the first one with the same text."""
    if not len(fingerprints):
        return np.zeros(0, np.int64)
    order = np.lexsort((fingerprints[:, 1], fingerprints[:, 0]))
    ordered = fingerprints[order]
    begins = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    found = np.empty(len(order), np.int64)
    found[order] = order[begins][np.cumsum(begins) - 1]  # the sort is stable: of equal ones the first stands first
    return found


def join_bands(join: Join, bands: Sequence[int]) -> Path:
    """Find the near duplicates that share one of some bands and none before; return the file of edges.

    The file is put in its place when it is complete, so a worker that dies leaves this part to be done again.
    """
    target = join.scratch / f"edges-{bands[0]:04d}.parquet"
    if target.exists():
        return target
    index = Index.open(join.folders, join.recipe)
    active, known = np.fromfile(join.scratch / "active", np.bool_), np.fromfile(join.scratch / "known", np.uint8)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    checked = 0
    with pq.ParquetWriter(draft, EDGES, compression="lz4") as writer:
        for band in bands:
            for rows, starts, ends in _groups(index, band, active):
                for pairs in _proposed(join, index, band, rows, starts, ends, known):
                    checked += len(pairs)
                    jaccard = similarities(index, pairs, join.threshold)
                    near = jaccard >= join.threshold
                    columns = [pa.array(pairs[near, 0]), pa.array(pairs[near, 1]), pa.array(jaccard[near])]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=EDGES))
        writer.add_key_value_metadata({"checked": str(checked)})
    draft.rename(target)
    return target


def similarities(index: Index, pairs: I64, least: float = 0.0) -> NDArray[np.float64]:
    """Return the exact similarity of pairs (m, 2) of candidates; 0 where it cannot reach `least`."""
    if not len(pairs):
        return np.zeros(0)
    rows, inside = np.unique(pairs, return_inverse=True)
    values, ends = index.sets(rows)
    inside = inside.reshape(pairs.shape).astype(np.int64)
    return unequal(intersection_over_union(values, ends, inside, least), np.diff(ends, prepend=0)[inside[:, 0]])


def unequal(jaccard: NDArray[np.float64], sizes: I64) -> NDArray[np.float64]:
    """Return the similarities of texts that are not equal: one more shingle each where their sets are equal."""
    return np.where(jaccard == 1.0, sizes / (sizes + 2), jaccard)


@contextmanager
def _spilling(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that keeps to `MEMORY` and writes what is more into a folder of its own."""
    spill = folder / f"spill-{uuid.uuid4().hex}"
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": MEMORY,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    try:
        with closing(duckdb.connect(config=config)) as connection:
            yield connection
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _groups(index: Index, band: int, active: NDArray[np.bool_]) -> Iterator[tuple[I64, I64, I64]]:
    """Yield candidates that share their key of a band: their numbers, and where each group begins and ends."""
    bits = int(np.clip(np.ceil(np.log2(8 * max(1, index.size))), 10, _SEEN_MOST))
    seen, shift = np.zeros(1 << bits, np.uint8), np.uint64(64 - bits)
    for shard in index.shards:
        _count(shard.band(band), seen, shift)
    often = [
        np.flatnonzero(_often(shard.band(band), seen, shift) & active[start : start + shard.size])
        for shard, start in zip(index.shards, index.starts, strict=False)
    ]
    ranges = sum(map(len, often)) // SORTED_AT_ONCE + 1
    for part in range(ranges):
        keys, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for shard, start, rows in zip(index.shards, index.starts, often, strict=False):
            own = shard.band(band)[rows]
            here = (own >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32) == part
            keys.append(own[here])
            numbers.append(rows[here] + start)
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        key, found = key[order], np.concatenate(numbers)[order]
        at = 0
        while at < len(key):
            end = min(at + DOCUMENTS_AT_ONCE, len(key))
            end = int(np.searchsorted(key, key[end - 1], side="right"))  # a group is not cut
            yield _runs(key[at:end], found[at:end])
            at = end


def _runs(key: U64, rows: I64) -> tuple[I64, I64, I64]:
    edge = np.diff(np.r_[False, key[1:] == key[:-1], False].astype(np.int8))
    return rows, np.flatnonzero(edge == 1), np.flatnonzero(edge == -1) + 1


def _proposed(join: Join, index: Index, band: int, rows: I64, starts: I64, ends: I64, known: U8) -> Iterator[I64]:
    """Yield pairs i < j of groups that may reach the threshold and share no earlier band, in bounded blocks.

    A pair whose estimated similarity lies five standard errors below the threshold is left out: a true pair is lost
    with a probability below one in a million, and the others need not be compared exactly.
    """
    if len(starts):  # a group of which all share a bit has no pair to compare, however large it is
        shared = np.bitwise_and.reduceat(np.r_[known[rows], known[:1]], np.column_stack([starts, ends]).ravel())[::2]
        starts, ends = starts[shared == 0], ends[shared == 0]
    if not len(starts):
        return
    equal = least_equal(join.threshold, join.recipe.permutations)
    inside = np.zeros(len(rows) + 1, np.int64)
    inside[starts] += 1
    inside[ends] -= 1
    grouped = np.unique(rows[np.cumsum(inside[:-1]) > 0])
    signatures = index.signatures(grouped)
    order = np.searchsorted(grouped, rows)  # of rows in no group: anything
    cursor, block = np.zeros(3, np.int64), np.empty((PAIRS_AT_ONCE, 2), np.int64)
    while n := _propose(
        order, starts, ends, cursor, signatures, band, join.recipe.band_rows, known[grouped], equal, block
    ):
        yield grouped[block[:n]]


def least_equal(threshold: float, permutations: int) -> int:
    """Return the equal values below which two signatures are taken for those of texts below the threshold."""
    least = threshold - 5 * np.sqrt(threshold * (1 - threshold) / permutations)
    return max(0, int(np.ceil(least * permutations - 1e-9)))


@compiled
def _count(keys: U64, seen: U8, shift: np.uint64) -> None:
    for key in keys:
        at = (key * _SPREAD) >> shift
        seen[at] = min(seen[at] + 1, 2)


@compiled
def _often(keys: U64, seen: U8, shift: np.uint64) -> NDArray[np.bool_]:
    found = np.empty(len(keys), np.bool_)
    for k in range(len(keys)):
        found[k] = seen[(keys[k] * _SPREAD) >> shift] > 1
    return found


@compiled
def _propose(
    order: I64,
    starts: I64,
    ends: I64,
    cursor: I64,
    signatures: U32,
    band: int,
    band_rows: int,
    known: U8,
    equal: int,
    block: I64,
) -> int:
    """Fill a block with the next pairs of one band; the cursor (group, first, second) says where to go on."""
    found = 0
    group, one, two = cursor[0], cursor[1], cursor[2]
    while group < len(starts):
        low, high = starts[group], ends[group]
        while one < high - low - 1:
            i = order[low + one]
            two = max(two, one + 1)
            while two < high - low:
                if found == len(block):
                    cursor[0], cursor[1], cursor[2] = group, one, two
                    return found
                j = order[low + two]
                two += 1
                if known[i] & known[j]:
                    continue
                count, met = 0, False
                for p in range(signatures.shape[1]):
                    count += signatures[i, p] == signatures[j, p]
                if count < equal:
                    continue
                for earlier in range(band):  # a pair belongs to the first band it shares
                    met = True
                    for p in range(earlier * band_rows, (earlier + 1) * band_rows):
                        if signatures[i, p] != signatures[j, p]:
                            met = False
                            break
                    if met:
                        break
                if not met:
                    block[found, 0], block[found, 1] = min(i, j), max(i, j)
                    found += 1
            one, two = one + 1, 0
        group, one, two = group + 1, 0, 0
    cursor[0], cursor[1], cursor[2] = group, 0, 0
    return found


def component_of(n: int, parts: Sequence[Path]) -> I64:
    """Return for each of n candidates the first one of its connected component, by files of edges."""
    parent = np.arange(n)
    for path in parts:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(columns=["i", "j"]):
                _unite(parent, batch.column(0).to_numpy(), batch.column(1).to_numpy())
    _flatten(parent)
    return parent


@compiled
def _unite(parent: I64, left: I64, right: I64) -> None:
    for k in range(len(left)):
        i, j = left[k], right[k]
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        while parent[j] != j:
            parent[j] = parent[parent[j]]
            j = parent[j]
        if i < j:
            parent[j] = i
        else:
            parent[i] = j


@compiled
def _flatten(parent: I64) -> None:
    for k in range(len(parent)):  # a parent is never larger than its child
        parent[k] = parent[parent[k]]


def by_component(parts: Sequence[Path], component: I64, folder: Path) -> Iterator[tuple[I64, NDArray[np.float64]]]:
    """Yield the edges (m, 2), i < j, and similarities of each component, ordered by its first candidate."""

    def labelled() -> Iterator[pa.RecordBatch]:
        for path in parts:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches():
                    yield pa.record_batch([pa.array(component[batch.column(0).to_numpy()]), *batch], schema=schema)

    schema = pa.schema([("component", pa.int64()), *EDGES])
    edges = pa.RecordBatchReader.from_batches(schema, labelled())  # noqa: F841  (read by DuckDB)
    rest = np.zeros((0, 3), np.int64), np.zeros(0)
    with _spilling(folder) as connection:
        ordered = connection.sql("select * from edges order by component, i, j").to_arrow_reader(PAIRS_AT_ONCE)
        for batch in ordered:
            numbers = np.concatenate([rest[0], np.column_stack([batch.column(k).to_numpy() for k in range(3)])])
            values = np.r_[rest[1], batch.column(3).to_numpy()]
            cuts = np.flatnonzero(np.diff(numbers[:, 0])) + 1
            for a, b in zip(np.r_[0, cuts], cuts, strict=False):
                yield numbers[a:b, 1:], values[a:b]
            last = int(cuts[-1]) if len(cuts) else 0
            rest = numbers[last:], values[last:]
        if len(rest[0]):
            yield rest[0][:, 1:], rest[1]

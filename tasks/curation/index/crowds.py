"""Crowds of near duplicates, thinned out before pairs are compared, so that time stays linear in documents.

A crowd is more than `CROWD` candidates that share the key of a band. All candidates in crowds are taken in the order of
their weights, the heaviest first: one that reaches the threshold with a representative found so far is removed, with
that representative as its witness; any other one becomes a representative, and is kept. Candidates that are compared
share a band, as everywhere; of those that share the same key of a band at most `COMPARED` are compared, the latest
first. What the near duplicates of a crowd have to do with each other is not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.curation.index.shards import Index, Recipe
from tasks.curation.index.shingles import I64, U32, U64, compiled

CROWD = 128
COMPARED = 64
AT_ONCE = 8_192
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_HEADS = 20  # bits of the table of band keys


@dataclass(frozen=True)
class Thinned:
    """The outcome for the candidates in crowds.

    Attributes:
        removed: candidates that are removed, rising.
        witness: for each the representative that it resembles.
        jaccard: how much.
        kept: the representatives, rising; no two of them are near duplicates.
        checked: pairs that were compared exactly.
    """

    removed: I64
    witness: I64
    jaccard: F64
    kept: I64
    checked: int


def thin_out(index: Index, recipe: Recipe, threshold: float, active: NDArray[np.bool_], least_equal: int) -> Thinned:
    """Return which candidates in crowds are removed, and for which representatives.

    Args:
        index: the candidates.
        recipe: how they were made.
        threshold: Jaccard similarity of near duplicates.
        active: candidates that are no exact copies.
        least_equal: equal values of two signatures below which they are not compared exactly.
    """
    crowd = _in_crowds(index, recipe.bands, active)
    weights = index.gather("weights")[crowd] if len(crowd) else np.zeros(0)
    ordered = crowd[np.lexsort((crowd, -weights))]
    kept = _Kept(recipe.permutations, recipe.bands)
    witness, jaccard = np.full(len(ordered), -1, np.int64), np.zeros(len(ordered))
    for start in range(0, len(ordered), AT_ONCE):
        rows = ordered[start : start + AT_ONCE]
        order = np.argsort(rows)
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        signatures = index.signatures(rows[order])
        values, ends = index.sets(rows[order])
        kept.take(rows, place, signatures, values, ends, threshold, least_equal, recipe.band_rows)
        witness[start : start + AT_ONCE], jaccard[start : start + AT_ONCE] = kept.witness, kept.jaccard
    gone = np.flatnonzero(witness >= 0)
    gone = gone[np.argsort(ordered[gone])]
    return Thinned(ordered[gone], witness[gone], jaccard[gone], np.sort(ordered[witness < 0]), kept.checked)


def _in_crowds(index: Index, bands: int, active: NDArray[np.bool_]) -> I64:
    bits = int(np.clip(np.ceil(np.log2(8 * max(1, index.size))), 10, 24))
    found, shift = np.zeros(index.size, np.bool_), np.uint64(64 - bits)
    if index.size <= CROWD:
        return np.zeros(0, np.int64)
    for band in range(bands):
        counts = np.zeros(1 << bits, np.uint32)
        keys = [shard.band(band) for shard in index.shards]
        for part, start in zip(keys, index.starts, strict=False):
            _tally(part, active[start : start + len(part)], counts, shift)
        if counts.max() <= CROWD:
            continue
        for part, start in zip(keys, index.starts, strict=False):
            _mark(part, active[start : start + len(part)], counts, shift, CROWD, found[start : start + len(part)])
    return np.flatnonzero(found)


class _Kept:
    """The representatives found so far: their signatures and sets, and a table from band keys to them."""

    def __init__(self, permutations: int, bands: int) -> None:
        self.witness, self.jaccard = np.zeros(0, np.int64), np.zeros(0)
        self.checked, self._size, self._filled = 0, 0, 0
        self._bands = bands
        self._ids = np.zeros(1024, np.int64)
        self._signatures = np.zeros((1024, permutations), np.uint32)
        self._ends = np.zeros(1024, np.int64)
        self._values = np.zeros(2**18, np.uint64)
        self._heads = np.full(1 << _HEADS, -1, np.int32)
        self._keys, self._next = np.zeros(1024 * bands, np.uint64), np.zeros(1024 * bands, np.int32)

    def take(
        self,
        rows: I64,
        place: I64,
        signatures: U32,
        values: U64,
        ends: I64,
        threshold: float,
        least_equal: int,
        band_rows: int,
    ) -> None:
        """Find the witnesses of some candidates; those without one become representatives."""
        self._reserve(self._size + len(rows), self._filled + len(values))
        self.witness, self.jaccard = np.full(len(rows), -1, np.int64), np.zeros(len(rows))
        self._size, self._filled, checked = _take(
            (rows, place, signatures, values, ends),
            (self._ids, self._signatures, self._values, self._ends, self._heads, self._keys, self._next),
            (self._size, self._filled, self._bands, band_rows, least_equal),
            threshold,
            self.witness,
            self.jaccard,
        )
        self.checked += checked

    def _reserve(self, size: int, filled: int) -> None:
        if size > len(self._ids):
            size = max(size, 2 * len(self._ids))
            self._ids, self._ends = np.resize(self._ids, size), np.resize(self._ends, size)
            grown = np.zeros((size, self._signatures.shape[1]), np.uint32)
            grown[: self._size] = self._signatures[: self._size]
            self._signatures = grown
            self._keys = np.resize(self._keys, size * self._bands)
            self._next = np.resize(self._next, size * self._bands)
        if filled > len(self._values):
            values = np.zeros(max(filled, 2 * len(self._values)), np.uint64)
            values[: self._filled] = self._values[: self._filled]
            self._values = values


@compiled
def _tally(keys: U64, active: NDArray[np.bool_], counts: U32, shift: np.uint64) -> None:
    for k in range(len(keys)):
        if active[k]:
            counts[(keys[k] * _SPREAD) >> shift] += np.uint32(1)


@compiled
def _mark(
    keys: U64, active: NDArray[np.bool_], counts: U32, shift: np.uint64, most: int, found: NDArray[np.bool_]
) -> None:
    for k in range(len(keys)):
        if active[k] and counts[(keys[k] * _SPREAD) >> shift] > most:
            found[k] = True


@compiled
def _take(
    given: tuple[I64, I64, U32, U64, I64],
    kept: tuple[I64, U32, U64, I64, I32, U64, I32],
    numbers: tuple[int, int, int, int, int],
    threshold: float,
    witness: I64,
    jaccard: F64,
) -> tuple[int, int, int]:
    rows, place, signatures, values, ends = given
    ids, kept_signatures, kept_values, kept_ends, heads, keys, following = kept
    size, filled, bands, band_rows, least_equal = numbers
    checked, shift = 0, np.uint64(64 - _HEADS)
    seen, own = np.full(len(ids), -1, np.int64), np.empty(bands, np.uint64)
    for n in range(len(rows)):
        at = place[n]
        signature = signatures[at]
        first, last = (ends[at - 1] if at else 0), ends[at]
        found = -1
        for band in range(bands):
            key = np.uint64(band + 1)
            for p in range(band * band_rows, (band + 1) * band_rows):
                key = (key ^ np.uint64(signature[p])) * _SPREAD
                key ^= key >> np.uint64(31)
            own[band] = key
            entry, compared = heads[(key * _SPREAD) >> shift], 0
            while entry >= 0 and compared < COMPARED:
                k = entry // bands
                if keys[entry] == key and seen[k] != n:
                    seen[k] = n
                    compared += 1
                    equal = 0
                    for p in range(len(signature)):
                        equal += signature[p] == kept_signatures[k, p]
                    if equal >= least_equal:
                        checked += 1
                        start = kept_ends[k - 1] if k else 0
                        value = _jaccard(values, first, last, kept_values, start, kept_ends[k], threshold)
                        if value >= threshold:
                            found = k
                            witness[n], jaccard[n] = ids[k], value
                            break
                entry = following[entry]
            if found >= 0:
                break
        if found >= 0:
            continue
        ids[size] = rows[n]
        kept_signatures[size] = signature
        for s in range(first, last):
            kept_values[filled] = values[s]
            filled += 1
        kept_ends[size] = filled
        for band in range(bands):
            entry, slot = size * bands + band, (own[band] * _SPREAD) >> shift
            keys[entry], following[entry], heads[slot] = own[band], heads[slot], entry
        size += 1
    return size, filled, checked


@compiled
def _jaccard(one: U64, x: int, x_end: int, other: U64, y: int, y_end: int, threshold: float) -> float:
    n, m = x_end - x, y_end - y
    if n == 0 or m == 0 or min(n, m) < threshold * max(n, m):
        return 0.0
    common, total = 0, n + m
    while x < x_end and y < y_end:
        a, b = one[x], other[y]
        common += a == b
        x += a <= b
        y += b <= a
    return common / (total - common) if common < n or common < m else n / (n + 2)

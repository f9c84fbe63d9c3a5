"""Shingle sets and MinHash signatures straight from the bytes of an Arrow array, without a Python loop per word.

A word is a run of what `re` counts as word characters, lower-cased one by one; a shingle is the hash of five words in
a row. The kernels are compiled once by numba and kept beside this file.

Word hash: FNV-1a over code points (Fowler, Noll, Vo) with the finalizer of MurmurHash3. Signature: `datasketch`'s
scheme affine32, min over the set of `a * fmix32(low half of the shingle) + b` mod 2^32, so that the values can be put
into a `datasketch.MinHash` and its indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import numba
import numpy as np
import pyarrow as pa
from datasketch import MinHash
from numpy.typing import NDArray

WORDS = 5
PERMUTATIONS = 128

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

_TABLE = 0x32400  # no code point above is a letter
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FMIX_1, _FMIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SECOND = np.uint64(0xD6E8FEB86659FD93)


def compiled(function: F) -> F:
    """Compile without the interpreter's lock; kept on disk for the next process."""
    return cast("F", numba.njit(cache=True, nogil=True)(function))


@dataclass(frozen=True)
class Sketches:
    """What near-duplicate search needs of a batch of texts.

    Attributes:
        n_words: words of each text, (n,).
        fingerprints: 128 bits that identify the sequence of words, (n, 2).
        shingles: of all texts, one after another, in the order of the words; a repeated one stands there repeatedly.
        ends: where those of each text end, (n,).
    """

    n_words: I64
    fingerprints: U64
    shingles: U64
    ends: I64


def sketch(texts: Sequence[str] | pa.Array, words: int = WORDS) -> Sketches:
    """Return the shingles and fingerprints of texts.

    Args:
        texts: strings, or an Arrow array of them without nulls.
        words: words of a shingle; a shorter text is one shingle, an empty one has none.
    """
    data, offsets = _buffers(texts)
    return Sketches(*_sketch(data, offsets, words, _lower_case()))


def distinct(shingles: U64, ends: I64, rows: I64) -> tuple[U64, I64]:
    """Return the shingle sets of some texts, each rising and without repetitions, and where each ends.

    Args:
        shingles: of all texts, one after another.
        ends: where those of each text end.
        rows: texts to take.
    """
    return _distinct(shingles, ends, rows)


def signatures(shingles: U64, ends: I64, permutations: int = PERMUTATIONS, seed: int = 1) -> U32:
    """Return the MinHash values (n, permutations) of sets of shingles that lie one after another."""
    return _signatures(shingles, ends, *_permutations(permutations, seed))


def intersection_over_union(values: U64, ends: I64, pairs: I64, threshold: float) -> NDArray[np.float64]:
    """Return the exact Jaccard similarity of pairs (m, 2) of rising sets; 0 where it stays below the threshold."""
    return _jaccards(values, ends, pairs, threshold)


@cache
def _permutations(number: int, seed: int) -> tuple[U32, U32]:
    a, b = MinHash(num_perm=number, seed=seed, scheme="affine32").permutations
    return np.asarray(a, np.uint32), np.asarray(b, np.uint32)


@cache
def _lower_case() -> U32:
    """Return for each code point of the table its lower case, or 0 where it belongs to no word."""
    table = np.zeros(_TABLE, np.uint32)
    for point in range(_TABLE):
        character = chr(point)
        if character.isalnum() or character == "_":
            lower = character.lower()
            table[point] = ord(lower) if len(lower) == 1 else point
    return table


def _buffers(texts: Sequence[str] | pa.Array) -> tuple[U8, I64]:
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    if array.type != pa.large_string():
        array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    first = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), first


@compiled
def _finish(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(33))) * _FMIX_1
    value = (value ^ (value >> np.uint64(33))) * _FMIX_2
    return value ^ (value >> np.uint64(33))


@compiled
def _word_hashes(data: U8, start: int, end: int, lower: U32, hashes: U64) -> int:
    """Write the hashes of the words between two bytes of valid UTF-8; return how many there are."""
    count, inside, value, at = 0, False, _FNV_START, start
    while at < end:
        byte = np.uint32(data[at])
        if byte < 0x80:
            point, at = byte, at + 1
        elif byte < 0xE0:
            point = (byte & np.uint32(0x1F)) << np.uint32(6) | np.uint32(data[at + 1]) & np.uint32(0x3F)
            at += 2
        elif byte < 0xF0:
            point = (
                (byte & np.uint32(0x0F)) << np.uint32(12)
                | (np.uint32(data[at + 1]) & np.uint32(0x3F)) << np.uint32(6)
                | np.uint32(data[at + 2]) & np.uint32(0x3F)
            )
            at += 3
        else:
            point = (
                (byte & np.uint32(0x07)) << np.uint32(18)
                | (np.uint32(data[at + 1]) & np.uint32(0x3F)) << np.uint32(12)
                | (np.uint32(data[at + 2]) & np.uint32(0x3F)) << np.uint32(6)
                | np.uint32(data[at + 3]) & np.uint32(0x3F)
            )
            at += 4
        point = lower[point] if point < _TABLE else np.uint32(0)
        if point:
            value = (value ^ np.uint64(point)) * _FNV_PRIME
            inside = True
        elif inside:
            hashes[count] = _finish(value)
            count, inside, value = count + 1, False, _FNV_START
    if inside:
        hashes[count] = _finish(value)
        count += 1
    return count


@compiled
def _sketch(data: U8, offsets: I64, words: int, lower: U32) -> tuple[I64, U64, U64, I64]:
    n = len(offsets) - 1
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    hashes = np.empty(longest // 2 + 1, np.uint64)
    n_words, ends = np.empty(n, np.int64), np.empty(n, np.int64)
    fingerprints = np.empty((n, 2), np.uint64)
    shingles = np.empty((offsets[n] - offsets[0]) // 2 + n, np.uint64)
    filled = 0
    for i in range(n):
        count = _word_hashes(data, offsets[i], offsets[i + 1], lower, hashes)
        n_words[i] = count
        one, two = np.uint64(count), _SECOND
        for k in range(count):
            one = (one ^ hashes[k]) * _MIX
            one ^= one >> np.uint64(29)
            two = (two + hashes[k]) * _SECOND
            two ^= two >> np.uint64(31)
        fingerprints[i, 0], fingerprints[i, 1] = one, two
        size = min(words, count)
        for k in range(count - size + 1 if count else 0):
            mixed = np.uint64(0)
            for offset in range(size):
                mixed = (mixed ^ hashes[k + offset]) * _MIX
                mixed ^= mixed >> np.uint64(29)
            shingles[filled] = mixed
            filled += 1
        ends[i] = filled
    return n_words, fingerprints, shingles[:filled].copy(), ends


@compiled
def _signatures(shingles: U64, ends: I64, a: U32, b: U32) -> U32:
    found = np.full((len(ends), len(a)), np.uint32(0xFFFFFFFF), np.uint32)
    begin = 0
    for i in range(len(ends)):
        row = found[i]
        for k in range(begin, ends[i]):
            h = np.uint32(shingles[k] & np.uint64(0xFFFFFFFF))
            # The compiler widens products of 32 bits to 64, so each step is cut back.
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            h = np.uint32(h ^ (h >> np.uint32(16)))
            for p in range(len(a)):
                value = np.uint32(a[p] * h + b[p])
                row[p] = min(row[p], value)
        begin = ends[i]
    return found


@compiled
def _distinct(shingles: U64, ends: I64, rows: I64) -> tuple[U64, I64]:
    total = 0
    for i in rows:
        total += ends[i] - (ends[i - 1] if i else 0)
    values, found = np.empty(total, np.uint64), np.empty(len(rows), np.int64)
    places = np.empty(65537, np.int64)
    filled = 0
    for k, i in enumerate(rows):
        begin = ends[i - 1] if i else 0
        n = ends[i] - begin
        bits = 1
        while bits < 16 and 1 << bits < n:
            bits += 1
        shift = np.uint64(64 - bits)
        # Hashes are spread evenly: placed by their first bits they are almost in order.
        for b in range((1 << bits) + 1):
            places[b] = 0
        for s in range(begin, ends[i]):
            places[np.int64(shingles[s] >> shift) + 1] += 1
        for b in range(1 << bits):
            places[b + 1] += places[b]
        for s in range(begin, ends[i]):
            bucket = np.int64(shingles[s] >> shift)
            values[filled + places[bucket]] = shingles[s]
            places[bucket] += 1
        last = filled
        for s in range(filled + 1, filled + n):
            value, at = values[s], s
            while at > filled and values[at - 1] > value:
                values[at] = values[at - 1]
                at -= 1
            values[at] = value
        for s in range(filled, filled + n):
            if s == filled or values[s] != values[last - 1]:
                values[last] = values[s]
                last += 1
        filled = last
        found[k] = filled
    return values[:filled].copy(), found


@compiled
def _jaccards(values: U64, ends: I64, pairs: I64, threshold: float) -> NDArray[np.float64]:
    found = np.zeros(len(pairs), np.float64)
    for k in range(len(pairs)):
        i, j = pairs[k, 0], pairs[k, 1]
        x, y = (ends[i - 1] if i else 0), (ends[j - 1] if j else 0)
        x_end, y_end = ends[i], ends[j]
        n, m = x_end - x, y_end - y
        if n == 0 or m == 0 or min(n, m) < threshold * max(n, m):
            continue
        common, left = 0, n + m
        while x < x_end and y < y_end:
            one, two = values[x], values[y]
            common += one == two
            x += one <= two
            y += two <= one
        found[k] = common / (left - common)
    return found

"""Shingle sets and MinHash signatures straight from the bytes of an Arrow array, without a Python loop per word.

A word is a run of letters, digits, `_` and combining marks, lower-cased, or a single character of a script that puts no
spaces between words (Han, Kana, Thai, Lao, Khmer, Myanmar). A shingle is the hash of five words in a row, of two in
texts of fewer than 33 words; of twelve characters in texts of Thai, Lao, Khmer or Myanmar, whose words have several
characters, of five in those of fewer than 80. Texts are compared in normal form C.

Two texts are exact copies if they are equal after runs of white space have become one space. The kernels are compiled
once by numba and kept beside this file.

Word hash: FNV-1a over code points (Fowler, Noll, Vo) with the finalizer of MurmurHash3. Signature: `datasketch`'s
scheme affine32, min over the set of `a * fmix32(low half of the shingle) + b` mod 2^32, so that the values can be put
into a `datasketch.MinHash` and its indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar, cast
from unicodedata import category, decomposition, is_normalized, normalize

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

WORDS = 5
PERMUTATIONS = 128

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

SHORT, SHORT_WORDS = 33, 2  # texts of fewer words have shingles of so many
SYLLABLES, SHORT_SYLLABLES, FEW_SYLLABLES = 12, 5, 80  # characters of a shingle, the same of texts of fewer than 80
_TABLE = 0x32400  # no code point above is a letter
_SINGLE, _SPACE = np.uint32(1 << 31), np.uint32(1 << 30)  # marks of the table; the third: not in normal form C
_DOUBTFUL = np.uint32(1 << 29)
_POINT = np.uint32((1 << 29) - 1)
_JOINERS = (0x200C, 0x200D)  # within words of Persian and of Indic scripts
_UNSPACED = (  # blocks of scripts without spaces between words
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Kana
    (0x31F0, 0x31FF),
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
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
        fingerprints: 128 bits that identify the text, (n, 2).
        sequences: 64 bits that identify the sequence of words, (n,).
        shingles: of all texts, one after another, in the order of the words, repeated ones repeatedly.
        ends: where those of each text end, (n,).
    """

    n_words: I64
    fingerprints: U64
    sequences: U64
    shingles: U64
    ends: I64


def sketch(texts: Sequence[str] | pa.Array, words: int = WORDS, *, ignore_case: bool = False) -> Sketches:
    """Return the shingles and fingerprints of texts.

    Args:
        texts: strings, or an Arrow array of them without nulls.
        words: words of a shingle in texts of at least `SHORT` words; a text with fewer words than a shingle is one
            shingle, an empty one has none.
        ignore_case: whether texts that differ in case alone have one fingerprint.
    """
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    n_words, fingerprints, sequences, shingles, ends, doubtful = _sketch(
        *_buffers(array), words, _characters(), ignore_case
    )
    rows, normal = _in_normal_form(array, np.flatnonzero(doubtful))
    if len(rows):
        own = _sketch(*_buffers(normal), words, _characters(), ignore_case)
        n_words[rows], fingerprints[rows], sequences[rows] = own[:3]
        shingles, ends = _spliced(shingles, ends, rows, *own[3:5])
    return Sketches(n_words, fingerprints, sequences, shingles, ends)


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


@lru_cache(maxsize=8)
def _permutations(number: int, seed: int) -> tuple[U32, U32]:
    """Return the factors, all odd, and the summands of `datasketch.MinHash(number, seed, scheme="affine32")`."""
    generator = np.random.RandomState(seed)  # as datasketch, whose import takes a second
    factors = generator.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, generator.randint(0, 1 << 32, number, dtype=np.uint32)


@cache
def _characters() -> U32:
    """Return for each code point of the table its lower case with its marks; 0 where it separates words."""
    points, characters = np.arange(_TABLE, dtype=np.uint32), list(map(chr, range(_TABLE)))
    lower = list(map(str.lower, characters))
    small = np.fromiter((ord(one) if len(one) == 1 else point for point, one in enumerate(lower)), np.uint32, _TABLE)
    marks = np.fromiter((kind[0] == "M" for kind in map(category, characters)), bool, _TABLE)
    inside = marks | np.fromiter(map(str.isalnum, characters), bool, _TABLE) | np.isin(points, (ord("_"), *_JOINERS))
    table = np.where(inside, small, np.uint32(0))
    table[np.fromiter(map(str.isspace, characters), bool, _TABLE)] = _SPACE
    pairs = (parts.split() for parts in map(decomposition, characters) if parts and parts[0] != "<")
    table[[int(pair[1], 16) for pair in pairs if len(pair) == 2]] |= _DOUBTFUL
    normal = np.fromiter((is_normalized("NFC", one) for one in characters[0x80:]), bool, _TABLE - 0x80)
    table[0x80:][~normal] |= _DOUBTFUL
    table[0x1161:0x1176] |= _DOUBTFUL  # vowels and finals of Hangul compose by rule
    table[0x11A8:0x11C3] |= _DOUBTFUL
    for first, last in _UNSPACED:
        block = table[first : last + 1]
        block[block > 0] |= _SINGLE
    return table


def _buffers(array: pa.Array) -> tuple[U8, I64]:
    if array.type != pa.large_string():
        array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    first = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    letters = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    for buffer in (letters, first):
        buffer.flags.writeable = False  # some are, some are not: functions would be compiled for each kind
    return letters, first


def _in_normal_form(texts: pa.Array, rows: I64) -> tuple[I64, pa.Array]:
    """Return those of some texts that are not in normal form C, as positions, and what they are in that form."""
    changed = [(k, normalize("NFC", text)) for k in rows.tolist() if not is_normalized("NFC", text := texts[k].as_py())]
    return np.array([k for k, _ in changed], np.int64), pa.array([text for _, text in changed], pa.large_string())


@compiled
def _spliced(shingles: U64, ends: I64, rows: I64, own: U64, own_ends: I64) -> tuple[U64, I64]:
    """Return shingles and ends with those of some texts, at rising positions, replaced by others."""
    found, last = np.empty(len(shingles) + len(own), np.uint64), np.empty(len(ends), np.int64)
    filled, k = 0, 0
    for i in range(len(ends)):
        if k < len(rows) and rows[k] == i:
            source, begin, end = own, own_ends[k - 1] if k else 0, own_ends[k]
            k += 1
        else:
            source, begin, end = shingles, ends[i - 1] if i else 0, ends[i]
        for s in range(begin, end):
            found[filled] = source[s]
            filled += 1
        last[i] = filled
    return found[:filled].copy(), last


@compiled
def _finish(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(33))) * _FMIX_1
    value = (value ^ (value >> np.uint64(33))) * _FMIX_2
    return value ^ (value >> np.uint64(33))


@compiled
def _mixed(rest: np.uint64, run: np.uint64, count: int, point: np.uint32) -> np.uint64:
    """Add a character and its place, behind how many runs and words it is, to the 64 bits of a text."""
    rest = (rest ^ (run << np.uint64(42)) ^ (np.uint64(count) << np.uint64(21)) ^ np.uint64(point)) * _FNV_PRIME
    return rest ^ (rest >> np.uint64(29))


@compiled
def _decoded(data: U8, at: int) -> tuple[np.uint32, int]:
    """Return the code point that begins at a byte beyond ASCII, and where the next one begins."""
    byte = np.uint32(data[at])
    tail = np.uint32(data[at + 1]) & np.uint32(0x3F)
    if byte < 0xE0:
        return (byte & np.uint32(0x1F)) << np.uint32(6) | tail, at + 2
    tail = tail << np.uint32(6) | np.uint32(data[at + 2]) & np.uint32(0x3F)
    if byte < 0xF0:
        return (byte & np.uint32(0x0F)) << np.uint32(12) | tail, at + 3
    tail = tail << np.uint32(6) | np.uint32(data[at + 3]) & np.uint32(0x3F)
    return (byte & np.uint32(0x07)) << np.uint32(18) | tail, at + 4


@compiled
def _word_hashes(
    data: U8, start: int, end: int, table: U32, ignore_case: bool, hashes: U64
) -> tuple[int, np.uint64, bool, int]:
    """Write the hashes of the words between two bytes of valid UTF-8.

    Returns:
        How many words there are; 64 bits for what the words do not tell of the text: signs between words, capital
        letters, and where white space is; whether the text may be in another form than C; and how many words are
        characters of Thai and its like.
    """
    count, inside, value, at = 0, False, _FNV_START, start
    run, in_run, rest, doubtful, syllables = np.uint64(0), False, _SECOND, False, 0
    while at < end:
        byte = data[at]
        if byte < 0x80:
            point, at = np.uint32(byte), at + 1
            entry = table[byte]
        else:
            point, at = _decoded(data, at)
            entry = table[point] if point < _TABLE else np.uint32(0)
        if entry == point and entry:  # a small letter or a digit, as most characters are
            if not inside:
                if in_run:
                    rest = _mixed(rest, run, count, point)
                inside = in_run = True
            value = (value ^ np.uint64(point)) * _FNV_PRIME
            continue
        if entry == _SPACE:
            if inside:
                hashes[count] = _finish(value)
                count, inside, value = count + 1, False, _FNV_START
            run += np.uint64(in_run)
            in_run = False
            continue
        doubtful |= (entry & _DOUBTFUL) != 0
        lower, single = entry & _POINT, (entry & _SINGLE) != 0
        begins = in_run and lower != 0 and (single or not inside)  # behind a sign or a single character
        if begins or not point or (lower != point and not (ignore_case and lower)):
            length = value if inside else np.uint64(0)  # of a word: where in it the capital is
            rest = _mixed(rest ^ length, run, count, lower if ignore_case and lower else point)
        in_run = True
        if lower and not single:
            value, inside = (value ^ np.uint64(lower)) * _FNV_PRIME, True
            continue
        if inside:
            hashes[count] = _finish(value)
            count, inside, value = count + 1, False, _FNV_START
        if lower:
            hashes[count] = _finish((_FNV_START ^ np.uint64(lower)) * _FNV_PRIME)
            count += 1
            syllables += int(point < 0x2000)
    if inside:
        hashes[count] = _finish(value)
        count += 1
    return count, _finish(rest), doubtful, syllables


@compiled
def _sketch(data: U8, offsets: I64, words: int, table: U32, ignore_case: bool) -> tuple[I64, U64, U64, U64, I64, Any]:
    n = len(offsets) - 1
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    hashes = np.empty(longest + 1, np.uint64)
    n_words, ends = np.empty(n, np.int64), np.empty(n, np.int64)
    fingerprints, sequences = np.empty((n, 2), np.uint64), np.empty(n, np.uint64)
    shingles = np.empty((offsets[n] - offsets[0]) // 2 + n, np.uint64)
    doubtful = np.zeros(n, np.bool_)
    filled = 0
    for i in range(n):
        count, rest, doubtful[i], syllables = _word_hashes(data, offsets[i], offsets[i + 1], table, ignore_case, hashes)
        n_words[i] = count
        one, two = np.uint64(count), _SECOND
        for k in range(count):
            one = (one ^ hashes[k]) * _MIX
            one ^= one >> np.uint64(29)
            two = (two + hashes[k]) * _SECOND
            two ^= two >> np.uint64(31)
        sequences[i] = one
        fingerprints[i, 0], fingerprints[i, 1] = (one ^ rest) * _MIX, (two + rest) * _SECOND
        if 2 * syllables > count:
            size = SYLLABLES if count >= FEW_SYLLABLES else SHORT_SYLLABLES
        else:
            size = words if count >= SHORT else min(words, SHORT_WORDS)
        size = min(size, count)
        if filled + count > len(shingles):  # single characters of two bytes
            larger = np.empty(2 * (filled + count), np.uint64)
            larger[:filled] = shingles[:filled]
            shingles = larger
        for k in range(count - size + 1 if count else 0):
            mixed = np.uint64(0)
            for offset in range(size):
                mixed = (mixed ^ hashes[k + offset]) * _MIX
                mixed ^= mixed >> np.uint64(29)
            shingles[filled] = mixed
            filled += 1
        ends[i] = filled
    return n_words, fingerprints, sequences, shingles[:filled].copy(), ends, doubtful


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

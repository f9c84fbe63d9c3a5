"""Exact and near duplicates: hashed shingles, MinHash-LSH candidates, and exact Jaccard for every edge.

Two texts are exact duplicates when their lower-case words agree; near duplicates when the Jaccard similarity of
their sets of 5-word shingles reaches the threshold. MinHash (Broder 1997; `datasketch`, scheme affine32) only
proposes pairs; no edge stands without the exact value, so chance collisions never chain documents together.

Memory: about 2 kB a document (512 bytes of signature, 256 of band keys, the names and books of the caller), so 2 GB
for a million, and about 300 bytes a found pair. The texts are not kept, and the shingles (8 bytes each) lie in a
file that is mapped, not loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

WORDS = 5
BANDS, ROWS = 32, 4
PERMUTATIONS = BANDS * ROWS
PAIRS_AT_ONCE = 200_000
_WORD = re.compile(r"\w+")
_CACHE = 1_000_000
_SLICE = 65_536

U64 = NDArray[np.uint64]
Pairs = NDArray[np.int64]


def normalised_words(text: str) -> list[str]:
    """Return the lower-case words of a text; texts with the same words are exact duplicates."""
    return _WORD.findall(text.lower())


def fingerprint(words: list[str]) -> bytes:
    """Return 16 bytes that identify the words."""
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()


@dataclass
class Shingler:
    """Hashes the sets of 5-word shingles of texts; remembers the hashes of words it has met."""

    words: int = WORDS
    _hashes: dict[str, int] = field(default_factory=dict)

    def shingles(self, words: list[str]) -> U64:
        """Return the sorted distinct 64-bit hashes of all runs of 5 words; a shorter text is one shingle."""
        if not words:
            return np.zeros(0, np.uint64)
        if len(self._hashes) > _CACHE:
            self._hashes.clear()
        known = self._hashes
        values = np.array([known.get(w) or known.setdefault(w, _word_hash(w)) for w in words], np.uint64)
        size = min(self.words, len(words))
        mixed = np.zeros(len(words) - size + 1, np.uint64)
        for offset in range(size):
            mixed = (mixed ^ values[offset : len(values) - size + 1 + offset]) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        return np.unique(mixed)


class ShingleSets:
    """The shingle sets of many texts, in a file; filled first, then read at random."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = path.open("wb")
        self._ends: list[int] = [0]
        self._values: U64 = np.zeros(0, np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        self._values = np.zeros(0, np.uint64)
        self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, shingles: U64) -> None:
        """Add the sorted set of the next text.

        Raises:
            ValueError: the sets were already sealed.
        """
        if self._stream is None:
            raise ValueError("the shingle sets are sealed")
        self._stream.write(shingles.tobytes())
        self._ends.append(self._ends[-1] + len(shingles))

    def seal(self) -> None:
        """End filling and map the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            if self._ends[-1]:
                self._values = np.memmap(self._path, np.uint64, "r")

    def __getitem__(self, index: int) -> U64:
        return self._values[self._ends[index] : self._ends[index + 1]]

    def jaccard(self, i: int, j: int, least: float = 0.0) -> float:
        """Return the exact similarity; 0 without counting where the sizes alone keep it below `least`."""
        small, large = sorted((self[i], self[j]), key=len)
        if not len(small) or len(small) < least * len(large):
            return 0.0
        at = np.searchsorted(large, small)
        at[at == len(large)] = 0
        common = int(np.count_nonzero(large[at] == small))
        return common / (len(small) + len(large) - common)


def signature(shingles: U64, template: MinHash) -> NDArray[np.uint32]:
    """Return the 128 MinHash values of a shingle set; a `datasketch` index of the same template understands them."""
    sketch = template.copy()
    low = (shingles & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    for start in range(0, len(low), _SLICE):
        sketch.update_batch(low[start : start + _SLICE].tolist())
    values: NDArray[np.uint32] = sketch.hashvalues
    return values


def minhash_template(seed: int = 1) -> MinHash:
    """Return the empty MinHash from which all signatures of a run are made: 128 permutations, scheme affine32."""
    return MinHash(num_perm=PERMUTATIONS, seed=seed, scheme="affine32", hashfunc=int)


def candidates(signatures: NDArray[np.uint32], bands: int = BANDS) -> Iterator[Pairs]:
    """Yield pairs i < j that share at least one band, each once, in blocks of bounded size.

    With 32 bands of 4 rows a pair of similarity s is proposed with probability 1 - (1 - s^4)^32: .9998 at .7.
    """
    rows = signatures.shape[1] // bands
    keys = np.zeros((len(signatures), bands), np.uint64)
    for row in range(rows):
        keys = (keys ^ signatures[:, row::rows]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(31)
    for band in range(bands):
        for pairs in _same_key(keys[:, band]):
            # A pair belongs to the first band it shares: nothing has to be remembered about earlier bands.
            met = (keys[pairs[:, 0], :band] == keys[pairs[:, 1], :band]).any(axis=1)
            if not met.all():
                yield pairs[~met]


def plausible(proposed: Iterable[Pairs], signatures: NDArray[np.uint32], threshold: float) -> Iterator[Pairs]:
    """Let pairs pass whose estimated similarity is at most five standard errors below the threshold.

    A true pair is lost with a probability below one in a million; the others need not be compared exactly.
    """
    perms = signatures.shape[1]
    least = threshold - 5 * np.sqrt(threshold * (1 - threshold) / perms)
    for pairs in proposed:
        for start in range(0, len(pairs), _SLICE):
            block = pairs[start : start + _SLICE]
            equal = (signatures[block[:, 0]] == signatures[block[:, 1]]).sum(axis=1)
            kept = block[equal >= least * perms - 1e-9]
            if len(kept):
                yield kept


def _same_key(keys: U64) -> Iterator[Pairs]:
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0, True])
    waiting: list[Pairs] = []
    held = 0
    for low, high in pairwise(starts.tolist()):
        members = order[low:high]
        for k in range(len(members) - 1):
            block = np.column_stack((np.full(len(members) - 1 - k, members[k]), members[k + 1 :]))
            waiting.append(block.astype(np.int64))
            held += len(block)
            if held >= PAIRS_AT_ONCE:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting)


@dataclass(frozen=True)
class Edges:
    """Verified near-duplicate pairs.

    Attributes:
        pairs: (m, 2), i < j, sorted.
        jaccard: their exact similarity.
        candidates: number of pairs that were checked.
    """

    pairs: Pairs
    jaccard: NDArray[np.float64]
    candidates: int


def verified_edges(proposed: Iterable[Pairs], sets: ShingleSets, threshold: float) -> Edges:
    """Keep the proposed pairs whose exact Jaccard similarity reaches the threshold."""
    kept: list[tuple[int, int, float]] = []
    checked = 0
    for block in proposed:
        checked += len(block)
        for i, j in block.tolist():
            similarity = sets.jaccard(i, j, threshold)
            if similarity >= threshold:
                kept.append((i, j, similarity))
    kept.sort()
    pairs = np.array([(i, j) for i, j, _ in kept], np.int64).reshape(-1, 2)
    return Edges(pairs, np.array([s for *_, s in kept], np.float64), checked)


def components(n: int, pairs: Pairs) -> list[NDArray[np.int64]]:
    """Return the connected components of at least two documents, members sorted, ordered by their first member."""
    if not len(pairs):
        return []
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    ends = np.flatnonzero(np.diff(label[order])) + 1
    return sorted((part for part in np.split(order, ends) if len(part) > 1), key=lambda part: int(part[0]))


def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") | 1

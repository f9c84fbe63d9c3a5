"""Near duplicates: MinHash-LSH proposes pairs, exact Jaccard decides each of them.

Two texts are near duplicates when the Jaccard similarity of their sets of 5-word shingles reaches the threshold.
MinHash (Broder 1997; `datasketch`, scheme affine32) only proposes; no edge stands without the exact value, so chance
collisions never chain documents together.

Memory: about 2 kB a document (512 bytes of signature, 256 of band keys, the names and books of the caller), so 2 GB
for a million, and 24 bytes a found pair. The texts are not kept, and the shingles (8 bytes each) lie in a file that
is mapped, not loaded.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.curation.shingles import compiled, intersection_over_union, make_sets

BANDS, ROWS = 32, 4
PAIRS_AT_ONCE = 200_000
_WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)

U64 = NDArray[np.uint64]
Pairs = NDArray[np.int64]


def normalised_words(text: str) -> list[str]:
    """Return the lower-case words of a text; texts with the same words are exact duplicates."""
    return _WORD.findall(text.lower())


class ShingleSets:
    """The shingle sets of many texts, in a file; filled first, then compared.

    Only the texts that are compared have their shingles sorted, each once, in the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = path.open("wb")
        self._ends = array("q")
        self._values: U64 = np.zeros(0, np.uint64)
        self._sizes: Pairs = np.zeros(0, np.int64)

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
        return len(self._ends)

    def append(self, shingles: U64, ends: NDArray[np.int64]) -> None:
        """Add the shingles of the next texts.

        Args:
            shingles: of all of them, one after another.
            ends: where those of each end.

        Raises:
            ValueError: the sets were already sealed.
        """
        if self._stream is None:
            raise ValueError("the shingle sets are sealed")
        self._stream.write(shingles.tobytes())
        self._ends.frombytes((ends + (self._ends[-1] if self._ends else 0)).astype(np.int64).tobytes())

    def seal(self) -> None:
        """End filling and map the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            if self._ends and self._ends[-1]:
                self._values = np.memmap(self._path, np.uint64, "r+")
            self._sizes = np.full(len(self._ends), -1, np.int64)

    def jaccards(self, pairs: Pairs, least: float = 0.0) -> NDArray[np.float64]:
        """Return the exact similarity of pairs (m, 2); 0 where it cannot reach `least`."""
        ends, rows = np.frombuffer(self._ends, np.int64), np.unique(pairs)
        make_sets(self._values, ends, rows[self._sizes[rows] < 0], self._sizes)
        return intersection_over_union(self._values, ends, self._sizes, pairs, least)


def candidates(signatures: NDArray[np.uint32], threshold: float = 0.0, bands: int = BANDS) -> Iterator[Pairs]:
    """Yield pairs i < j that share a band and may reach the threshold, each once, in blocks of bounded size.

    With 32 bands of 4 rows a pair of similarity s is proposed with probability 1 - (1 - s^4)^32: .9998 at .7. A pair
    whose estimated similarity lies five standard errors below the threshold is left out: a true pair is lost with a
    probability below one in a million, and the others need not be compared exactly.
    """
    perms = signatures.shape[1]
    rows = perms // bands
    least = threshold - 5 * np.sqrt(threshold * (1 - threshold) / perms)
    equal = max(0, int(np.ceil(least * perms - 1e-9)))
    keys = np.zeros((len(signatures), bands), np.uint64)
    for row in range(rows):
        keys = (keys ^ signatures[:, row::rows]) * _MIX
        keys ^= keys >> np.uint64(31)
    for band in range(bands):
        order = np.argsort(keys[:, band], kind="stable")
        same = np.diff(keys[order, band]) == 0 if len(order) else np.zeros(0, bool)
        edge = np.diff(np.r_[False, same, False].astype(np.int8))
        starts, ends = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1) + 1
        cursor, block = np.zeros(3, np.int64), np.empty((PAIRS_AT_ONCE, 2), np.int64)
        while n := _propose(order, starts, ends, cursor, keys, band, signatures, equal, block):
            yield block[:n].copy()


@compiled
def _propose(
    order: Pairs,
    starts: Pairs,
    ends: Pairs,
    cursor: Pairs,
    keys: U64,
    band: int,
    signatures: NDArray[np.uint32],
    equal: int,
    block: Pairs,
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
                met = False
                for earlier in range(band):  # a pair belongs to the first band it shares
                    if keys[i, earlier] == keys[j, earlier]:
                        met = True
                        break
                if met:
                    continue
                count = 0
                for p in range(signatures.shape[1]):
                    count += signatures[i, p] == signatures[j, p]
                if count >= equal:
                    block[found, 0], block[found, 1] = min(i, j), max(i, j)
                    found += 1
            one, two = one + 1, 0
        group, one, two = group + 1, 0, 0
    cursor[0], cursor[1], cursor[2] = group, 0, 0
    return found


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
    kept: list[Pairs] = [np.zeros((0, 2), np.int64)]
    similar: list[NDArray[np.float64]] = [np.zeros(0)]
    checked = 0
    for block in proposed:
        checked += len(block)
        jaccard = sets.jaccards(block, threshold)
        near = jaccard >= threshold
        kept.append(block[near])
        similar.append(jaccard[near])
    pairs, jaccard = np.concatenate(kept), np.concatenate(similar)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return Edges(pairs[order], jaccard[order], checked)


def components(n: int, pairs: Pairs) -> list[NDArray[np.int64]]:
    """Return the connected components of at least two documents, members sorted, ordered by their first member."""
    if not len(pairs):
        return []
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    members = np.flatnonzero(np.bincount(label)[label] > 1)
    order = members[np.argsort(label[members], kind="stable")]
    ends = np.flatnonzero(np.diff(label[order])) + 1
    return sorted(np.split(order, ends), key=lambda part: int(part[0]))

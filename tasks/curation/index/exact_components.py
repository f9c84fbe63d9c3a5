"""Near-duplicate components by the exact Jaccard similarity of all pairs: for banks of a few thousand texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from tasks.curation.index.shingles import WORDS, Sketches, sketch


@dataclass(frozen=True)
class Found:
    """A connected component of three texts or more that is no clique.

    Attributes:
        rows: positions of its texts, rising.
        edges: (m, 2) positions within `rows`, i < j.
        words: number of words of each of its texts.
        threshold: similarity from which two texts are joined.
        group: first of the texts that it is connected to at the lowest threshold that was looked at.
    """

    rows: tuple[int, ...]
    edges: NDArray[np.int64]
    words: tuple[int, ...]
    threshold: float
    group: int


def exact_components(texts: Sequence[str], thresholds: Sequence[float]) -> list[Found]:
    """Return the components at each of some thresholds, in turn.

    Similarity is the Jaccard coefficient of the sets of 5-word shingles of lower-case words; of texts with the same
    words the first one counts. Components of one group may share texts; those of different groups share none.
    """
    found = sketch(texts)
    _, first = np.unique(found.sequences, return_index=True)
    rows = np.sort(first[found.n_words[first] >= WORDS])
    lengths = found.n_words[rows]
    left, right, jaccard = _similar(found, rows, min(thresholds))
    group = _labels(len(rows), left, right)
    parts: list[Found] = []
    for threshold in thresholds:
        near = jaccard >= threshold
        parts += _parts(rows, lengths, (left[near], right[near]), threshold, group)
    return parts


def exact_pairs(texts: Sequence[str], least: float) -> NDArray[np.int64]:
    """Return the pairs (m, 2) of texts, i < j, whose Jaccard coefficient, as above, is at least `least`."""
    found = sketch(texts)
    rows = np.flatnonzero(found.n_words >= WORDS)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    left, right, _ = _similar(found, rows, least)
    return np.stack([rows[left], rows[right]], axis=1)


def _similar(
    found: Sketches, rows: NDArray[np.int64], least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of rows and their similarity where it is at least `least`, by one sparse product."""
    starts = found.ends - np.diff(found.ends, prepend=0)
    _, column = np.unique(found.shingles, return_inverse=True)
    sets = csr_array((np.ones(len(column), np.int32), column, np.r_[starts, found.ends[-1:]]))[rows]
    sets.sum_duplicates()
    sets.data[:] = 1
    sizes = np.diff(sets.indptr)
    shared = sets[:, np.bincount(sets.indices, minlength=sets.shape[1]) > 1]
    common = (shared @ shared.T).tocoo()
    upper = common.row < common.col
    left, right, both = common.row[upper], common.col[upper], common.data[upper]
    jaccard = both / (sizes[left] + sizes[right] - both)
    near = jaccard >= least
    return left[near].astype(np.int64), right[near].astype(np.int64), jaccard[near]


def _labels(size: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the connected component of each text."""
    links = coo_array((np.ones(len(left)), (left, right)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def _parts(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    threshold: float,
    group: NDArray[np.int64],
) -> list[Found]:
    left, right = pairs
    label = _labels(len(rows), left, right)
    sizes, edges = np.bincount(label, minlength=1), np.bincount(label[left], minlength=label.max(initial=0) + 1)
    found = []
    for part in np.flatnonzero((sizes >= 3) & (edges < sizes * (sizes - 1) // 2)):
        members = np.flatnonzero(label == part)
        inside = label[left] == part
        positions = np.searchsorted(members, np.column_stack((left[inside], right[inside])))
        first = int(rows[np.argmax(group == group[members[0]])])
        words = tuple(lengths[members].tolist())
        found.append(Found(tuple(rows[members].tolist()), positions, words, threshold, first))
    return found

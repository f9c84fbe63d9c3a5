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
    """

    rows: tuple[int, ...]
    edges: NDArray[np.int64]
    words: tuple[int, ...]


def exact_components(texts: Sequence[str], thresholds: Sequence[float], wanted: int) -> tuple[float, list[Found]]:
    """Return the components at the first threshold that gives at least `wanted` of them, else at the last one.

    Similarity is the Jaccard coefficient of the sets of 5-word shingles of lower-case words; of texts with the same
    words the first one counts.

    Args:
        texts: the texts.
        thresholds: falling.
        wanted: how many components are enough.
    """
    found = sketch(texts)
    _, first = np.unique(found.sequences, return_index=True)
    rows = np.sort(first[found.n_words[first] >= WORDS])
    lengths = found.n_words[rows]
    left, right, jaccard = _similar(found, rows, min(thresholds))
    parts: list[Found] = []
    for threshold in thresholds:
        near = jaccard >= threshold
        parts = _parts(rows, lengths, left[near], right[near])
        if len(parts) >= wanted:
            return threshold, parts
    return thresholds[-1], parts


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


def _parts(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> list[Found]:
    links = coo_array((np.ones(len(left)), (left, right)), shape=(len(rows), len(rows)))
    _, label = connected_components(links, directed=False)
    sizes, edges = np.bincount(label, minlength=1), np.bincount(label[left], minlength=label.max(initial=0) + 1)
    found = []
    for part in np.flatnonzero((sizes >= 3) & (edges < sizes * (sizes - 1) // 2)):
        members = np.flatnonzero(label == part)
        inside = label[left] == part
        pairs = np.searchsorted(members, np.column_stack((left[inside], right[inside])))
        found.append(Found(tuple(rows[members].tolist()), pairs, tuple(lengths[members].tolist())))
    return found

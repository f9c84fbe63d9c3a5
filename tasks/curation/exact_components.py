"""Near-duplicate components by the exact Jaccard similarity of all pairs: for banks of a few thousand texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
_WORD = re.compile(r"\w+")


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
    words = [_WORD.findall(text.lower()) for text in texts]
    first: dict[str, int] = {}
    for row, found in enumerate(words):
        if len(found) >= SHINGLE:
            first.setdefault(" ".join(found), row)
    rows = np.array(list(first.values()), np.int64)
    lengths = np.array([len(words[row]) for row in rows], np.int64)
    left, right, jaccard = _similar(list(first), min(thresholds)) if len(rows) > 1 else (rows[:0],) * 3
    parts: list[Found] = []
    for threshold in thresholds:
        near = jaccard >= threshold
        parts = _parts(rows, lengths, left[near], right[near])
        if len(parts) >= wanted:
            return threshold, parts
    return thresholds[-1], parts


def _similar(texts: Sequence[str], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    from sklearn.feature_extraction.text import CountVectorizer  # here, not above: the arms load without it

    split: dict[str, Any] = {"tokenizer": str.split, "token_pattern": None, "lowercase": False}
    sets = CountVectorizer(binary=True, ngram_range=(SHINGLE, SHINGLE), dtype=np.int32, **split).fit_transform(texts)
    sizes = np.asarray(sets.sum(axis=1)).ravel()
    shared = sets[:, np.asarray(sets.sum(axis=0)).ravel() > 1]
    common = (shared @ shared.T).tocoo()
    upper = common.row < common.col
    left, right, both = common.row[upper], common.col[upper], common.data[upper]
    jaccard = both / (sizes[left] + sizes[right] - both)
    near = jaccard >= least
    return left[near].astype(np.int64), right[near].astype(np.int64), jaccard[near]


def _parts(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> list[Found]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(rows), len(rows)))
    _, label = connected_components(links, directed=False)
    sizes, edges = np.bincount(label, minlength=1), np.bincount(label[left], minlength=label.max(initial=0) + 1)
    found = []
    for part in np.flatnonzero((sizes >= 3) & (edges < sizes * (sizes - 1) // 2)):
        members = np.flatnonzero(label == part)
        inside = label[left] == part
        pairs = np.searchsorted(members, np.column_stack((left[inside], right[inside])))
        found.append(Found(tuple(rows[members].tolist()), pairs, tuple(lengths[members].tolist())))
    return found

"""Published independent-set instances that are given by a construction, so that no file is needed.

They are instances of QOBLIB, class 7 (Koch et al., "Quantum Optimization Benchmarking Library", arXiv 2504.03832):
complements of the DIMACS clique graphs `hamming` and `johnson` (Hasselberg, Pardalos, Vairaktarakis, J. Global
Optimization 3 (1993)), Sloane's graphs of error-correcting codes `1dc` and `2dc` ("Challenge problems: independent sets
in graphs"; an independent set is a code that corrects one or two deletions), and Zachary's karate club (1977), which
networkx holds. Nodes weigh 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations

import networkx
import numpy as np

from tasks.combinatorial.independent_set import Graph


def hamming(bits: int, distance: int) -> Graph:
    """Return the graph of all words of some bits, joined where they differ in fewer than `distance` places."""
    words = range(1 << bits)
    return _graph(len(words), ((a, b) for a, b in combinations(words, 2) if (a ^ b).bit_count() < distance))


def johnson(bits: int, ones: int, distance: int) -> Graph:
    """Return the same graph of the words with so many ones."""
    words = [w for w in range(1 << bits) if w.bit_count() == ones]
    return _graph(
        len(words),
        ((i, j) for (i, a), (j, b) in combinations(enumerate(words), 2) if (a ^ b).bit_count() < distance),
    )


def deletions(bits: int, lost: int) -> Graph:
    """Return the graph of all words of some bits, joined where both can become the same word by losing some bits."""
    left = [_shorter(f"{word:0{bits}b}", lost) for word in range(1 << bits)]
    return _graph(1 << bits, ((i, j) for i, j in combinations(range(1 << bits), 2) if left[i] & left[j]))


def karate_club() -> Graph:
    """Return Zachary's karate club: two members are joined if they met outside the club."""
    return _graph(34, networkx.karate_club_graph().edges())


# Family, maker and independence number of each instance.
PUBLISHED: Mapping[str, tuple[str, Callable[[], Graph], int]] = {
    "hamming6-2": ("hamming", partial(hamming, 6, 2), 32),
    "hamming6-4": ("hamming", partial(hamming, 6, 4), 4),
    "johnson8-2-4": ("johnson", partial(johnson, 8, 2, 4), 4),
    "johnson8-4-4": ("johnson", partial(johnson, 8, 4, 4), 14),
    "1dc.64": ("deletions", partial(deletions, 6, 1), 10),
    "2dc.128": ("deletions", partial(deletions, 7, 2), 5),
    "karate": ("karate", karate_club, 20),
}


def _shorter(word: str, lost: int) -> frozenset[str]:
    found = {word}
    for _ in range(lost):
        found = {w[:k] + w[k + 1 :] for w in found for k in range(len(w))}
    return frozenset(found)


def _graph(n: int, edges: Iterable[tuple[int, int]]) -> Graph:
    return Graph.of([1.0] * n, np.array(list(edges), np.int64).reshape(-1, 2))

"""The instance bank of `state_loading`: vectors of real texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.preprocessing.state_loading.codes import principal_axes
from tasks.preprocessing.state_loading.problem import Loading
from tasks.text.embeddings import embed, normalised
from tasks.text.samples import sample_passages
from tasks.text.works import dealt, smaller, works_of

VECTORS, BACKGROUND = 16, 1024  # vectors of an instance, as in a run of the default profile
SMALLER = (2, 4, 8, 12)
PIECE = 2000  # characters
LONGEST = 60  # instances of a source


def bank(material: Material, rng: Generator) -> Iterator[Instance[Loading]]:
    """Yield groups of documents of each source, with the sizes of the default profile.

    Long texts are cut after the characters that are embedded, and the rest becomes a separate document. No two groups
    share a work (manual page, licence, module): each is a unit of its own. For every second one a
    smaller one of the same texts stands beside it, in the same unit, so that costs can be fitted against size. The
    background of a source is the same for all its groups and is from works that none of them has.
    """
    yield from in_turns([_of_source(name, works_of(material, name), rng) for name in sorted(material.texts)])


def _of_source(source: str, works: Sequence[Sequence[str]], rng: Generator) -> Iterator[Instance[Loading]]:
    cut = [[text[at : at + PIECE] for text in work for at in _starts(text)] for work in works]
    pieces = [cut[i] for i in rng.permutation(len(cut))]
    background: list[str] = []
    while len(pieces) > 1 and len(background) < BACKGROUND:
        background += pieces.pop()
    for number, hand in zip(range(LONGEST), dealt(pieces, VECTORS), strict=False):
        mine = tuple(hand[k] for k in rng.permutation(len(hand))[:VECTORS])
        start, unit = int(rng.integers(2**31)), f"{source} {number}"
        for size in (VECTORS, *smaller(source, number, SMALLER)):
            pose = partial(_posed, mine[:size], tuple(background[:BACKGROUND]), start)
            yield Instance(source, f"{number}: {size} pieces at random", size, pose, unit=unit)


def _starts(text: str) -> range:
    return range(0, max(1, len(text) - PIECE // 2), PIECE)


def _posed(texts: tuple[str, ...], background: tuple[str, ...], start: int) -> Loading:
    return Loading(embed(texts), embed(background), start=start)


def example(rng: Generator) -> Loading:
    """Return 6 passages of licences, with 90 others as background, on the 16 leading axes (4 qubits)."""
    passages = [text for _, text in sample_passages("second", per_label=2)]
    vectors = np.asarray(normalised(embed([passages[k] for k in rng.permutation(len(passages))[:96]])), np.float64)
    leading = (vectors @ principal_axes(vectors)[:, :16]).astype(np.float32)
    return Loading(leading[:6], leading[6:], size=10, cells=4, passes=30, start=int(rng.integers(2**31)))

"""The instance bank of `state_loading`: vectors of real texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.preprocessing.state_loading.codes import (
    principal_axes,
)
from tasks.preprocessing.state_loading.problem import Loading
from tasks.text.embeddings import embed, normalised
from tasks.text.samples import sample_passages

VECTORS, BACKGROUND = 16, 1024  # vectors of an instance, as in a run of the default profile


PIECE = 2000  # characters


LONGEST = 12  # instances of a source


def bank(material: Material, rng: Generator) -> Iterator[Instance[Loading]]:
    """Yield groups of documents of each source, no document twice, with the sizes of the default profile.

    Long texts are cut after the characters that are embedded, and the rest becomes a separate document. The background
    of a source is the same for all its groups and contains none of their documents.
    """
    yield from in_turns([_of_source(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> list[Instance[Loading]]:
    pieces = [
        text[start : start + PIECE] for text in texts for start in range(0, max(1, len(text) - PIECE // 2), PIECE)
    ]
    dealt = [pieces[k] for k in rng.permutation(len(pieces))]
    background, rest = tuple(dealt[:BACKGROUND]), dealt[BACKGROUND:]
    instances = []
    for number in range(min(LONGEST, len(rest) // VECTORS)):
        mine = tuple(rest[number * VECTORS : (number + 1) * VECTORS])
        pose = partial(_posed, mine, background, int(rng.integers(2**31)))
        instances.append(Instance(source, f"{number}: {VECTORS} pieces at random", VECTORS, pose))
    return instances


def _posed(texts: tuple[str, ...], background: tuple[str, ...], start: int) -> Loading:
    return Loading(embed(texts), embed(background), start=start)


def example(rng: Generator) -> Loading:
    """Return 6 passages of licences, with 90 others as background, on the 16 leading axes (4 qubits)."""
    passages = [text for _, text in sample_passages("second", per_label=2)]
    vectors = np.asarray(normalised(embed([passages[k] for k in rng.permutation(len(passages))[:96]])), np.float64)
    leading = (vectors @ principal_axes(vectors)[:, :16]).astype(np.float32)
    return Loading(leading[:6], leading[6:], size=10, cells=4, passes=30, start=int(rng.integers(2**31)))

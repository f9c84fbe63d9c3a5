"""The instance bank of `anomaly`: windows in which every fifth request is anomalous.

Each instance deals disjoint passages of one source to reference and window; 8 of the 40 passages of the window are
anomalous. The kinds alternate between instances: `other` passages of another source, `scrambled` words, one `repeated`
phrase, `encoded` bytes, or passages `cut` to a few words.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.monitoring.anomaly.problem import Anomaly
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages
from tasks.text.windows import passages, spread

WORDS = 48
REFERENCE, WINDOW, STRANGE = 60, 40, 8
LONGEST = 12  # instances of a source

Texts = tuple[str, ...]


def bank(material: Material, rng: Generator) -> Iterator[Instance[Anomaly]]:
    """Yield windows with known anomalies, the sources alternating."""
    names = sorted(material.texts)
    cut = {name: [passages(text, WORDS) for text in material.texts[name]] for name in names}
    yield from in_turns([_of_source(name, cut, rng) for name in names])


def _of_source(source: str, cut: dict[str, list[list[str]]], rng: Generator) -> Iterator[Instance[Anomaly]]:
    own = spread(cut[source], sum(map(len, cut[source])))
    others = [name for name in cut if name != source]
    dealt = [own[i] for i in rng.permutation(len(own))]
    need, kinds = REFERENCE + WINDOW, cycle(KINDS)
    for number in range(min(LONGEST, len(dealt) // need)):
        mine = dealt[number * need : (number + 1) * need]
        kind, seed = next(kinds), int(rng.integers(2**31))
        other = [text for part in cut[others[number % len(others)]] for text in part]
        draw = np.random.default_rng(seed)
        strange = KINDS[kind](mine[REFERENCE : REFERENCE + STRANGE], other, draw)
        window = [*strange, *mine[REFERENCE + STRANGE :]]
        pose = partial(_pose, tuple(mine[:REFERENCE]), tuple(window))
        yield Instance(source, f"{number}: {kind}, seed {seed}", need, pose)


def _pose(reference: Texts, window: Texts) -> Anomaly:
    return Anomaly(embed(reference), embed(window), tuple(i < STRANGE for i in range(len(window))))


def _other(texts: Sequence[str], other: Sequence[str], rng: Generator) -> list[str]:
    return [other[i] for i in rng.permutation(len(other))[: len(texts)]]


def _scrambled(texts: Sequence[str], _other: object, rng: Generator) -> list[str]:
    return [" ".join("".join(rng.permutation(list(word))) for word in text.split()) for text in texts]


def _repeated(texts: Sequence[str], _other: object, _rng: object) -> list[str]:
    return [" ".join(text.split()[:4] * (WORDS // 4)) for text in texts]


def _encoded(texts: Sequence[str], _other: object, _rng: object) -> list[str]:
    return [base64.b64encode(text.encode()).decode() for text in texts]


def _cut(texts: Sequence[str], _other: object, _rng: object) -> list[str]:
    return [" ".join(text.split()[:4]) for text in texts]


KINDS: dict[str, Callable[[Sequence[str], Sequence[str], Generator], list[str]]] = {
    "other": _other,
    "scrambled": _scrambled,
    "repeated": _repeated,
    "encoded": _encoded,
    "cut": _cut,
}


def example(rng: Generator) -> Anomaly:
    """Return 24 reference passages of documentation and 12 requests, 4 of them scrambled, in 16 dimensions."""
    texts = [*map(str, rng.permutation([text for _, text in sample_passages("base")])[:36])]
    vectors = embed([*texts[:24], *_scrambled(texts[24:28], (), rng), *texts[28:]])
    axes = np.linalg.svd(vectors[:24] - vectors[:24].mean(axis=0), full_matrices=False)[2][:16].T
    reduced = np.asarray(vectors @ axes, np.float32)
    return Anomaly(reduced[:24], reduced[24:], tuple(i < 4 for i in range(12)), shots=64)

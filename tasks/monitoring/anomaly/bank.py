"""The instance bank of `anomaly`: windows in which every fifth request is anomalous.

Each instance deals passages of its own works (manual pages, licences, modules) of one source to reference and window,
and no two instances share a work: each is a unit of its own. For every second one a smaller one of the same texts
stands beside it, in the same unit, so that costs can be fitted against size. 8 of the 40 passages of the window are
anomalous. The kinds alternate between instances: `other` passages of another source, from works that are kept apart,
`scrambled` words, one `repeated` phrase, `encoded` bytes, or passages `cut` to a few words. Bandwidths are tuned on
instances of works that the bank never uses.
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
from tasks.text.windows import passages
from tasks.text.works import dealt, smaller, works_of

WORDS = 48
REFERENCE, WINDOW, STRANGE = 60, 40, 8
SMALLER = (20, 40, 60, 80)  # texts of the smaller instances, of which as large a share is strange
LONGEST = 60  # instances of a source
MOST = 40  # passages of one work, so that an instance has several
KEPT = 100  # passages of a source that are the strange ones of others

Texts = tuple[str, ...]


def bank(material: Material, rng: Generator) -> Iterator[Instance[Anomaly]]:
    """Yield windows with known anomalies, the sources alternating."""
    yield from _planted(material, rng, tuning=False)


def tuning(material: Material, rng: Generator) -> Iterator[Instance[Anomaly]]:
    """Yield instances of works that the bank never uses, for choosing bandwidths."""
    yield from (found for found in _planted(material, rng, tuning=True) if found.size == REFERENCE + WINDOW)


def _planted(material: Material, rng: Generator, *, tuning: bool) -> Iterator[Instance[Anomaly]]:
    parts: dict[str, list[list[str]]] = {}
    kept: dict[str, list[str]] = {}
    for name in sorted(material.texts):
        works = works_of(material, name, tuning=tuning)
        cut = [[p for text in works[i] for p in passages(text, WORDS)] for i in rng.permutation(len(works))]
        cut, kept[name] = [part[:MOST] for part in cut if part], []
        while len(cut) > 1 and len(kept[name]) < KEPT:
            kept[name] += cut.pop()
        parts[name] = cut
    yield from in_turns([_of_source(name, parts[name], kept, rng) for name in parts])


def _of_source(
    source: str, works: list[list[str]], kept: dict[str, list[str]], rng: Generator
) -> Iterator[Instance[Anomaly]]:
    others = [name for name in kept if name != source and kept[name]]
    need, kinds = REFERENCE + WINDOW, cycle(KINDS)
    for number, hand in zip(range(LONGEST), dealt(works, need), strict=False):
        kind, seed = next(kinds), int(rng.integers(2**31))
        if kind == "other" and not others:
            kind = next(kinds)
        draw = np.random.default_rng(seed)
        mine = [hand[i] for i in draw.permutation(len(hand))[:need]]
        other = kept[others[number % len(others)]] if others else []
        name = f"{number}: {kind}, seed {seed}"
        for size in (need, *smaller(source, number, SMALLER)):
            reference, strange = size * REFERENCE // need, size * STRANGE // need
            planted = KINDS[kind](mine[reference : reference + strange], other, draw)
            window = [*planted, *mine[reference + strange : size]]
            pose = partial(_pose, tuple(mine[:reference]), tuple(window), strange)
            label = name if size == need else f"{name}, {size} texts"
            yield Instance(source, label, size, pose, unit=f"{source} {name}")


def _pose(reference: Texts, window: Texts, strange: int) -> Anomaly:
    return Anomaly(embed(reference), embed(window), tuple(i < strange for i in range(len(window))))


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
    """Return 16 reference passages of documentation and 8 requests, 3 of them scrambled, in 12 dimensions."""
    texts = [*map(str, rng.permutation([text for _, text in sample_passages("base")])[:24])]
    vectors = embed([*texts[:16], *_scrambled(texts[16:19], (), rng), *texts[19:]])
    axes = np.linalg.svd(vectors[:16] - vectors[:16].mean(axis=0), full_matrices=False)[2][:12].T
    reduced = np.asarray(vectors @ axes, np.float32)
    return Anomaly(reduced[:16], reduced[16:], tuple(i < 3 for i in range(8)), shots=64, components=3)

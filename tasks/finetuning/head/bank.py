"""The instance bank of `head`: which of two sources a short passage comes from, with 10 to 100 labels of each.

A passage has eight words, so that no head labels all of them. Instances of one source draw disjoint passages where it
has enough of them; every instance has its own opponent source, number of labels and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.head.problem import FewShot
from tasks.text.embeddings import embed
from tasks.text.samples import sample_documents
from tasks.text.windows import passages, spread

WORDS = 8
SHOTS_OF_CLASS = (10, 50, 20, 100, 35)
TESTED = 60  # of each class
LONGEST = 12  # instances of a source
POOL = 2000  # passages of a source


def bank(material: Material, rng: Generator) -> Iterator[Instance[FewShot]]:
    """Yield the instances, the sources alternating."""
    pools = {name: _pool(material.texts[name], rng) for name in sorted(material.texts)}
    yield from in_turns([_of_source(name, pools, rng) for name in pools])


def _of_source(source: str, pools: dict[str, list[str]], rng: Generator) -> Iterator[Instance[FewShot]]:
    others = [name for name in pools if name != source]
    for number in range(LONGEST):
        labelled = SHOTS_OF_CLASS[number % len(SHOTS_OF_CLASS)]
        other, seed = others[number // len(SHOTS_OF_CLASS) % len(others)], int(rng.integers(2**31))
        need = labelled + TESTED
        start = number * need % max(1, min(len(pools[source]), len(pools[other])) - need)
        texts = tuple(tuple(pools[name][start : start + need]) for name in (source, other))
        yield Instance(source, f"{number}: against {other}, {labelled} labels, seed {seed}", 2 * labelled,
                       partial(few_shot, texts, labelled))  # fmt: skip


def _pool(texts: Sequence[str], rng: Generator) -> list[str]:
    cut = [passages(text, WORDS) for text in texts]
    chosen = spread(cut, min(POOL, sum(map(len, cut))))
    return [chosen[i] for i in rng.permutation(len(chosen))]


def few_shot(texts: Sequence[Sequence[str]], labelled: int, **sizes: int) -> FewShot:
    """Return the problem of telling apart the passages of several classes, the first of each with labels."""
    vectors = [embed(list(part)) for part in texts]
    labels = np.repeat(np.arange(len(texts)), labelled)
    truth = tuple(label for label, part in enumerate(texts) for _ in part[labelled:])
    train, test = (np.vstack([part[s] for part in vectors]) for s in (slice(0, labelled), slice(labelled, None)))
    return FewShot(train, labels.astype(np.int64), test, truth, **sizes)


def example(rng: Generator) -> FewShot:
    """Return documentation against licences, 8 labels of each and 10 passages of each to be labelled, on 3 qubits."""
    pools = [_pool([text for _, text in sample_documents(domain)][:40], rng)[:18] for domain in ("base", "second")]
    found = few_shot(pools, 8, components=4, layers=1, steps=15, shots=64)
    train, test = found.reduced  # features of two qubits, so that kernels take few circuits
    return replace(found, train=train, test=test, components=3)

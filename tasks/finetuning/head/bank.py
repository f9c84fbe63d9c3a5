"""The instance bank of `head`: which of two sources a short passage comes from, with 10 to 100 labels of each.

A passage has eight words, so that no head labels all of them. No two instances share a passage, on either side: each is
a unit of independence, with its own opponent source and number of labels. The bank ends where the first source has no
passages left: the texts of a study hold 868 units, a verdict needs 203 (`ketcycle study --list`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.head.problem import FewShot
from tasks.text.embeddings import embed
from tasks.text.samples import sample_documents
from tasks.text.windows import passages, spread
from tasks.text.works import hands, in_turn, opponent

WORDS = 8
SHOTS_OF_CLASS = (10, 50, 20, 100, 35)
TESTED = 60  # of each class
LARGEST = max(SHOTS_OF_CLASS) + TESTED


def bank(material: Material, rng: Generator) -> Iterator[Instance[FewShot]]:
    """Yield the instances, the sources alternating."""
    texts = sorted(material.texts.items())
    dealt = {source: found for source, its in texts if (found := hands(its, WORDS, 2 * LARGEST))}
    rows = rng.permutation(min(map(len, dealt.values()))).tolist()
    yield from in_turns([_of_source(name, dealt, rows) for name in dealt])


def _of_source(
    source: str, dealt: Mapping[str, Sequence[Sequence[str]]], rows: Sequence[int]
) -> Iterator[Instance[FewShot]]:
    for number, row in enumerate(rows):
        labelled, other = in_turn(source, number, SHOTS_OF_CLASS), opponent(source, row, list(dealt))
        need = labelled + TESTED
        texts = dealt[source][row][:need], dealt[other][row][LARGEST : LARGEST + need]
        yield Instance(source, f"hand {row} against {other}, {labelled} labels", 2 * labelled,
                       partial(few_shot, texts, labelled), unit=f"{source} {row}")  # fmt: skip


def few_shot(texts: Sequence[Sequence[str]], labelled: int, **sizes: int) -> FewShot:
    """Return the problem of telling apart the passages of several classes, the first of each with labels."""
    vectors = [embed(list(part)) for part in texts]
    labels = np.repeat(np.arange(len(texts)), labelled)
    truth = tuple(label for label, part in enumerate(texts) for _ in part[labelled:])
    train, test = (np.vstack([part[s] for part in vectors]) for s in (slice(0, labelled), slice(labelled, None)))
    return FewShot(train, labels.astype(np.int64), test, truth, **sizes)


def example(rng: Generator) -> FewShot:
    """Return documentation against licences, 8 labels of each and 10 passages of each to be labelled, on 3 qubits."""
    pools = []
    for domain in ("base", "second"):
        chosen = spread([passages(text, WORDS) for _, text in sample_documents(domain)[:40]], 2000)
        pools.append([chosen[i] for i in rng.permutation(len(chosen))[:18]])
    found = few_shot(pools, 8, components=4, layers=1, steps=15, shots=64)
    train, test = found.reduced  # features of two qubits, so that kernels take few circuits
    return replace(found, train=train, test=test, components=3)

"""The instance bank of `sentiment`: seeds of the published split rule on SST-2, for each encoder that can be had.

All 9,613 sentences are pooled; 256 of each class are drawn and split 85 to 15 into 435 to learn from and 77 for
validation; the other 9,101 are the test. The heads choose their settings by cross-validation on the 435, so the 77 stay
unused. Of the 9,101 a thousand are drawn on which all arms are compared, because the circuit runs once for each. One
instance of each frozen encoder with 40 labelled sentences says how costs grow. The encoder that is fine-tuned learns
from the 435 as well, once for each split; that is charged to no head, for all of them read the same vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.head.problem import FewShot
from tasks.pilots.sentiment.sentences import STATIC, TUNED, Rows, encoders, sentences, tuned_vectors, vectors

OF_A_CLASS, VALIDATION = 256, 77
TESTED = 1000  # of the 9,101
SEEDS = 20
FEW, FEW_TESTED = 20, 30  # labelled sentences of a class and tested sentences of one small instance of each encoder


def bank(material: Material, rng: Generator) -> Iterator[Instance[FewShot]]:
    """Yield the splits, the frozen encoders in turns, then those of the encoder that is fine-tuned for each."""
    seeds = rng.permutation(10_000)[:SEEDS].tolist()
    there = encoders(material.folder)
    yield from in_turns([_of_encoder(name, material.folder, seeds) for name in there if name != TUNED])
    if TUNED in there:
        yield from _of_encoder(TUNED, material.folder, seeds)


def _of_encoder(encoder: str, folder: Path, seeds: list[int]) -> Iterator[Instance[FewShot]]:
    source, size = f"SST-2, {encoder}", 2 * OF_A_CLASS - VALIDATION
    for seed in seeds:
        pose = partial(split, encoder, folder, seed)
        yield Instance(source, f"{size} labels, split {seed}", size, pose, unit=f"split {seed}")
    if encoder == TUNED:
        return
    pose = partial(few, encoder, folder, seeds[0])
    yield Instance(source, f"{2 * FEW} labels, split {seeds[0]}", 2 * FEW, pose, unit=f"split {seeds[0]}")


def split(encoder: str, folder: Path, seed: int, tested: int = TESTED) -> FewShot:
    """Return the problem of one split."""
    train, _, test = rows_of(seed)
    kept, labels = test[:tested], sentences()[1]
    if encoder == TUNED:
        found = tuned_vectors(folder, seed, train, np.concatenate([train, kept]))
        learned, given = found[: len(train)], found[len(train) :]
    else:
        found = vectors(encoder, folder)
        learned, given = found[train], found[kept]
    return FewShot(learned, labels[train], given, tuple(labels[kept].tolist()))


def rows_of(seed: int) -> tuple[Rows, Rows, Rows]:
    """Return the rows to learn from (435), for validation (77) and to be tested (9,101), in random order."""
    rng, labels = np.random.default_rng(seed), sentences()[1]
    drawn = [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    labelled = rng.permutation(np.concatenate([part[:OF_A_CLASS] for part in drawn]))
    rest = rng.permutation(np.concatenate([part[OF_A_CLASS:] for part in drawn]))
    return labelled[VALIDATION:], labelled[:VALIDATION], rest


def few(encoder: str, folder: Path, seed: int) -> FewShot:
    """Return a small problem of a split: 20 labelled sentences of each class, 30 to be labelled."""
    found = split(encoder, folder, seed, FEW_TESTED)
    order = np.argsort(found.labels, kind="stable")
    kept = np.concatenate([order[:FEW], order[-FEW:]])
    return replace(found, train=found.train[kept], labels=found.labels[kept])


def example(rng: Generator) -> FewShot:
    """Return 40 labelled sentences and 30 to be labelled on three components, few steps and shots."""
    found = few(STATIC, Path(), int(rng.integers(10_000)))
    return replace(found, components=3, layers=1, steps=15, shots=64)

"""The instance bank of `clinical`: ten folds of all rows of each table, and small draws on which circuits can be run.

A fold of all rows is what was published; its kernels would take up to 160,000 circuits, so that the exact twins stand
for the quantum arms there. A draw has 20 known and 20 tested patients, the circuits run, and every arm sees the same
rows. Unit of independence: the fold; the folds of one table share training rows, as in every cross-validation.

The figure of one split into ten folds moves by about .01 with the split, as much as matters: the table and the number
of features that are judged have four further splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from tasks.contract import Instance, Material, in_turns
from tasks.pilots.clinical.problem import Clinical
from tasks.pilots.clinical.tables import tables

FEATURES = (8, 16)
FOLDS = 10
FURTHER = {"breast cancer": 4}  # splits at the first number of features
DRAWS = 6
ROWS = 20  # known and tested patients of a draw

Rows = NDArray[np.intp]


def bank(_: Material, rng: Generator) -> Iterator[Instance[Clinical]]:
    """Yield the instances, the tables in turns."""
    yield from in_turns([_of_table(name, int(rng.integers(2**31))) for name in tables()])


def _of_table(source: str, seed: int) -> Iterator[Instance[Clinical]]:
    table = tables()[source]
    draws = StratifiedShuffleSplit(DRAWS, train_size=ROWS, test_size=ROWS, random_state=seed)
    for number, (train, test) in enumerate(draws.split(table.values, table.labels)):
        pose = partial(_pose, source, train, test, FEATURES[0])
        yield Instance(source, f"N={FEATURES[0]}, draw {number} of {ROWS} and {ROWS}", 2 * ROWS, pose,
                       unit=f"{source} draw {number}")  # fmt: skip
    for split in range(1 + FURTHER.get(source, 0)):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=(seed + split) % 2**31)
        further = f", split {split}" if split else ""
        for number, (train, test) in enumerate(folds.split(table.values, table.labels)):
            for features in FEATURES[:1] if split else FEATURES:
                if features <= table.values.shape[1]:
                    pose = partial(_pose, source, train, test, features)
                    name = f"N={features}, fold {number} of {FOLDS}{further}"
                    unit = f"{source} fold {number}{further}"
                    yield Instance(source, name, len(table.labels), pose, unit=unit)


def _pose(source: str, train: Rows, test: Rows, features: int) -> Clinical:
    table = tables()[source]
    return Clinical(table.values[train], table.labels[train], table.values[test], table.labels[test], features)


def example(rng: Generator) -> Clinical:
    """Return 12 known and 12 tested patients of the breast cancer table, four features, few shots."""
    table = tables()["breast cancer"]
    draw = StratifiedShuffleSplit(1, train_size=12, test_size=12, random_state=int(rng.integers(2**31)))
    train, test = next(draw.split(table.values, table.labels))
    return Clinical(table.values[train], table.labels[train], table.values[test], table.labels[test], 4, shots=64)

"""The instance bank of `weights`: splits of four small sets, 80 % to learn from, each with its own seed.

Wine, Digits and Iris are those of scikit-learn (UCI, CC BY 4.0). Banana, two crescent classes in two dimensions, is
generated. Columns without variance on the training rows are left out. Digits comes twice: with one hidden layer, and
with three, as in the publication, which names no widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_iris, load_wine, make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from tasks.contract import Instance, Material, in_turns
from tasks.pilots.weights.problem import Training

Rows = tuple[NDArray[np.float64], NDArray[np.int64]]

BANANAS, NOISE = 600, 0.3
TESTED = 0.2
SPLITS = 20  # of each set
FEWER = {"Digits": 4, "Digits, three layers": 2}  # splits of the large ones


def _packaged(load: Callable[..., Any]) -> Rows:
    x, y = load(return_X_y=True)
    return np.asarray(x, np.float64), np.asarray(y, np.int64)


def _bananas() -> Rows:
    x, y = make_moons(BANANAS, noise=NOISE, random_state=0)
    return np.asarray(x, np.float64), np.asarray(y, np.int64)


SETS: Mapping[str, tuple[Callable[[], Rows], tuple[int, ...], int]] = {  # rows, hidden units, sweeps
    "Wine": (partial(_packaged, load_wine), (8,), 6),
    "Iris": (partial(_packaged, load_iris), (8,), 6),
    "Banana": (_bananas, (8,), 6),
    "Digits": (partial(_packaged, load_digits), (24,), 3),
    "Digits, three layers": (partial(_packaged, load_digits), (16, 16, 16), 3),  # as many weights as with one of 24
}


@cache
def rows_of(name: str) -> Rows:
    """Return features and labels of a set."""
    x, y = SETS[name][0]()
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def bank(_: Material, rng: Generator) -> Iterator[Instance[Training]]:
    """Yield the splits of all sets, in turns."""
    seeds = rng.permutation(10_000)[:SPLITS].tolist()
    yield from in_turns([_of_set(name, seeds[: FEWER.get(name, SPLITS)]) for name in SETS])


def _of_set(name: str, seeds: list[int]) -> Iterator[Instance[Training]]:
    size = split(name, 0).weights
    for seed in seeds:
        yield Instance(name, f"split {seed}", size, partial(split, name, seed), unit=f"{name} {seed}")


def split(name: str, seed: int) -> Training:
    """Return the task of a split, stratified and standardised on the rows to learn from."""
    x, y = rows_of(name)
    train, test, labels, truth = train_test_split(x, y, test_size=TESTED, stratify=y, random_state=seed)
    varying = train.std(axis=0) > 0
    scaler = StandardScaler().fit(train[:, varying])
    _, hidden, sweeps = SETS[name]
    first, second = (scaler.transform(part[:, varying]) for part in (train, test))
    return Training(first, labels, second, truth, hidden, sweeps)


def example(rng: Generator) -> Training:
    """Return a split of Iris with four hidden units and two sweeps."""
    found = split("Iris", int(rng.integers(10_000)))
    return Training(found.train, found.labels, found.test, found.truth, hidden=(4,), sweeps=2)

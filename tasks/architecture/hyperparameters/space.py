"""The grid of hyperparameters that is searched: six ordered dimensions, 256 settings, eight bits.

A setting is a number from 0 to 255; the bits of a dimension are the binary number of its level. Every arm searches this
grid, so that a table of real training runs can answer all of them and a QUBO needs no penalty for invalid bit strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import log, prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tasks.combinatorial.qubo import Bits


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter and its levels in order, a power of two of them."""

    name: str
    levels: tuple[float, ...]

    @property
    def bits(self) -> int:
        """Bits of a level."""
        return (len(self.levels) - 1).bit_length()


SPACE = (
    Dimension("matrix_lr", (0.01, 0.03, 0.1, 0.3)),
    Dimension("other_lr", (0.003, 0.01, 0.03, 0.1)),
    Dimension("batch", (8, 32)),
    Dimension("depth", (1, 2)),  # at about equal weights: one wide block or two narrow ones
    Dimension("warmup", (0.02, 0.2)),
    Dimension("weight_decay", (0.0, 1.0)),
)
SETTINGS = prod(len(dimension.levels) for dimension in SPACE)
BITS = sum(dimension.bits for dimension in SPACE)


def values(setting: int) -> Mapping[str, float]:
    """Return the hyperparameters of a setting by name.

    Raises:
        ValueError: the grid has no such setting.
    """
    if not 0 <= setting < SETTINGS:
        raise ValueError(f"the grid has the settings 0 to {SETTINGS - 1}, not {setting}")
    rows = levels()[setting]
    return {d.name: d.levels[level] for d, level in zip(SPACE, rows.tolist(), strict=True)}


@cache
def levels() -> NDArray[np.int64]:
    """Return the level of every setting in every dimension, (256, 6)."""
    columns, place = [], 0
    for dimension in SPACE:
        columns.append(np.arange(SETTINGS) >> place & len(dimension.levels) - 1)
        place += dimension.bits
    table = np.stack(columns, axis=1)
    table.setflags(write=False)
    return table


@cache
def bits() -> Bits:
    """Return the bits of every setting, (256, 8)."""
    table = (np.arange(SETTINGS)[:, None] >> np.arange(BITS) & 1).astype(np.uint8)
    table.setflags(write=False)
    return table


@cache
def unit() -> NDArray[np.float64]:
    """Return every setting as a point of the unit cube, (256, 6): levels at equal distances from 0 to 1."""
    table: NDArray[np.float64] = levels() / (np.array([len(dimension.levels) for dimension in SPACE]) - 1)
    table.setflags(write=False)
    return table


def setting_of(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the settings with these levels (m, 6)."""
    places = np.cumsum([0, *(dimension.bits for dimension in SPACE[:-1])])
    return np.asarray((np.asarray(rows, np.int64) << places).sum(axis=-1))


def of_bits(rows: Bits) -> NDArray[np.int64]:
    """Return the settings with these bits (m, 8)."""
    return np.asarray(np.asarray(rows, np.int64) @ (1 << np.arange(BITS)))


def nearest(wanted: Mapping[str, float]) -> int:
    """Return the setting that is nearest to these hyperparameters, by name, each by the ratio where no level is 0."""

    def distance(dimension: Dimension, level: float) -> float:
        value = wanted[dimension.name]
        return abs(level - value) if 0 in dimension.levels else abs(log(level / value))

    rows = [min(range(len(d.levels)), key=lambda k, d=d: distance(d, d.levels[k])) for d in SPACE]  # type: ignore[misc]
    return int(setting_of(np.array(rows)))

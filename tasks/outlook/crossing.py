"""The size from which one way is cheaper than another, draw by draw. Pure functions of plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Answer = Literal["from", "not below", "none"]

POINTS = 32  # sizes at which two ways are compared


def grid(smallest: float, largest: float, points: int = POINTS) -> Array:
    """Return sizes in equal ratios."""
    return np.geomspace(smallest, max(largest, smallest * (1 + 1e-9)), points)


@dataclass(frozen=True)
class Crossing:
    """From which size on the first way is cheaper.

    Attributes:
        size: shape (draws,); infinite where it is not cheaper up to the largest size looked at.
        never: draws in which it can be cheaper at no size: its own part takes more everywhere, and grows no
            slower.
        largest: largest size looked at.
    """

    size: Array
    never: NDArray[np.bool_]
    largest: float

    @property
    def reached(self) -> float:
        """Share of draws in which it becomes cheaper."""
        return float(np.isfinite(self.size).mean())

    @property
    def impossible(self) -> float:
        """Share of draws in which it is cheaper at no size."""
        return float(self.never.mean())

    @property
    def answer(self) -> Answer:
        """What most draws say."""
        if self.reached >= 0.5:
            return "from"
        return "none" if self.impossible >= 0.5 else "not below"

    @property
    def band(self) -> tuple[float, float, float]:
        """5 %, 50 % and 95 % points of the size, infinite beyond the largest."""
        ordered = np.sort(self.size)
        points = (np.array([0.05, 0.5, 0.95]) * (len(ordered) - 1)).round().astype(int)
        low, middle, high = (float(ordered[i]) for i in points)
        return low, middle, high


def crossing(sizes: Array, first: Array, second: Array, own: Array) -> Crossing:
    """Return the size from which the first way stays cheaper up to the largest size.

    Between two sizes the logarithm of the ratio is taken as linear in the logarithm of the size, which is exact for
    power laws.

    Args:
        sizes: increasing, shape (k,).
        first: what the first way takes, shape (k, draws).
        second: what the second way takes, shape (k, draws).
        own: the part of the first way that remains whatever the device takes, shape (k, draws).
    """
    dearer = np.flip(first >= second, 0)  # the largest size first
    last = np.argmax(dearer, axis=0)  # sizes from the largest down to the first at which it is dearer
    begins = np.where(dearer.any(axis=0), len(sizes) - last, 0)
    found = begins < len(sizes)
    begins = np.minimum(begins, len(sizes) - 1)
    before, draws = np.maximum(begins - 1, 0), np.arange(first.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.log(first[before, draws]) - np.log(second[before, draws])
        high = np.log(first[begins, draws]) - np.log(second[begins, draws])
        share = np.where(
            (begins > 0) & np.isfinite(low) & np.isfinite(high), np.clip(low / (low - high), 0.0, 1.0), 1.0
        )
    x = np.log(sizes)
    size = np.where(found, np.exp(x[before] + share * (x[begins] - x[before])), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log(own[-1] / own[-2]) - np.log(second[-1] / second[-2])
    never = (own >= second).all(axis=0) & (growth >= -1e-9)
    return Crossing(size, never & ~found, float(sizes[-1]))

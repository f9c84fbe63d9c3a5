"""The sizes at which one way is cheaper than another, draw by draw. Pure functions of plain numbers."""

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
    """From which size on the first way is cheaper, and up to which.

    Attributes:
        size: the first size at which it is cheaper, shape (draws,); infinite where there is none.
        until: the size above it from which it is dearer again; infinite where it stays cheaper.
        never: draws in which it can be cheaper at no size: its own part takes more everywhere, and grows no slower.
        largest: largest size looked at.
    """

    size: Array
    until: Array
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
        if np.isfinite(self.band[1]):
            return "from"
        return "none" if self.impossible >= 0.5 else "not below"

    @property
    def band(self) -> tuple[float, float, float]:
        """5 %, 50 % and 95 % points of the size, infinite beyond the largest."""
        low, middle, high = (float(q) for q in np.quantile(self.size, (0.05, 0.5, 0.95), method="nearest"))
        return low, middle, high

    @property
    def end(self) -> float:
        """Median size from which it is dearer again, over the draws in which it becomes cheaper."""
        found = self.until[np.isfinite(self.size)]
        return float(np.quantile(found, 0.5, method="nearest")) if len(found) else np.inf


def crossing(sizes: Array, first: Array, second: Array, own: Array) -> Crossing:
    """Return the first size at which the first way is cheaper, and the size from which it is dearer again.

    Between two sizes the logarithm of the ratio is taken as linear in the logarithm of the size, which is exact for
    power laws.

    Args:
        sizes: increasing, shape (k,).
        first: what the first way takes, shape (k, draws).
        second: what the second way takes, shape (k, draws).
        own: the part of the first way that remains whatever the device takes, shape (k, draws).
    """
    cheaper = first < second
    found, begins = cheaper.any(axis=0), np.argmax(cheaper, axis=0)
    again = ~cheaper & (np.arange(len(sizes))[:, None] > begins) & found
    ends, dearer = np.argmax(again, axis=0), again.any(axis=0)
    size = np.where(found, _between(sizes, first, second, begins), np.inf)
    until = np.where(dearer, _between(sizes, first, second, ends), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log(own[-1] / own[-2]) - np.log(second[-1] / second[-2])
    never = (own >= second).all(axis=0) & ((growth >= -1e-9) | (second[-1] == 0))
    return Crossing(size, until, never & ~found, float(sizes[-1]))


def _between(sizes: Array, first: Array, second: Array, at: NDArray[np.intp]) -> Array:
    """Return the size between `at - 1` and `at` at which both take the same; the smallest size where `at` is 0."""
    before, draws, x = np.maximum(at - 1, 0), np.arange(first.shape[1]), np.log(sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.log(first[before, draws]) - np.log(second[before, draws])
        high = np.log(first[at, draws]) - np.log(second[at, draws])
        known = (at > 0) & np.isfinite(low) & np.isfinite(high) & (low != high)
        share = np.where(known, np.clip(low / (low - high), 0.0, 1.0), 1.0)
    return np.asarray(np.exp(x[before] + share * (x[at] - x[before])))

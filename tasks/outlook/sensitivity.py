"""Which assumption moves a comparison, and which would change its answer if it were known. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOW, HIGH = 0.05, 0.95
BINS = 20


@dataclass(frozen=True)
class Bar:
    """One bar of a tornado: the ratio with an assumption at its 5 % and 95 % points, all others at the median."""

    name: str
    low: float
    high: float

    @property
    def swing(self) -> float:
        """Orders of magnitude between both ends."""
        ends = np.log10([self.low, self.high])
        return float(abs(ends[1] - ends[0])) if np.isfinite(ends).all() else 0.0


@dataclass(frozen=True)
class Knowledge:
    """What knowing an assumption exactly would be worth.

    Attributes:
        name: the assumption.
        flips: probability that the better way would then be another.
        gain: expected orders of magnitude that choosing anew would save.
    """

    name: str
    flips: float
    gain: float


def one_at_a_time(names: list[str]) -> tuple[dict[str, Array], int]:
    """Return the quantiles at which a ratio is evaluated: all medians first, then low and high of each name in turn."""
    n = 1 + 2 * len(names)
    quantiles = {}
    for position, name in enumerate(names):
        u = np.full(n, 0.5)
        u[1 + 2 * position], u[2 + 2 * position] = LOW, HIGH
        quantiles[name] = u
    return quantiles, n


def tornado(names: list[str], ratio: Array) -> list[Bar]:
    """Return the bars, the widest first, from the ratio at the quantiles of `one_at_a_time`."""
    bars = [Bar(name, float(ratio[1 + 2 * i]), float(ratio[2 + 2 * i])) for i, name in enumerate(names)]
    return sorted((bar for bar in bars if bar.swing > 1e-9), key=lambda bar: (-bar.swing, bar.name))


def value_of_information(log_ratio: Array, known: Mapping[str, Array]) -> list[Knowledge]:
    """Return what knowing each assumption would be worth for choosing the way of lower expected logarithm.

    The expected value of partial perfect information (Strong, Oakley and Brennan, Med. Decis. Making 34, 2014), by
    means within 20 slices of equal probability; a loss of one is an order of magnitude.

    Args:
        log_ratio: log10 of the first way over the second, shape (draws,).
        known: draws of each assumption in the same order.
    """
    now = max(0.0, -float(log_ratio.mean()))
    chosen = log_ratio.mean() < 0
    found = []
    for name, draws in known.items():
        if np.ptp(draws) == 0:
            continue
        parts = np.array_split(log_ratio[np.argsort(draws, kind="stable")], BINS)
        means = np.array([part.mean() for part in parts])
        gain = float(np.maximum(0.0, -means).mean()) - now
        found.append(Knowledge(name, float(((means < 0) != chosen).mean()), max(0.0, gain)))
    return sorted(found, key=lambda k: (-k.gain, -k.flips, k.name))

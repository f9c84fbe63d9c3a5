"""Exact and Student bounds and tests that certification rests on. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, stdtr, stdtrit


def upper_share(hits: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper bound of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    if alpha <= 0 or hits >= n:
        return 1.0
    return float(betaincinv(hits + 1, n - hits, 1 - alpha))


def lower_mean(values: NDArray[np.float64], alpha: float) -> float:
    """One-sided Student lower bound of a mean."""
    n = len(values)
    if n < 2 or alpha <= 0 or not np.isfinite(values).all():
        return -math.inf
    return float(values.mean() + stdtrit(n - 1, alpha) * values.std(ddof=1) / math.sqrt(n))


def share_p(hits: int, n: int, share: float) -> float:
    """Exact p-value against "the true share is at least `share`": P(X <= hits) of the binomial.

    At most `alpha` exactly if `upper_share(hits, n, alpha)` is at most `share`.
    """
    return 1.0 - float(betainc(hits + 1, n - hits, share)) if hits < n else 1.0


def share_above_p(hits: int, n: int, share: float) -> float:
    """Exact p-value against "the true share is at most `share`": P(X >= hits) of the binomial."""
    return float(betainc(hits, n - hits + 1, share)) if hits else 1.0


def mean_p(values: NDArray[np.float64], threshold: float) -> float:
    """One-sided Student p-value against "the true mean is at most `threshold`"."""
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return 1.0
    error = float(values.std(ddof=1)) / math.sqrt(n)
    gain = float(values.mean()) - threshold
    return float(stdtr(n - 1, -gain / error)) if error > 0 else float(gain <= 0)


def holm(p_values: Mapping[str, float], alpha: float, family: int) -> list[tuple[str, float]]:
    """Return each hypothesis with the level it is tested at (Holm, Scand. J. Statist. 6, 1979), smallest p first.

    Args:
        p_values: those known so far.
        alpha: family-wise error.
        family: number of hypotheses; those without a p-value count as not rejected.
    """
    levels: list[tuple[str, float]] = []
    rejected = 0
    for name in sorted(p_values, key=lambda name: p_values[name]):
        level = alpha / max(1, family - rejected)
        levels.append((name, level))
        # After the first that stands, those behind it meet the same level and stand too, their p being larger.
        rejected += int(p_values[name] <= level and rejected == len(levels) - 1)
    return levels

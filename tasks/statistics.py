"""Bounds, intervals and tests of shares and means over independent units. Plain numbers in, plain numbers out.

Observations of one *unit* (copies of an instance, instances of one source) are not independent of each other. A share
is therefore tested on the number of units, each counting with its own share, and the standard error of a mean is the
cluster-robust one (Liang and Zeger, Biometrika 73, 1986, with the factor U / (U - 1) and U - 1 degrees of freedom).
Where every observation is its own unit these are the bounds of Clopper and Pearson and of Student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special  # what scipy.stats calls; importing that takes seconds

Array = NDArray[np.float64]


def upper_share(hits: float, n: int, alpha: float) -> float:
    """Return the one-sided upper bound of a share (Clopper and Pearson, Biometrika 26, 1934).

    Args:
        hits: observations that count; a sum of shares of units is rounded up, which makes the bound larger.
        n: independent observations.
        alpha: error of the bound.
    """
    hits = _whole(hits)
    if alpha <= 0 or n <= 0 or hits >= n:
        return 1.0
    return float(special.betaincinv(hits + 1, n - hits, 1 - alpha))


def share_p(hits: float, n: int, share: float) -> float:
    """Return the exact p-value against "the true share is at least `share`": P(X <= hits) of the binomial.

    At most `alpha` exactly if `upper_share(hits, n, alpha)` is at most `share`.
    """
    return float(special.bdtr(_whole(hits), n, share)) if n > 0 else 1.0


def share_above_p(hits: float, n: int, share: float) -> float:
    """Return the exact p-value against "the true share is at most `share`": P(X >= hits) of the binomial."""
    return float(special.bdtrc(math.floor(hits + 1e-9) - 1, n, share)) if n > 0 else 1.0


def unit_hits(hit: NDArray[np.bool_], units: Sequence[str] | None = None) -> tuple[float, int]:
    """Return the sum over units of the share of hits in each, and the number of units."""
    if units is None:
        return float(np.count_nonzero(hit)), len(hit)
    labels = _labels(units)
    sizes = np.bincount(labels)
    return float((np.bincount(labels, weights=hit) / sizes).sum()), len(sizes)


def mean_error(values: Array, units: Sequence[str] | None = None) -> tuple[float, int]:
    """Return the standard error of a mean and its degrees of freedom; (inf, 0) for fewer than two units."""
    n = len(values)
    labels = np.arange(n) if units is None else _labels(units)
    clusters = int(labels.max()) + 1 if n else 0
    if clusters < 2 or not np.isfinite(values).all():
        return math.inf, 0
    sums = np.bincount(labels, weights=values - values.mean())
    return math.sqrt(clusters / (clusters - 1) * float(sums @ sums)) / n, clusters - 1


def lower_mean(values: Array, alpha: float, units: Sequence[str] | None = None) -> float:
    """Return the one-sided lower bound of a mean; minus infinity where nothing can be said."""
    error, degrees = mean_error(values, units)
    if not degrees or alpha <= 0:
        return -math.inf
    return float(values.mean() + special.stdtrit(degrees, alpha) * error)


def mean_interval(values: Array, units: Sequence[str] | None = None, level: float = 0.95) -> tuple[float, float] | None:
    """Return the two-sided interval of a mean, None for fewer than two units or values that are not finite."""
    low = lower_mean(values, (1 - level) / 2, units)
    return (low, 2 * float(values.mean()) - low) if math.isfinite(low) else None


def mean_p(values: Array, threshold: float, units: Sequence[str] | None = None) -> float:
    """Return the one-sided p-value against "the true mean is at most `threshold`"."""
    error, degrees = mean_error(values, units)
    if not degrees:
        return 1.0
    gain = float(values.mean()) - threshold
    return float(special.stdtr(degrees, -gain / error)) if error > 0 else float(gain <= 0)


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
        # After the first that is not rejected the level stays, and the larger p-values behind it are not rejected.
        rejected += int(p_values[name] <= level and rejected == len(levels) - 1)
    return levels


def _whole(hits: float) -> int:
    return math.ceil(hits - 1e-9)


def _labels(units: Sequence[str]) -> NDArray[np.intp]:
    return np.unique(np.asarray(units), return_inverse=True)[1]

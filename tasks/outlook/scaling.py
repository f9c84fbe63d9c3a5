"""Size against a raw quantity: power law and exponential fitted to logarithms, with their uncertainty.

Least squares of ln y on ln n (power) and on n (exponential). Standard errors are clustered by the unit of independence
(Liang and Zeger, 1986); the two forms are weighted by the corrected Akaike criterion (Burnham and Anderson, 2002), so
draws show what the form alone leaves open. Pure functions of plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.statistics import mean_error

Array = NDArray[np.float64]
Form = Literal["zero", "constant", "power", "exponential"]

LARGEST_EXPONENT = 600.0
EXACT = 1e-20  # mean squared residual of logarithms below which a form fits exactly


class Source(Protocol):
    """Gives shared draws for the uncertainty of a fit."""

    n: int

    def student(self, key: str, degrees: int, /) -> Array:
        """Return draws of Student's t."""
        ...

    def uniform(self, key: str, /) -> Array:
        """Return draws between 0 and 1."""
        ...


@dataclass(frozen=True)
class Line:
    """ln y = level + slope (x - centre), where x is ln n or n.

    Attributes:
        form: what x is.
        level: mean of ln y.
        slope: growth of ln y with x.
        centre: mean of x.
        level_error: standard error of the level.
        slope_error: standard error of the slope.
        degrees: degrees of freedom of both errors.
        smear: mean y over exp of the line, so that the line gives means and not medians (Duan, JASA 78, 1983).
    """

    form: Form
    level: float
    slope: float
    centre: float
    level_error: float
    slope_error: float
    degrees: int
    smear: float

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the two-sided interval of the slope; None without degrees of freedom."""
        if self.degrees < 1 or self.form in ("zero", "constant"):
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.degrees)) * self.slope_error
        return self.slope - half, self.slope + half


@dataclass(frozen=True)
class Scaling:
    """How a quantity grows with the size.

    Attributes:
        lines: the fitted forms, the better first.
        weight: Akaike weight of the first form.
        smallest: smallest size in the evidence.
        largest: largest size in the evidence; beyond it the fit is extrapolated.
        sizes: number of different sizes.
        points: number of instances.
    """

    lines: tuple[Line, ...]
    weight: float
    smallest: float
    largest: float
    sizes: int
    points: int

    def at(self, sizes: Array, source: Source, key: str) -> Array:
        """Return draws of the mean quantity, shape (sizes, draws).

        Beyond the largest size in the evidence nothing falls: a falling line keeps its value there.

        Args:
            sizes: where, shape (k,).
            source: shared draws.
            key: name of the fit among the assumptions.
        """
        if len(self.lines) == 1 or self.weight > 1 - 1e-6:
            return self._draws(self.lines[:1], [np.ones(source.n, dtype=bool)], sizes, source, key)
        first = source.uniform(f"{key} form") < self.weight
        return self._draws(self.lines, [first, ~first], sizes, source, key)

    def _draws(
        self, lines: Sequence[Line], chosen: Sequence[NDArray[np.bool_]], sizes: Array, source: Source, key: str
    ) -> Array:
        """Return the draws, each from the line that is chosen for it, shape (sizes, draws)."""
        form = lines[0].form
        if form == "zero":
            return np.zeros((len(sizes), source.n))
        levels = [ln.level + ln.level_error * _t(source, f"{key} level", ln.degrees, ln.level_error) for ln in lines]
        level, smear = np.select(chosen, levels), np.select(chosen, [line.smear for line in lines])
        if form == "constant":
            return np.broadcast_to(np.exp(level) * smear, (len(sizes), source.n))
        values = np.zeros((len(sizes), source.n))
        for line, mine in zip(lines, chosen, strict=True):
            slope = line.slope + line.slope_error * _t(source, f"{key} slope", line.degrees, line.slope_error)
            values += self._climb(line, np.where(mine, slope, 0.0), sizes)
        # In place: the arrays are large, and the exponential takes most of the time of an outlook.
        values += level
        np.exp(np.minimum(values, LARGEST_EXPONENT, out=values), out=values)
        values *= smear
        return values

    def _climb(self, line: Line, slope: Array, sizes: Array) -> Array:
        """Return what a line adds to its level, shape (sizes, draws)."""
        change = np.log if line.form == "power" else np.asarray
        x, last = np.asarray(change(sizes), dtype=np.float64), float(change(self.largest))
        values = np.multiply.outer(x - line.centre, slope)
        for i in np.flatnonzero(x > last):
            np.copyto(values[i], slope * (last - line.centre), where=slope < 0)
        return values


def _t(source: Source, key: str, degrees: int, error: float) -> Array:
    return source.student(key, degrees) if error > 0 else np.zeros(source.n)


def fit(sizes: Sequence[float], values: Sequence[float], units: Sequence[str]) -> Scaling:
    """Return how values grow with the size.

    All zeros stay zero; where some are zero, or there is a single size, the mean is taken as constant.

    Args:
        sizes: size of each instance.
        values: the quantity of each instance, not negative.
        units: unit of independence of each instance.
    """
    n, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    about = (float(n.min()), float(n.max()), len(np.unique(n)), len(n))
    if not y.any():
        return Scaling((Line("zero", 0, 0, 0, 0, 0, 0, 0),), 1.0, *about)
    if about[2] < 2 or (y <= 0).any():
        return Scaling((_constant(y, units),), 1.0, *about)
    fitted = [_fit(form, x, y, units) for form, x in (("power", np.log(n)), ("exponential", n))]  # type: ignore[arg-type]
    (one, first), (two, second) = sorted(fitted, key=lambda found: found[1])
    return Scaling((one, two), 1 / (1 + math.exp(-0.5 * min(second - first, 1400.0))), *about)


@dataclass(frozen=True)
class Trend:
    """How a value that may be negative, such as a quality, changes with the size.

    Attributes:
        doubling: change with each doubling of the size.
        interval: two-sided 95 % interval, clustered by unit; None for fewer than two units.
    """

    doubling: float
    interval: tuple[float, float] | None


def trend(sizes: Sequence[float], values: Sequence[float], units: Sequence[str]) -> Trend | None:
    """Return the least squares slope of values on log2 of the size; None for a single size."""
    x, y = np.log2(np.asarray(sizes, dtype=np.float64)), np.asarray(values, dtype=np.float64)
    x = x - x.mean()
    spread, n = float((x**2).sum()), len(x)
    if spread == 0:
        return None
    slope = float((x * y).sum()) / spread if np.ptp(y) else 0.0
    error, degrees = mean_error(n * x * (y - y.mean() - slope * x) / spread, units)
    half = float(stats.t.ppf(0.975, degrees)) * error if degrees else 0.0
    return Trend(slope, (slope - half, slope + half) if degrees else None)


def _constant(y: Array, units: Sequence[str]) -> Line:
    error, degrees = mean_error(y, units)
    relative = error / float(y.mean()) if degrees else 0.0
    return Line("constant", math.log(float(y.mean())), 0.0, 0.0, relative, 0.0, degrees, 1.0)


def _fit(form: Form, x: Array, y: Array, units: Sequence[str]) -> tuple[Line, float]:
    """Return a line and its corrected Akaike criterion."""
    log_y, centre, n = np.log(y), float(x.mean()), len(x)
    spread = float(((x - centre) ** 2).sum())
    slope, level = float(((x - centre) * log_y).sum()) / spread, float(log_y.mean())
    residual = log_y - level - slope * (x - centre)
    squared = float((residual**2).mean())
    exact = squared < EXACT
    level_error, degrees = mean_error(residual, units)
    slope_error, _ = mean_error(n * (x - centre) * residual / spread, units)
    errors = (level_error, slope_error) if degrees and not exact else (0.0, 0.0)
    smear = float(y.sum() / np.exp(level + slope * (x - centre)).sum())
    correction = 24.0 / (n - 4) if n > 4 else 24.0  # 2 k (k + 1) / (n - k - 1) for k = 3
    criterion = n * math.log(max(squared, EXACT)) + 6.0 + correction
    return Line(form, level, slope, centre, *errors, degrees if any(errors) else 0, 1.0 if exact else smear), criterion

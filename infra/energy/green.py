"""Start time of deferrable work: the window with the lowest carbon intensity in a forecast.

The forecast is persistence: each time of day has the intensity of the last known day. Wiesner et al., "Let's Wait
Awhile", Middleware 2021, use a perfect forecast with noise; persistence needs no model and is the baseline for better
forecasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np

from infra.energy.carbon import Series
from infra.errors import BadInput

DAY_S = 86_400.0


class Provider(Protocol):
    """A source of intensities other than a file; the setting `carbon_provider` names its class."""

    def series(self, began_s: float, ended_s: float) -> Series:
        """Return known and forecast intensities of a time span, g CO2e per kWh."""
        ...


@dataclass(frozen=True)
class Start:
    """Chosen start time of work.

    Attributes:
        at_s: start time, seconds since the epoch.
        expected: forecast mean intensity of the work, g CO2e per kWh.
        at_once: forecast mean intensity if the work starts at once, g CO2e per kWh.
    """

    at_s: float
    expected: float
    at_once: float

    @property
    def saving(self) -> float:
        """Forecast share of carbon saved compared with starting at once."""
        return 1 - self.expected / self.at_once if self.at_once > 0 else 0.0


def persistence(known: Series, now_s: float, until_s: float) -> Series:
    """Return the persistence forecast: each time of day has the intensity of the last day before `now_s`.

    Raises:
        BadInput: the last day before `now_s` is not known.
    """
    day_before = now_s - DAY_S
    known.mean(day_before, now_s)  # covered, and without a gap
    past = (known.times_s > day_before) & (known.times_s < now_s)
    first = int(np.searchsorted(known.times_s, day_before, side="right")) - 1
    times = np.append(day_before, known.times_s[past])
    values = np.append(known.g_per_kwh[first], known.g_per_kwh[past])
    days = int(np.ceil((until_s - now_s) / DAY_S)) + 1
    shifts = DAY_S * np.arange(1, days + 1)
    all_times = (times[None] + shifts[:, None]).ravel()
    return Series(f"persistence of {known.name}", all_times, np.tile(values, days))


def greenest(forecast: Series, now_s: float, slack_s: float, duration_s: float) -> Start:
    """Return the start within the slack with the lowest mean intensity, the earliest of equals.

    Raises:
        BadInput: the forecast does not cover the time, or the slack or the duration is not positive.
    """
    if slack_s < 0 or duration_s <= 0:
        raise BadInput(f"slack {slack_s / 3600:g} h and duration {duration_s / 3600:g} h: expected from 0 and above 0")
    steps = forecast.times_s[(forecast.times_s > now_s) & (forecast.times_s <= now_s + slack_s)]
    # The mean of a moving window over a step function is lowest where one of its ends meets a step.
    ends = forecast.times_s - duration_s
    ends = ends[(ends > now_s) & (ends <= now_s + slack_s)]
    starts = np.unique(np.concatenate([[now_s], steps, ends]))
    means = _means(forecast, starts, duration_s)
    best = int(np.argmin(means))
    return Start(float(starts[best]), float(means[best]), float(means[0]))


def _means(series: Series, starts: np.ndarray, duration_s: float) -> np.ndarray:
    """Return the mean over a window from each start; the integral of a step function is piecewise linear."""
    series.mean(float(starts[0]), float(starts[-1]) + duration_s)  # covered, and without a gap
    edges = np.append(series.times_s, series.times_s[-1] + series.step_s)
    integral = np.concatenate([[0.0], np.cumsum(series.g_per_kwh * np.diff(edges))])
    return np.asarray(
        (np.interp(starts + duration_s, edges, integral) - np.interp(starts, edges, integral)) / duration_s
    )


def open_provider(name: str) -> Provider:
    """Return an object of the class `package.module:Class`.

    Raises:
        BadInput: the class does not exist, or has no method `series`.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"carbon_provider {name!r} cannot be used ({error}); give package.module:Class") from error
    if not callable(getattr(found, "series", None)):
        raise BadInput(f"carbon_provider {name!r} has no method series(began_s, ended_s)")
    provider: Provider = found
    return provider

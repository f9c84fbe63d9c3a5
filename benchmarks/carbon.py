"""What waiting for green electricity saves: `python -m benchmarks.carbon FILE ... [--year 2020]
[--slack 20] [--duration 4]`.

Each file is a year's carbon intensity (a column of times, one of g CO2e per kWh). A job is submitted at every hour of
the year; it starts at once, in the greenest window by a persistence forecast, or in the greenest window by a perfect
one. Printed is the share of carbon saved over all submissions, at equal power all through the job.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from infra.energy.carbon import Series, read_series
from infra.energy.coefficients import read_coefficients
from infra.energy.green import DAY_S, greenest, persistence

HOUR_S = 3600.0


def regular(series: Series) -> Series:
    """Return the series with the few missing steps filled by the value before them."""
    times = np.arange(series.times_s[0], series.times_s[-1] + 1, series.step_s)
    before = np.searchsorted(series.times_s, times, side="right") - 1
    return Series(series.name, times, series.g_per_kwh[before])


def saved(series: Series, year: int, slack_h: float, duration_h: float) -> dict[str, float]:
    """Return the shares saved over the hourly submissions of a year."""
    slack_s, duration_s = slack_h * HOUR_S, duration_h * HOUR_S
    new_year, next_year = (datetime(y, 1, 1, tzinfo=UTC).timestamp() for y in (year, year + 1))
    first = max(new_year, series.times_s[0] + DAY_S)
    last = min(next_year, series.times_s[-1] - slack_s - duration_s)
    grams = {"at once": 0.0, "persistence": 0.0, "perfect": 0.0}
    for now in np.arange(first, last, HOUR_S):
        until = now + slack_s + duration_s
        lo, hi = np.searchsorted(series.times_s, [now - DAY_S - HOUR_S, until + HOUR_S])
        near = Series(series.name, series.times_s[lo:hi], series.g_per_kwh[lo:hi])
        chosen = greenest(persistence(near, now, until), now, slack_s, duration_s).at_s
        best = greenest(near, now, slack_s, duration_s)
        grams["at once"] += best.at_once
        grams["perfect"] += best.expected
        grams["persistence"] += near.mean(chosen, chosen + duration_s)
    return {name: 1 - grams[name] / grams["at once"] for name in ("persistence", "perfect")}


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", default=os.environ.get("KETCYCLE_CARBON_FILES", "").split(), metavar="FILE")
    parser.add_argument("--slack", type=float, default=20.0, help="hours that the job may wait")
    parser.add_argument("--duration", type=float, default=4.0, help="hours that it takes")
    parser.add_argument("--year", type=int, default=2020, help="year of the submissions")
    chosen = parser.parse_args(arguments)
    if not chosen.files:
        sys.stdout.write("carbon: no series given; python -m benchmarks.carbon FILE ... or KETCYCLE_CARBON_FILES\n")
        return
    table = read_coefficients()[0].carbon
    sys.stdout.write(
        f"job of {chosen.duration:g} h, {chosen.slack:g} h of slack, submitted at every hour of {chosen.year}\n"
    )
    sys.stdout.write(f"{'series':28s}{'mean g/kWh':>12s}{'persistence':>13s}{'perfect':>9s}{'captured':>10s}\n")
    for name in chosen.files:
        series = regular(read_series(Path(name), table, "DEU"))
        found = saved(series, chosen.year, chosen.slack, chosen.duration)
        captured = found["persistence"] / found["perfect"]
        mean = float(series.g_per_kwh.mean())
        sys.stdout.write(
            f"{Path(name).name:28s}{mean:12.0f}{found['persistence']:13.1%}{found['perfect']:9.1%}{captured:10.0%}\n"
        )


if __name__ == "__main__":
    main()

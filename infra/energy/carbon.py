"""Carbon intensity of electricity by place and time: an hourly series, else the yearly mean of a country."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from infra.energy.coefficients import Carbon
from infra.errors import BadInput

Array = NDArray[np.float64]

TIMES = ("time", "time_utc", "timestamp", "datetime")
INTENSITIES = ("gco2_per_kwh", "carbon_intensity", "intensity")
ZONES = ("zone", "country")
GAP = 1.5  # distance between two values, in steps, that counts as a gap


@dataclass(frozen=True)
class Series:
    """Intensities over time; a value holds from its time to the next one.

    Attributes:
        name: source of the series.
        times_s: seconds since the epoch, increasing.
        g_per_kwh: g CO2e per kWh from each of these times on.
    """

    name: str
    times_s: Array
    g_per_kwh: Array

    @property
    def step_s(self) -> float:
        """The most frequent distance between two values; of equally frequent distances the smallest."""
        steps, counts = np.unique(np.diff(self.times_s), return_counts=True)
        return float(steps[counts.argmax()])

    def mean(self, began_s: float, ended_s: float) -> float:
        """Return the mean intensity of a time span.

        Raises:
            BadInput: the series does not cover the span, or has a gap in it.
        """
        edges = np.append(self.times_s, self.times_s[-1] + self.step_s)
        if began_s < edges[0] or ended_s > edges[-1]:
            raise BadInput(
                f"{self.name} covers {_text(edges[0])} to {_text(edges[-1])}, the work ran {_text(began_s)} to "
                f"{_text(ended_s)}; give a series of that time, or none for the yearly mean of the country"
            )
        first = int(np.searchsorted(edges, began_s, side="right")) - 1
        last = max(first + 1, int(np.searchsorted(edges, ended_s, side="left")))
        starts, ends = edges[first:last], edges[first + 1 : last + 1]
        known_until = np.where(ends - starts > GAP * self.step_s, starts + self.step_s, ends)
        missing = np.flatnonzero((known_until < ends) & (known_until < ended_s) & (began_s < ends))
        if len(missing):
            gap = f"{_text(known_until[missing[0]])} to {_text(ends[missing[0]])}"
            raise BadInput(
                f"{self.name} has a gap from {gap}, in which work ran; fill it, or give no series for the yearly mean "
                "of the country"
            )
        if ended_s <= began_s:
            return float(self.g_per_kwh[min(first, len(self.g_per_kwh) - 1)])
        weights = np.minimum(ends, ended_s) - np.maximum(starts, began_s)
        return float(np.average(self.g_per_kwh[first:last], weights=weights))


@dataclass(frozen=True)
class Grid:
    """The electricity of the place that computes and of the QPU's site.

    Attributes:
        table: yearly means by country.
        country: country in which the work is computed.
        qpu_country: country of the QPU.
        series: intensities by time where the work is computed; None = the yearly mean of `country`.
    """

    table: Carbon
    country: str
    qpu_country: str = "USA"
    series: Series | None = None

    def intensity(self, began_s: float, ended_s: float) -> float:
        """Return g CO2e per kWh for the place and time of the work.

        Raises:
            BadInput: the series does not cover the time, or the country is not in the table.
        """
        return self.series.mean(began_s, ended_s) if self.series else self.table.intensity(self.country)

    @property
    def qpu_intensity(self) -> float:
        """Yearly mean at the QPU's site, g CO2e per kWh."""
        return self.table.intensity(self.qpu_country)

    @property
    def source(self) -> str:
        """Description of the intensities for the report."""
        return f"by the hour from {self.series.name}" if self.series else f"yearly mean of {self.country}"


def read_series(path: Path, table: Carbon, country: str, timezone: str = "UTC") -> Series:
    """Read a series from CSV or Parquet: a column of times and one of g CO2e per kWh, optionally one of zones.

    Args:
        path: the file.
        table: table with the codes of the country.
        country: country that selects the rows of a file with zones.
        timezone: time zone of times without one; in the hour repeated in autumn the first of two equal times is
            summer time.

    Raises:
        BadInput: the file or a column is missing or invalid.
    """
    columns = _columns(path)
    times, values = _named(path, columns, TIMES), _named(path, columns, INTENSITIES)
    zone = next((columns[name] for name in ZONES if name in columns), None)
    keep = np.ones(len(times), dtype=bool)
    if zone is not None:
        wanted = table.codes(country)
        names = np.asarray(zone.to_pylist(), dtype=object)
        keep = np.isin(names, wanted)
        if not keep.any():
            raise BadInput(f"{path} has no zone {' or '.join(wanted)}; it has {', '.join(sorted(set(names)))}")
    g_per_kwh = _numbers(path, values)[keep]
    known = np.isfinite(g_per_kwh)
    times_s = _seconds(path, times, timezone)[keep][known]
    order = np.argsort(times_s, kind="stable")
    times_s, g_per_kwh = times_s[order], g_per_kwh[known][order]
    if len(times_s) < 2 or (np.diff(times_s) <= 0).any():
        raise BadInput(f"{path}: expected at least two values and no time twice; is a zone column missing?")
    if (g_per_kwh < 0).any():
        raise BadInput(f"{path}: an intensity is negative; expected g CO2e per kWh")
    return Series(path.name, times_s, g_per_kwh)


def _columns(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import csv
    from pyarrow import parquet as pq

    if not path.is_file():
        raise BadInput(f"there is no carbon series {path}; give a CSV or Parquet file")
    try:
        found = pq.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no readable CSV or Parquet file: {error}") from error
    return {name.lower(): found.column(name) for name in found.column_names}


def _named(path: Path, columns: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if name in columns:
            return columns[name]
    raise BadInput(f"{path} has columns {', '.join(columns)}; expected one called {' or '.join(names)}")


def _numbers(path: Path, column: Any) -> Array:
    try:
        return np.asarray([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: an intensity is no number ({error}); expected g CO2e per kWh") from error


def _seconds(path: Path, column: Any, timezone: str) -> Array:
    """Return seconds since the epoch; times without a zone are those of `timezone`."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and (column.type.tz or timezone == "UTC") and not column.null_count:
        # Vectorised form of the code below, for files of a hundred thousand rows.
        return np.asarray(column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()), dtype=np.float64) / 1e6
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BadInput(f"no time zone {timezone!r}; use a name such as Europe/Berlin or UTC") from error
    seen: set[datetime] = set()
    seconds = []
    for value in column.to_pylist():
        try:
            time = datetime.fromisoformat(value) if isinstance(value, str) else value
            if time.tzinfo is None:
                local = time.replace(tzinfo=zone, fold=int(time in seen))
                seen.add(time)
                if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != time:
                    raise BadInput(f"{path}: there was no {time} in {timezone} (the clocks went forward)")
                time = local
            seconds.append(time.timestamp())
        except (TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{path}: {value!r} is no time; expected ISO 8601") from error
    return np.asarray(seconds, dtype=np.float64)


def _text(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"

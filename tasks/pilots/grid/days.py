"""The days that ship: generation by type, conventional generation by hour, and load profiles by hour."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SHA256 = {
    "generation_days.parquet": "b1879d1bead4db949bbd873c1e3551b291c616f6badb73a079f06520cfa1dd6e",
    "load_days.parquet": "b115bea7f2d4071638ba2c3fafa8aa13f0bc327709a010608892220ee508fb65",
}


@dataclass(frozen=True)
class Days:
    """Days of one group: a year of generation, or a load profile.

    Attributes:
        values: (m, d), one day a row.
        weekend: whether the day is a Saturday or a Sunday.
        season: 0 to 3, winter (December to February) first.
    """

    values: FloatArray
    weekend: NDArray[np.int64]
    season: NDArray[np.int64]


@cache
def groups() -> dict[str, dict[str, Days]]:
    """Return the days by source and group: `mix` and `hours` by year, `load` by profile; incomplete days left out."""
    generation, load = _table("generation_days.parquet"), _table("load_days.parquet")
    types = [name for name in generation if name != "date" and not name.startswith("conventional ")]
    conventional = [name for name in generation if name.startswith("conventional ")]
    hours = [name for name in load if name.startswith("hour ")]
    years = np.array([str(day)[:4] for day in generation["date"]])
    return {
        "mix": {year: _days(generation, types, years == year) for year in sorted(set(years))},
        "hours": {year: _days(generation, conventional, years == year) for year in sorted(set(years))},
        "load": {
            str(profile): _days(load, hours, load["profile"] == profile) for profile in dict.fromkeys(load["profile"])
        },
    }


def _days(table: dict[str, NDArray[np.object_]], columns: list[str], chosen: NDArray[np.bool_]) -> Days:
    values = np.stack([table[name][chosen].astype(np.float64) for name in columns], axis=1)
    known = np.isfinite(values).all(axis=1)
    dates = [date.fromisoformat(str(day)) for day in table["date"][chosen][known]]
    weekend = np.array([day.weekday() >= 5 for day in dates], np.int64)
    return Days(values[known], weekend, np.array([day.month % 12 // 3 for day in dates], np.int64))


def _table(name: str) -> dict[str, NDArray[np.object_]]:
    """Return the columns of a file that ships.

    Raises:
        ValueError: the file is not the one that shipped.
    """
    content = (resources.files("tasks.pilots.grid") / "data" / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"{name} has SHA-256 {found}, expected {SHA256[name]}; install ketcycle again")
    table = pq.read_table(io.BytesIO(content))
    return {column: table[column].to_numpy() for column in table.column_names}

"""Carbon by the hour: means over spans, zones, summer time, gaps; against the published series where it is at hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.energy.carbon import Grid, Series, read_series
from infra.energy.coefficients import read_coefficients
from infra.errors import BadInput

SEED_DATA = Path(__file__).parents[3].parent / "shared/data/carbon"
TABLE = read_coefficients()[0].carbon
HOUR = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def hourly(values: list[float], start: str = "2026-01-01 00:00") -> Series:
    return Series("s", at(start) + HOUR * np.arange(len(values)), np.array(values, dtype=float))


def write(path: Path, lines: list[str], header: str = "time,gco2_per_kwh") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_a_span_within_an_hour_has_that_hour_s_value() -> None:
    began = at("2026-01-01 01:10")
    assert hourly([100, 200, 300]).mean(began, began + 60) == 200


def test_a_span_over_hours_is_weighted_by_time() -> None:
    """15 minutes at 100, an hour at 200, 45 minutes at 300."""
    mean = hourly([100, 200, 300]).mean(at("2026-01-01 00:45"), at("2026-01-01 02:45"))
    assert mean == pytest.approx((15 * 100 + 60 * 200 + 45 * 300) / 120)


def test_an_instant_has_the_value_of_its_time() -> None:
    assert hourly([100, 200]).mean(at("2026-01-01 01:00"), at("2026-01-01 01:00")) == 200


def test_the_last_value_holds_for_one_step() -> None:
    series = hourly([100, 200])
    assert series.mean(at("2026-01-01 01:59"), at("2026-01-01 02:00")) == 200
    with pytest.raises(BadInput, match=r"covers 2026-01-01 00:00 UTC to 2026-01-01 02:00 UTC, the work ran"):
        series.mean(at("2026-01-01 01:59"), at("2026-01-01 02:01"))
    with pytest.raises(BadInput, match="yearly mean"):
        series.mean(at("2025-12-31 23:59"), at("2026-01-01 00:01"))


def test_only_a_gap_in_which_work_ran_matters(tmp_path: Path) -> None:
    lines = [f"2026-01-01T{h:02}:00:00Z,{100 + h}" for h in range(10) if h not in (4, 5)]
    series = read_series(write(tmp_path / "s.csv", lines), TABLE, "DEU")
    assert series.mean(at("2026-01-01 01:00"), at("2026-01-01 03:00")) == pytest.approx(101.5)
    assert series.mean(at("2026-01-01 06:00"), at("2026-01-01 07:00")) == 106
    with pytest.raises(BadInput, match="gap from 2026-01-01 04:00 UTC to 2026-01-01 06:00 UTC"):
        series.mean(at("2026-01-01 02:30"), at("2026-01-01 04:30"))
    assert series.mean(at("2026-01-01 02:30"), at("2026-01-01 03:30")) == pytest.approx(102.5)


def test_a_missing_value_is_a_gap(tmp_path: Path) -> None:
    lines = ["2026-01-01T00:00:00Z,1", "2026-01-01T01:00:00Z,2", "2026-01-01T02:00:00Z,", "2026-01-01T03:00:00Z,4"]
    series = read_series(write(tmp_path / "s.csv", lines), TABLE, "DEU")
    with pytest.raises(BadInput, match="gap"):
        series.mean(at("2026-01-01 01:30"), at("2026-01-01 02:30"))


def test_times_with_a_zone_are_taken_as_they_say(tmp_path: Path) -> None:
    lines = ["2026-07-01T02:00:00+02:00,5", "2026-07-01T03:00:00+02:00,6"]
    series = read_series(write(tmp_path / "s.csv", lines), TABLE, "DEU", "America/New_York")
    assert series.times_s[0] == at("2026-07-01 00:00")


def test_times_without_a_zone_are_those_of_the_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", ["2026-07-01 02:00:00,5", "2026-07-01 03:00:00,6"])
    assert read_series(path, TABLE, "DEU").times_s[0] == at("2026-07-01 02:00")
    assert read_series(path, TABLE, "DEU", "Europe/Berlin").times_s[0] == at("2026-07-01 00:00")


def test_the_hour_that_autumn_repeats_is_first_summer_and_then_winter_time(tmp_path: Path) -> None:
    """25 October 2026, 03:00 summer time becomes 02:00: local times 01, 02, 02, 03 are hours in a row."""
    lines = [f"2026-10-25 {h:02}:00:00,{i}" for i, h in enumerate((1, 2, 2, 3))]
    series = read_series(write(tmp_path / "s.csv", lines), TABLE, "DEU", "Europe/Berlin")
    assert series.times_s.tolist() == [at(f"2026-10-{d} {h:02}:00") for d, h in ((24, 23), (25, 0), (25, 1), (25, 2))]
    assert series.g_per_kwh.tolist() == [0, 1, 2, 3]


def test_an_hour_that_spring_leaves_out_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", ["2026-03-29 01:00:00,1", "2026-03-29 02:00:00,2"])
    with pytest.raises(BadInput, match=r"no 2026-03-29 02:00:00 in Europe/Berlin"):
        read_series(path, TABLE, "DEU", "Europe/Berlin")


def test_a_file_of_many_zones_gives_the_country_s(tmp_path: Path) -> None:
    lines = [f"2026-01-01T0{h}:00:00Z,{zone},{value}" for h in (0, 1) for zone, value in (("DE", 300 + h), ("FR", 40))]
    path = write(tmp_path / "s.csv", lines, "time_utc,zone,gco2_per_kwh")
    assert read_series(path, TABLE, "DEU").g_per_kwh.tolist() == [300, 301]
    assert read_series(path, TABLE, "fr").g_per_kwh.tolist() == [40, 40]
    with pytest.raises(BadInput, match="no zone NOR or NO; it has DE, FR"):
        read_series(path, TABLE, "NO")


def test_csv_and_parquet_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", ["2026-01-01T00:00:00Z,1.5", "2026-01-01T01:00:00Z,2"])
    times = pa.array([at("2026-01-01 00:00") * 1e6, at("2026-01-01 01:00") * 1e6]).cast(pa.int64())
    table = pa.table({"time": times.cast(pa.timestamp("us", "UTC")), "gco2_per_kwh": [1.5, 2.0]})
    pq.write_table(table, tmp_path / "s.parquet")
    a, b = read_series(path, TABLE, "DEU"), read_series(tmp_path / "s.parquet", TABLE, "DEU")
    assert a.times_s.tolist() == b.times_s.tolist()
    assert a.g_per_kwh.tolist() == b.g_per_kwh.tolist()


@pytest.mark.parametrize(
    ("header", "lines", "said"),
    [
        ("when,gco2_per_kwh", ["2026-01-01,1"], "expected one called time or"),
        ("time,price", ["2026-01-01,1"], "expected one called gco2_per_kwh or"),
        ("time,gco2_per_kwh", ["yesterday,1", "today,2"], "'yesterday' is no time"),
        ("time,gco2_per_kwh", ["2026-01-01T00:00:00Z,low", "2026-01-01T01:00:00Z,2"], "is no number"),
        ("time,gco2_per_kwh", ["2026-01-01T00:00:00Z,-1", "2026-01-01T01:00:00Z,2"], "negative"),
        ("time,gco2_per_kwh", ["2026-01-01T00:00:00Z,1", "2026-01-01T00:00:00Z,2"], "no time twice"),
        ("time,gco2_per_kwh", ["2026-01-01T00:00:00Z,1"], "at least two values"),
        ("time,gco2_per_kwh", ["2026-01-01T00:00:00Z,1,7"], "no readable CSV"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, header: str, lines: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_series(write(tmp_path / "s.csv", lines, header), TABLE, "DEU")


def test_a_missing_file_and_an_unknown_time_zone_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no carbon series"):
        read_series(tmp_path / "none.csv", TABLE, "DEU")
    path = write(tmp_path / "s.csv", ["2026-07-01 02:00:00,5", "2026-07-01 03:00:00,6"])
    with pytest.raises(BadInput, match="no time zone 'Mars/Olympus'"):
        read_series(path, TABLE, "DEU", "Mars/Olympus")


def test_without_a_series_the_yearly_mean_of_the_country_counts() -> None:
    grid = Grid(TABLE, "FRA")
    assert grid.intensity(0, 1) == 44.2
    assert grid.source == "yearly mean of FRA"
    assert grid.qpu_intensity == 383.5


@pytest.mark.skipif(not SEED_DATA.is_dir(), reason="the published series are not beside the repository")
def test_the_mean_over_half_a_year_is_the_series_own() -> None:
    path = SEED_DATA / "ger_2020_ci.parquet"
    series = read_series(path, TABLE, "DEU")
    half = (at("2020-01-01 00:00"), at("2020-07-01 00:00"))
    values = np.asarray(pq.read_table(path)["gco2_per_kwh"], dtype=float)
    inside = (series.times_s >= half[0]) & (series.times_s < half[1])
    assert series.step_s == 900
    assert series.mean(*half) == pytest.approx(values[inside].mean())
    with pytest.raises(BadInput, match="gap from 2020-12-19 23:15 UTC to 2020-12-19 23:30 UTC"):
        series.mean(at("2020-12-19 00:00"), at("2020-12-21 00:00"))


@pytest.mark.skipif(not SEED_DATA.is_dir(), reason="the published series are not beside the repository")
def test_one_file_holds_many_countries() -> None:
    path = SEED_DATA / "eu_2020_hourly_ci_from_entsoe.parquet"
    week = (at("2020-06-01 00:00"), at("2020-06-08 00:00"))
    means = {code: read_series(path, TABLE, code).mean(*week) for code in ("FRA", "DEU", "POL")}
    assert means["FRA"] < means["DEU"] < means["POL"]

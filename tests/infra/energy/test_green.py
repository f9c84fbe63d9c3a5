from __future__ import annotations

import numpy as np
import pytest

from infra.energy.carbon import Series
from infra.energy.green import DAY_S, greenest, open_provider, persistence
from infra.errors import BadInput

HOUR_S = 3600.0


def hourly(values: list[float], began_s: float = 0.0) -> Series:
    return Series("test", began_s + HOUR_S * np.arange(len(values)), np.asarray(values, np.float64))


def test_the_greenest_window_is_that_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    series = hourly(rng.uniform(50, 500, 48).tolist())
    for now, slack, duration in ((0.0, 20.0, 4.0), (1800.0, 7.5, 2.25), (900.0, 0.0, 3.0)):
        found = greenest(series, now, slack * HOUR_S, duration * HOUR_S)
        starts = now + np.arange(0, slack * HOUR_S + 1, 60)
        means = [series.mean(s, s + duration * HOUR_S) for s in starts]
        assert found.expected == pytest.approx(series.mean(found.at_s, found.at_s + duration * HOUR_S))
        assert found.expected <= min(means) + 1e-9
        assert now <= found.at_s <= now + slack * HOUR_S
        assert found.at_once == pytest.approx(means[0])


def test_of_equal_windows_the_earliest_is_taken() -> None:
    assert greenest(hourly([100.0] * 48), 5 * HOUR_S, 20 * HOUR_S, 4 * HOUR_S).at_s == 5 * HOUR_S


def test_persistence_repeats_the_last_day_and_knows_nothing_later() -> None:
    day = [float(300 - 100 * (10 <= hour < 14)) for hour in range(24)]
    known = hourly(day + [0.0] * 24)  # what comes is zero, and must not be seen
    forecast = persistence(known, DAY_S, DAY_S + 24 * HOUR_S)
    assert forecast.mean(DAY_S, 2 * DAY_S) == pytest.approx(np.mean(day))
    found = greenest(forecast, DAY_S, 20 * HOUR_S, 4 * HOUR_S)
    assert (found.at_s, found.expected, found.at_once) == (DAY_S + 10 * HOUR_S, 200.0, 300.0)
    assert found.saving == pytest.approx(1 / 3)


def test_persistence_holds_from_now_on_in_the_middle_of_a_step() -> None:
    now = DAY_S + 20 * 60
    forecast = persistence(hourly([float(hour) for hour in range(25)]), now, now + DAY_S)
    assert forecast.mean(now, now + 40 * 60) == 0.0
    assert forecast.mean(now + 40 * 60, now + 100 * 60) == 1.0


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(BadInput, match="covers"):
        persistence(hourly([1.0] * 24), 10 * DAY_S, 11 * DAY_S)
    with pytest.raises(BadInput, match="covers"):
        greenest(hourly([1.0] * 5), 0.0, 20 * HOUR_S, 4 * HOUR_S)
    for name in ("nothing", "json:dumps", "no.such:Thing", "collections:Counter"):
        with pytest.raises(BadInput, match="carbon_provider"):
            open_provider(name)

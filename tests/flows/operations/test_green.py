from __future__ import annotations

import time
from pathlib import Path

import pytest

from flows.operations.evidence_report import weekly
from flows.operations.green import Slack, plan, record, score
from infra import settings
from infra.settings import Settings
from infra.shared import open_evidence

HOUR_S = 3600.0


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    """Return settings with a series that is clean for four hours of each day, six hours after now."""
    now = time.time() // HOUR_S * HOUR_S
    rows = [(now + HOUR_S * h, 100 if 6 <= h % 24 < 10 else 400) for h in range(-48, 48)]
    lines = [f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}Z,{value}" for at, value in rows]
    (tmp_path / "series.csv").write_text("\n".join(["time,gco2_per_kwh", *lines]))
    return settings.load(home=tmp_path / "home", carbon_series=tmp_path / "series.csv")


def test_a_start_is_planned_recorded_and_scored(loaded: Settings) -> None:
    now = time.time() // HOUR_S * HOUR_S
    start, forecast = plan(loaded, now, Slack(hours=20, duration_h=4))
    assert (start.at_s - now, start.expected, start.at_once) == (6 * HOUR_S, 100, 400)
    assert forecast.name == "persistence of series.csv"
    record(loaded, "start-1", "lifecycle/nightly", now, start, Slack(hours=20, duration_h=4))
    (scored,) = score(loaded)
    assert scored["saved"] == pytest.approx(0.75)
    assert (scored["at once"], scored["chosen"], scored["perfect"], scored["waited_h"]) == (400, 100, 100, 6)
    assert score(loaded) == [scored]
    assert not open_evidence(loaded.home).read()  # it is no decision of the contract
    text = weekly(loaded.home, 7, [scored])
    assert "| lifecycle/nightly | 6.0 | 400 | 100 | 100 | 75.0% | 75.0% |" in text
    assert "No run was finished." in text


def test_a_start_that_nothing_is_known_of_yet_waits_for_its_score(loaded: Settings) -> None:
    far = time.time() + 30 * 24 * HOUR_S
    start, _ = plan(loaded, time.time(), Slack(hours=20, duration_h=4))
    record(loaded, "start-2", "lifecycle/nightly", far, start, Slack(hours=20, duration_h=4))
    assert score(loaded) == []

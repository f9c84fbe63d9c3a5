from __future__ import annotations

import json

import pytest

from tasks.monitoring.watching.harm import Harm, Verdict
from tasks.monitoring.watching.standing import Standing, decide_event
from tasks.monitoring.watching.states import Level, Rules, Watch

HELD, HARMED, UNCLEAR = (Harm(0.0, 0.0, 0.0, 0.5, verdict) for verdict in Verdict)


@pytest.mark.parametrize(
    ("drift", "harm", "quality", "event"),
    [
        (Watch(), HELD, Watch(), None),
        (Watch(announced="drift.warning"), None, None, "drift.warning"),
        (Watch(standing=Level.ALERT, announced="drift.detected"), HELD, Watch(), "drift.warning"),
        (Watch(standing=Level.ALERT, announced="drift.detected"), HARMED, Watch(), "drift.detected"),
        (Watch(standing=Level.ALERT, announced="drift.detected"), UNCLEAR, Watch(), "drift.detected"),
        (Watch(standing=Level.ALERT, announced="drift.detected"), None, None, "drift.detected"),
        (Watch(standing=Level.ALERT), HARMED, Watch(announced="drift.detected"), "drift.detected"),
        (Watch(), HARMED, Watch(announced="drift.detected"), "quality.regressed"),
        (Watch(announced="drift.cleared"), HELD, Watch(), "drift.cleared"),
    ],
)
def test_the_table_of_drift_and_harm(drift: Watch, harm: Harm | None, quality: Watch | None, event: str | None) -> None:
    assert decide_event(drift, harm, quality) == event


def test_windows_are_followed_across_calls_that_keep_plain_json_only() -> None:
    rules = Rules(level=0.05, minimum=10, debounce=2, recovery=1, cool_down=0)
    worse = Harm(-1.0, -1.2, -0.8, 0.001, Verdict.HARMED)
    standing, events = Standing(), []
    for requests, p_value in ((40, 0.5), (40, 0.01), (5, 1.0), (40, 0.01), (40, 0.5)):
        standing, event = Standing.parse(json.loads(json.dumps(standing.asdict()))).after(
            requests, p_value, worse, rules
        )
        events.append((str(standing.drift.level), event))
    # Harm alone regresses quality on its second window; with the alert it is drift.
    assert events == [
        ("ok", None), ("warning", "quality.regressed"), ("insufficient", None), ("alert", "drift.detected"),
        ("ok", "drift.cleared"),
    ]  # fmt: skip
    assert Standing.parse(None) == Standing()

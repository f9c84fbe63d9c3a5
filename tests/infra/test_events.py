from __future__ import annotations

import numpy as np
import pytest

from infra import events
from infra.errors import BadInput, EventNotSent

DRIFT = {"model": "demo", "window": "w", "streak": "s", "requests": 40, "p_value": 0.01, "state": "alert"}


def test_without_a_server_an_event_is_only_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert events.emit("drift.detected", DRIFT) is False


def test_a_server_that_does_not_answer_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise EventNotSent("away")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(events, "send", away)
    assert events.emit("drift.detected", DRIFT) is False


def test_unknown_names_and_unfit_payloads_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown event"):
        events.emit("drift.guessed", {})
    with pytest.raises(BadInput, match="p_value: Input should be a valid number"):
        events.emit("drift.detected", DRIFT | {"p_value": np.zeros(2)})
    with pytest.raises(BadInput, match="data: String should match"):
        events.emit("drift.detected", DRIFT | {"data": "../../etc/passwd"})


def test_an_occurrence_told_twice_is_one_event() -> None:
    payload = events.checked("drift.detected", DRIFT)
    assert events.event_id("drift.detected", payload, "s") == events.event_id("ketcycle.drift.detected", payload, "s")
    assert events.event_id("drift.detected", payload, "s") != events.event_id("drift.detected", payload, "t")
    assert events.event_id("drift.detected", payload, "s") != events.event_id("drift.cleared", payload, "s")

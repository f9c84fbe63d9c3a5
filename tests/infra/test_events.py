from __future__ import annotations

import numpy as np
import pytest

from infra import events
from infra.errors import BadInput


def test_without_a_server_an_event_is_only_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert events.emit("drift.detected", "ketcycle.model.demo", {"p": 0.01}) is False


def test_unknown_names_and_unplain_payloads_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown event"):
        events.emit("drift.guessed", "ketcycle.model.demo", {})
    with pytest.raises(BadInput, match="plain JSON"):
        events.emit("drift.detected", "ketcycle.model.demo", {"p": np.zeros(2)})

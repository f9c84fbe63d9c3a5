from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.operations import drift_watch as module
from flows.operations.drift_watch import Watching, drift_watch
from infra.events import checked
from infra.lake import Lake, Ref
from infra.shared import open_evidence
from tasks.options import SettleOptions
from tasks.serving.request_log import REQUESTS, SCHEMA
from tasks.text.embeddings import DIMENSION

BEGAN = datetime(2026, 9, 21, 8, tzinfo=UTC)
MODEL = "ketcycle/3"


def put(lake: Lake, hour: int, count: int, shift: float, rng: np.random.Generator) -> None:
    at = BEGAN + timedelta(hours=hour)
    vectors = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    vectors[:, 0] += shift
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"request_id": f"{hour}-{i}", "run_id": "serve", "time": at + timedelta(seconds=i), "model_version": MODEL}
        | {"mean_logprob": -4.0 - shift + rng.normal(scale=0.1), "embedding": vectors[i].tolist(), "prompt_tokens": 9}
        for i in range(count)
    ]
    lake.write(f"{REQUESTS}/{at:%Y%m%dt%H}", pa.Table.from_pylist(rows, SCHEMA))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = []
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "emit", lambda name, payload, once: found.append((name, checked(name, payload), once)))
    monkeypatch.setattr(module, "create_table_artifact", lambda *_, **__: None)
    return found


def test_a_streak_of_drifted_windows_is_told_once_with_its_window_in_the_lake(
    told: list[tuple[str, Any, str]], tmp_path: Path
) -> None:
    lake, rng, watching = (
        Lake(tmp_path / "lake"),
        np.random.default_rng(0),
        Watching(reference=60, beside_s=0, settle=SettleOptions(minimum_s=0)),
    )

    def step(hour: int) -> Any:
        return drift_watch.fn(watching, BEGAN + timedelta(hours=hour))

    assert "no requests" in step(0).message
    put(lake, 0, 59, 0, rng)
    assert "too few for a reference" in step(1).message
    put(lake, 1, 101, 0, rng)
    assert "ok, 100 requests" in step(2).message
    assert "0 requests since" in step(2).message  # the same call again: nothing is judged twice
    for hour in (2, 3, 4):
        put(lake, hour, 60, 6.0, rng)
        step(hour + 1)
    for hour in (5, 6):
        put(lake, hour, 60, 0.0, rng)
        step(hour + 1)
    assert [name for name, _, _ in told] == ["drift.warning", "drift.detected", "drift.cleared"]
    warned, detected = told[0][1], told[1][1]
    assert detected.streak == warned.streak == f"{MODEL} 2026-09-21T11:00:00Z"
    assert detected.window == "2026-09-21T12:00:00Z"
    table = lake.read(Ref.parse(detected.data))
    assert set(table["window"].to_pylist()) == {detected.window}
    assert table.num_rows == detected.requests == 60


def test_a_window_is_a_decision_like_any_other(told: list[tuple[str, Any, str]], tmp_path: Path) -> None:
    """The incumbent decides while no arm is certified; others run beside it on a probe of known truth."""
    lake, rng = Lake(tmp_path / "lake"), np.random.default_rng(1)
    watching = Watching(reference=60, settle=SettleOptions(minimum_s=0), beside_s=0.5)
    put(lake, 0, 60, 0, rng)
    put(lake, 1, 40, 0, rng)
    message = str(drift_watch.fn(watching, BEGAN + timedelta(hours=2)).message)
    assert "ok, 40 requests" in message
    assert "shadow arms run on a probe" in message
    rows = open_evidence(tmp_path).read(stage="monitoring", subtask="drift")
    (chosen,) = [row for row in rows if row.chosen]
    assert chosen.arm == "kernel-pool"
    assert chosen.run_id == "watch-ketcycle-3-2026-09-21T100000Z"
    assert (chosen.method, chosen.data, chosen.qualities) == ("auto", "requests", ())
    assert "insufficient" in json.loads(chosen.decision)["reason"]
    beside = {row.arm: row for row in rows if row.probe}
    assert {"kernel-pool", "quantum-kernel-exact"} <= set(beside)
    assert len(beside["kernel-pool"].qualities) == 6  # one for each planted window
    assert beside["quantum-kernel"].status == "done"
    assert beside["quantum-kernel"].usage.circuits > 0
    assert {row.unit for row in rows} == {chosen.unit} != {""}

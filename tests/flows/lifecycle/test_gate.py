"""The gate with a real registry and lake; what the models make of the documents is given, to meet each verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.lifecycle import gate
from flows.lifecycle.gate import Gate, Judged, judge_run
from infra import completion, settings
from infra.events import Drift
from infra.lake import Lake
from infra.settings import Settings
from infra.tracking import open_tracking
from tasks.text.embeddings import embed

pytestmark = pytest.mark.slow

TEXTS = [f"document {k} of the {word}" for k in range(20) for word in ("queue", "kitchen")]


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    return settings.load()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    monkeypatch.setattr(gate, "emit", lambda name, payload, once: found.append((name, once)))
    return found


def registered(loaded: Settings, run_id: str) -> int:
    """Leave behind what a run does that made a model, and return the version."""
    lake = Lake(loaded.home / "lake")
    source = loaded.home / run_id
    source.mkdir()
    (source / "weights").write_text(run_id)
    model = lake.put_folder("inference/model", source)
    rows = {"split": ["test"] * len(TEXTS) + ["val"], "text": [*TEXTS, "never judged on"]}
    holdout = lake.write("preprocessing/holdout", pa.table(rows))
    version = open_tracking().register("demo", lake.folder(model), "challenger", {})
    facts = {"registered": {"name": "demo", "version": version}}
    parts = {"inputs": {"preprocessing/holdout": str(holdout)}}
    completion.record(
        loaded.home, run_id, "inference", parts, {"facts": facts, "refs": {"inference/model": str(model)}}
    )
    return version


def reading(monkeypatch: pytest.MonkeyPatch, gained: Any) -> list[list[str]]:
    """Let the newer model gain some bits per byte on each document; returns what was read."""
    read: list[list[str]] = []

    def bits(_: Path, texts: list[str]) -> Any:
        read.append(texts)
        noise = np.random.default_rng(0).normal(0, 1e-3, len(texts))
        return noise if len(read) % 2 else -np.array([gained(text) for text in texts]) - noise

    monkeypatch.setattr(gate, "document_bits", bits)
    return read


def test_the_first_model_passes_and_a_run_without_a_model_is_not_judged(
    loaded: Settings, told: list[tuple[str, Any]]
) -> None:
    assert judge_run(loaded, "nothing") is None
    registered(loaded, "one")
    judged = judge_run(loaded, "one")
    then = "champion of demo: none -> version 1 (gate: there is no champion yet)"
    assert judged == Judged("demo", 1, None, True, "there is no champion yet", then)
    assert told == [("model.validated", "1 one")]
    described = open_tracking()._client.get_model_version("demo", "1").description
    assert described == f"Gate: {judged}"
    open_tracking().promote("demo", 1, "champion")
    assert judge_run(loaded, "one") is None, "the champion is not judged against itself"


def test_a_better_model_passes_and_a_worse_one_is_told(
    loaded: Settings, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(loaded, "one")
    open_tracking().promote("demo", 1, "champion")
    registered(loaded, "two")
    read = reading(monkeypatch, lambda text: 0.05)
    judged = judge_run(loaded, "two", Gate(documents=30))
    assert judged is not None
    assert judged.passed
    assert str(judged).startswith("demo version 2 against version 1: passed; +0.04")
    assert len(read[0]) == 30
    assert "never judged on" not in read[0]
    assert "champion of demo: version 1 -> version 2" in judged.then
    registered(loaded, "three")
    reading(monkeypatch, lambda text: -0.05)
    judged = judge_run(loaded, "three")
    assert judged is not None
    assert not judged.passed
    assert told == [("model.validated", "2 two"), ("quality.regressed", "3 three")]


def test_what_resembles_the_drifted_requests_decides(
    loaded: Settings, told: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(loaded, "one")
    open_tracking().promote("demo", 1, "champion")
    registered(loaded, "two")
    asked = ["what is in the kitchen", "the kitchen of document 3"]
    table = pa.table({"window": ["w"] * 2, "embedding": embed(asked).tolist()})
    data = str(Lake(loaded.home / "lake").write("monitoring/watch_windows", table))
    drift = Drift(model="m", window="w", data=data, streak="s", requests=2, p_value=0.001, state="alert")
    reading(monkeypatch, lambda text: 0.0)
    judged = judge_run(loaded, "two", drift=drift)
    assert judged is not None
    assert "like the drifted requests" in judged.reason
    assert not judged.passed
    own = [f"{text}, kept out of training" for text in asked * 3]
    read = reading(monkeypatch, lambda text: 0.05 if "kept out" in text else 0.0)
    judged = judge_run(loaded, "two", drift=drift, asked=own)
    assert judged is not None
    assert read[0][-6:] == own
    assert "on the 6 like the drifted requests" in judged.reason
    assert judged.passed

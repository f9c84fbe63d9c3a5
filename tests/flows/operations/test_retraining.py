from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.lifecycle.config import RunConfig
from flows.operations import retraining
from flows.operations.retraining import Rules
from infra import settings
from infra.claims import Claims
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.events import Drift
from infra.evidence import Evidence, orchestration_row
from infra.lake import Lake
from infra.settings import Settings
from tasks.corpus.read import Reader
from tasks.corpus.sample import sample_path
from tasks.serving.request_log import REQUESTS, SCHEMA
from tasks.text.embeddings import DIMENSION

DRIFT = Drift(model="m", window="w", streak="s2", requests=40, p_value=0.001, state="alert")


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(home=tmp_path / "home")


def test_the_cool_down_counts_from_the_last_retraining_of_the_same_model(loaded: Settings) -> None:
    claims = Claims(loaded.ledger, retraining.SCOPE)
    assert retraining._too_soon(claims, DRIFT, Rules()) == ""
    claims.claim("s1", "run-1", "another")
    claims.finish("s1", "run-1")
    assert retraining._too_soon(claims, DRIFT, Rules()) == ""
    claims.claim("s1 of ours", "run-2", "ketcycle")
    assert retraining._too_soon(claims, DRIFT, Rules()) == "", "it has not completed"
    claims.finish("s1 of ours", "run-2")
    assert "by flow run run-2; 24 h must pass" in retraining._too_soon(claims, DRIFT, Rules())
    assert retraining._too_soon(claims, DRIFT, Rules(cool_down_h=0)) == ""


def test_the_energy_of_earlier_retrainings_and_one_more_must_fit(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(retraining, "emit", lambda name, payload, once: told.append((name, payload)))
    assert retraining._over_budget(loaded, RunConfig(), Rules(energy_kj=0.001)) == ""  # nothing was spent yet
    for run, cpu_s in (("retrain-a", 1000.0), ("retrain-b", 2000.0), ("nightly", 1e9)):
        (loaded.home / "runs" / run).mkdir(parents=True)
        Evidence(loaded.home / "evidence").append([orchestration_row(run, Usage(cpu_s=cpu_s))])
    a, b = (
        Coefficients.load().cpu_energy_j(Usage(cpu_s=cpu_s), "narrow", "modelled").p50 / 1000 for cpu_s in (1000, 2000)
    )
    needed = a + b + b  # both, and one more like the dearest
    assert retraining._over_budget(loaded, RunConfig(), Rules(energy_kj=needed * 1.001)) == ""
    assert told == []
    reason = retraining._over_budget(loaded, RunConfig(), Rules(energy_kj=needed * 0.999))
    assert "energy: 2 retrainings took" in reason
    assert told == [("budget.exhausted", {"what": "retraining of ketcycle", "reason": reason})]


def test_texts_of_the_window_join_the_corpus_and_others_judge(loaded: Settings) -> None:
    lake, at = Lake(loaded.home / "lake"), datetime(2026, 9, 21, 8, 30, tzinfo=UTC)
    texts = [" ".join(f"word{k}x{n}" for n in range(30)) for k in range(100)]
    blank = dict.fromkeys(SCHEMA.names) | {"run_id": "serve", "time": at, "embedding": [0.0] * DIMENSION}
    rows = [blank | {"request_id": str(k), "prompt": text} for k, text in enumerate(texts)]
    window = pa.table({"window": ["w"] * 100, "request_id": [str(k) for k in range(100)], "time": [at] * 100})
    data = str(lake.write("monitoring/watch_windows", window))
    drift = DRIFT.model_copy(update={"data": data})
    assert retraining._asked(loaded, drift) == (
        [], [], "; trained without the window's texts, of which the request log keeps 0"
    )  # fmt: skip
    lake.write(f"{REQUESTS}/20260921t08", pa.Table.from_pylist(rows, SCHEMA))
    learned, judged, said = retraining._asked(loaded, drift)
    assert sorted([*learned, *judged]) == sorted(texts)
    assert said == f"; trained on {len(learned)} texts of the window, judged on {len(judged)}"
    *given, file = retraining._with_requests(loaded, "r", (), learned)
    assert given == [str(sample_path("base"))]
    found = [document for batch in Reader("base").read([Path(file)]) for document in batch]
    assert "\n\n".join(document.text for document in found) == "\n\n".join(learned)
    assert all(document.doc_id.startswith("asked-") for document in found)
    assert retraining._asked(loaded, DRIFT)[:2] == ([], [])

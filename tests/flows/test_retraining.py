from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import retraining
from flows.config import RunConfig
from flows.retraining import Rules
from infra import settings
from infra.claims import Claims
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.events import Drift
from infra.evidence import Evidence, orchestration_row
from infra.settings import Settings

DRIFT = Drift(model="m", window="w", streak="s2", requests=40, p_value=0.001, state="alert")


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(home=tmp_path / "home")


def test_the_cool_down_counts_from_the_last_retraining_of_the_same_model(loaded: Settings) -> None:
    claims = Claims(loaded.ledger, retraining.SCOPE)
    assert retraining._too_soon(claims, DRIFT, Rules()) == ""
    claims.claim("s1", "run-1", "another")
    assert retraining._too_soon(claims, DRIFT, Rules()) == ""
    claims.claim("s1 of ours", "run-2", "ketcycle")
    assert "by flow run run-2; 24 h must pass" in retraining._too_soon(claims, DRIFT, Rules())
    assert retraining._too_soon(claims, DRIFT, Rules(cool_down_h=0)) == ""


def test_the_energy_of_earlier_retrainings_and_one_more_must_fit(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(retraining, "emit", lambda name, payload: told.append((name, payload)))
    assert retraining._too_dear(loaded, RunConfig(), Rules(energy_kj=0.001)) == ""  # nothing was spent yet
    for run, cpu_s in (("retrain-a", 1000.0), ("retrain-b", 2000.0), ("nightly", 1e9)):
        (loaded.home / "runs" / run).mkdir(parents=True)
        Evidence(loaded.home / "evidence").append([orchestration_row(run, Usage(cpu_s=cpu_s))])
    a, b = (
        Coefficients.load().cpu_energy_j(Usage(cpu_s=cpu_s), "narrow", "modelled").p50 / 1000 for cpu_s in (1000, 2000)
    )
    needed = a + b + b  # both, and one more like the dearest
    assert retraining._too_dear(loaded, RunConfig(), Rules(energy_kj=needed * 1.001)) == ""
    assert told == []
    reason = retraining._too_dear(loaded, RunConfig(), Rules(energy_kj=needed * 0.999))
    assert "energy: 2 retrainings took" in reason
    assert told == [("budget.exhausted", {"what": "retraining of ketcycle", "reason": reason})]

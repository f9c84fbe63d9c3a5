"""Answers the event `drift.detected`: trains a challenger and judges it against the champion."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from prefect import State, flow
from pydantic import BaseModel, ConfigDict, Field

from flows.lifecycle.answers import claims_of, done, named_by, own_id, skipped, taken
from flows.lifecycle.cancel import on_cancellation
from flows.lifecycle.config import RunConfig
from flows.lifecycle.gate import GATE, Gate, judge_run
from flows.lifecycle.lifecycle import lifecycle
from infra import completion, runs, settings
from infra.claims import Claims
from infra.energy.model import Coefficients
from infra.errors import LakeError
from infra.events import Drift, emit
from infra.lake import Ref, write_atomic
from infra.runtime.backends.registry import is_remote
from infra.runtime.ledger.budget import remaining
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings
from infra.shared import open_evidence, open_lake
from tasks.corpus.sample import sample_path
from tasks.monitoring.asked import apart, documents, texts_of

log = logging.getLogger("ketcycle.retraining")

SCOPE = "retrain-on-drift"
DAYS = 30
FEWEST_ASKED = 5  # texts of a window that are needed to judge the models on them
STAGES = ("curation", "preprocessing", "architecture", "training", "finetuning", "inference")


class Rules(BaseModel):
    """When a drift starts a retraining."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cool_down_h: float = Field(24.0, ge=0, description="Minimum hours between two retrainings of a model.")
    energy_kj: float = Field(
        5000.0, ge=0, description="Maximum modelled CPU energy of all retrainings of the last 30 days, kJ."
    )
    learn: bool = Field(True, description="Also train on the window's texts, if the request log keeps texts.")
    name: str = Field("ketcycle", description="Name of the model in the registry.")


CHALLENGER, RULES = RunConfig(stages=STAGES), Rules()


@flow(
    name="retrain-on-drift",
    flow_run_name=lambda: named_by("drift", "window"),
    on_cancellation=[on_cancellation],
)
def retrain_on_drift(
    drift: Drift, config: RunConfig = CHALLENGER, rules: Rules = RULES, gate: Gate = GATE
) -> State[Any]:
    """Train a challenger, once for each streak of drifted windows, and judge it against the champion.

    Args:
        drift: The drifted window, with the lake reference of its requests.
        config: How the challenger is trained.
        rules: When it is trained.
        gate: When it may serve.
    """
    if drift.demonstration:
        return skipped(f"window {drift.window} is a demonstration: the run that found its drift had planted it")
    loaded = settings.load()
    claims = claims_of(loaded, SCOPE)
    if other := claims.claim(drift.streak, own_id(), rules.name):
        return taken(f"streak {drift.streak}", other)
    if reason := _too_soon(claims, drift, rules) or _over_budget(loaded, config, rules):
        claims.release(drift.streak, own_id())
        return skipped(reason)
    run_id = config.run_id or f"retrain-{completion.digest(streak=drift.streak)}"
    learned, judged_on, said = _asked(loaded, drift) if rules.learn else ([], [], "")
    corpus = _with_requests(loaded, run_id, config.corpus, learned) if learned else config.corpus
    lifecycle(config.model_copy(update={"run_id": run_id, "corpus": corpus}), gate=None)
    judged = judge_run(loaded, run_id, gate, drift, judged_on)
    claims.finish(drift.streak, own_id())
    return done(f"{judged or f'run {run_id} registered no new model'}{said}")


def _asked(loaded: Settings, drift: Drift) -> tuple[list[str], list[str], str]:
    """Return the window's texts for training, those for judging, and a sentence about them."""
    try:
        texts = texts_of(open_lake(loaded.home), Ref.parse(drift.data), drift.window) if drift.data else []
    except LakeError as error:
        log.warning("the drifted requests cannot be read: %s", error)
        texts = []
    learned, judged_on = apart(texts)
    if len(judged_on) < FEWEST_ASKED:
        return [], [], f"; trained without the window's texts, of which the request log keeps {len(texts)}"
    return learned, judged_on, f"; trained on {len(learned)} texts of the window, judged on {len(judged_on)}"


def _with_requests(loaded: Settings, run_id: str, corpus: tuple[str, ...], texts: list[str]) -> tuple[str, ...]:
    """Return the corpus with a file of the requests, joined into documents."""
    path = runs.folder(loaded.home, run_id) / "requests.jsonl"
    # Ids derived from the content, so that a text is held out in every retraining or in none.
    rows = [{"id": f"asked-{sha256(text.encode()).hexdigest()[:16]}", "text": text} for text in documents(texts)]
    write_atomic(path, "".join(json.dumps(row | {"source": "requests"}) + "\n" for row in rows))
    return (*(corpus or (str(sample_path("base")),)), str(path))


def _too_soon(claims: Claims, drift: Drift, rules: Rules) -> str:
    last = claims.newest(rules.name, drift.streak)
    if last is None or last.finished is None:
        return ""
    hours = (time.time() - last.finished) / 3600
    if hours >= rules.cool_down_h:
        return ""
    return (
        f"cool-down: {rules.name} was retrained {hours:.1f} h ago by flow run {last.holder}; "
        f"{rules.cool_down_h:g} h must pass"
    )


def _over_budget(loaded: Settings, config: RunConfig, rules: Rules) -> str:
    """Return which budget a retraining would exceed, and emit it as an event; empty if none.

    A retraining is expected to take as much energy as the most expensive one so far.
    """
    spent = _spent_kj(loaded)
    dearest = max(spent.values(), default=0.0)
    reason = ""
    if sum(spent.values()) + dearest > rules.energy_kj:
        reason = (
            f"energy: {len(spent)} retrainings took {sum(spent.values()):.3g} kJ (modelled) in {DAYS} days and the "
            f"next one may take {dearest:.3g} kJ, the limit is {rules.energy_kj:g} kJ"
        )
    elif is_remote(config.backend):
        over = [f"{scope} {unit}" for (scope, unit), left in remaining(Ledger(loaded.ledger)).items() if left <= 0]
        reason = f"nothing is left of the quantum budget per {', '.join(over)}" if over else ""
    if reason:
        what = f"retraining of {rules.name}"
        emit("budget.exhausted", {"what": what, "reason": reason}, once=f"{what} {datetime.now(UTC):%Y-%m-%d}")
    return reason


def _spent_kj(loaded: Settings) -> dict[str, float]:
    """Return the modelled CPU energy of each retraining of the last days."""
    coefficients, since = Coefficients.load(), time.time() - DAYS * 86400
    spent: dict[str, float] = {}
    for folder in (loaded.home / "runs").glob("retrain-*"):
        if folder.stat().st_mtime >= since:
            rows = open_evidence(loaded.home).scan(folder.name)
            joules = (coefficients.cpu_energy_j(row.total, "narrow", row.energy_source).p50 for row in rows)
            spent[folder.name] = sum(joules) / 1000
    return spent

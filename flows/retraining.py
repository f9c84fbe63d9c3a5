"""Answers `drift.detected`: trains a challenger, and has it judged against the champion."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict, Field

from flows.answers import done, me, named_by, skipped, taken
from flows.cancel import on_cancellation
from flows.config import RunConfig
from flows.lifecycle import lifecycle
from infra import completion, settings
from infra.claims import Claims
from infra.energy.model import Coefficients
from infra.errors import LakeError
from infra.events import Drift, emit
from infra.evidence import Evidence
from infra.lake import Lake, Ref
from infra.runtime.budget import remaining
from infra.runtime.ledger import Ledger
from infra.settings import Settings
from infra.tracking import open_tracking
from tasks.model.compare import Verdict, document_bits, judge, nearest
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.retraining")

SCOPE = "retrain-on-drift"
DAYS = 30
CHARACTERS = 2000  # of a held-out document that is judged on
STAGES = ("curation", "preprocessing", "architecture", "training", "finetuning", "inference")


class Rules(BaseModel):
    """When a drift is answered by training, and when its result may serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cool_down_h: float = Field(24.0, ge=0, description="Hours after one retraining of a model without another.")
    energy_kj: float = Field(
        5000.0, ge=0, description="Modelled CPU energy that retrainings of the last 30 days may take together, kJ."
    )
    margin: float = Field(
        0.01, ge=0, description="Bits per byte that the challenger may lose over all held-out documents."
    )
    documents: int = Field(200, ge=20, description="Held-out documents that both models are judged on at most.")
    champion: str = Field("serving", description="Alias of the model that serves.")
    name: str = Field("ketcycle", description="Name of the model in the registry.")


CHALLENGER, RULES = RunConfig(alias="challenger", stages=STAGES), Rules()


@flow(
    name="retrain-on-drift",
    flow_run_name=lambda: named_by("drift", "window"),
    on_cancellation=[on_cancellation],
)
def retrain_on_drift(drift: Drift, config: RunConfig = CHALLENGER, rules: Rules = RULES) -> State[Any]:
    """Train a challenger, once for each streak of drifted windows, and tell whether it may take the champion's place.

    Args:
        drift: What was seen; its lake reference tells which held-out documents resemble the drifted requests.
        config: How the challenger is trained.
        rules: When it is trained, and when it may serve.
    """
    loaded = settings.load()
    claims = Claims(loaded.ledger, SCOPE)
    if other := claims.claim(drift.streak, me(), rules.name):
        return taken(f"streak {drift.streak}", other)
    try:
        if reason := _too_soon(claims, drift, rules) or _too_dear(loaded, config, rules):
            claims.release(drift.streak, me())
            return skipped(reason)
        run_id = config.run_id or f"retrain-{completion.digest(streak=drift.streak)}"
        before = open_tracking().pointed_at(rules.name, rules.champion)
        lifecycle(config.model_copy(update={"run_id": run_id, "alias": config.alias or "challenger"}))
        return done(_judge(loaded, run_id, drift, rules, before))
    except Exception:
        claims.release(drift.streak, me())
        raise


def _too_soon(claims: Claims, drift: Drift, rules: Rules) -> str:
    last = claims.newest(rules.name, drift.streak)
    hours = (time.time() - last.at) / 3600 if last else np.inf
    if last is None or hours >= rules.cool_down_h:
        return ""
    return (
        f"cool-down: {rules.name} was retrained {hours:.1f} h ago by flow run {last.holder}; "
        f"{rules.cool_down_h:g} h must pass"
    )


def _too_dear(loaded: Settings, config: RunConfig, rules: Rules) -> str:
    """Say which budget does not allow a retraining, and tell it; the first one of all is taken to cost nothing."""
    spent = _spent_kj(loaded)
    dearest = max(spent.values(), default=0.0)
    reason = ""
    if sum(spent.values()) + dearest > rules.energy_kj:
        reason = (
            f"energy: {len(spent)} retrainings took {sum(spent.values()):.3g} kJ (modelled) in {DAYS} days and the "
            f"next one may take {dearest:.3g} kJ, the limit is {rules.energy_kj:g} kJ"
        )
    elif config.backend.startswith("ibm:"):
        over = [f"{scope} {unit}" for (scope, unit), left in remaining(Ledger(loaded.ledger)).items() if left <= 0]
        reason = f"nothing is left of the quantum budget per {', '.join(over)}" if over else ""
    if reason:
        emit("budget.exhausted", {"what": f"retraining of {rules.name}", "reason": reason})
    return reason


def _spent_kj(loaded: Settings) -> dict[str, float]:
    """Return the modelled CPU energy of each retraining of the last days."""
    coefficients, since = Coefficients.load(), time.time() - DAYS * 86400
    spent: dict[str, float] = {}
    for folder in (loaded.home / "runs").glob("retrain-*"):
        if folder.stat().st_mtime >= since:
            rows = Evidence(loaded.home / "evidence").scan(folder.name)
            joules = (coefficients.cpu_energy_j(row.total, "narrow", row.energy_source).p50 for row in rows)
            spent[folder.name] = sum(joules) / 1000
    return spent


def _judge(loaded: Settings, run_id: str, drift: Drift, rules: Rules, before: tuple[int, Path] | None) -> str:
    """Compare the run's model with the champion, tell the verdict and return it in a line."""
    done = completion.find(loaded.home, run_id, "inference")
    registered = done.result["facts"].get("registered") if done else None
    if done is None or registered is None:
        return f"run {run_id} registered no model; nothing to judge"
    version, lake = int(registered["version"]), Lake(loaded.home / "lake")
    if before is None:
        reason = f"there is no {rules.champion} yet"
        verdict = Verdict(True, reason, 0.0, (0.0, 0.0), 0)
    else:
        texts = _held_out(lake, loaded, run_id, rules.documents)
        made = lake.folder(Ref.parse(done.result["refs"]["inference/model"]))
        champion, challenger = (document_bits(f, texts) for f in (before[1], made))
        verdict = judge(champion, challenger, _like_the_window(lake, drift, texts), rules.margin)
    fact = {"name": rules.name, "version": version, "by": "gate", "reason": verdict.reason}
    what = f"{rules.name} version {version} against {f'version {before[0]}' if before else 'nothing'}"
    if verdict.passed:
        emit("model.validated", fact, once=f"{version} {run_id}")
    elif verdict.worse:
        worse = {"model": f"{rules.name} version {version}", "against": what.rpartition("against ")[2]}
        figures = {"metric": "minus bits per byte", "difference": verdict.gain, "interval": verdict.interval}
        emit("quality.regressed", {**worse, **figures, "run_id": run_id}, once=f"{version} {run_id}")
    outcome = f"{what}: {'passed' if verdict.passed else 'not passed'}; {verdict.reason}"
    create_markdown_artifact(
        f"**{outcome}**\n\nDrift: window `{drift.window}`, p = {drift.p_value:.3g}, {drift.requests} requests, data "
        f"`{drift.data}`.",
        key="ketcycle-gate",
        description=f"Champion against challenger of {run_id}",
    )
    return outcome


def _held_out(lake: Lake, loaded: Settings, run_id: str, limit: int) -> list[str]:
    """Return heads of test documents, evenly spaced; neither model was trained on them."""
    done = completion.find(loaded.home, run_id, "preprocessing")
    if done is None:
        return []
    table = lake.read(Ref.parse(done.result["refs"]["preprocessing/holdout"]), ["split", "text"])
    texts = [text[:CHARACTERS] for text in table.filter(pc.equal(table["split"], "test"))["text"].to_pylist() if text]
    return texts if len(texts) <= limit else [texts[i * len(texts) // limit] for i in range(limit)]


def _like_the_window(lake: Lake, drift: Drift, texts: list[str]) -> list[int]:
    """Return which documents resemble the window's requests; none where the window is not there any more."""
    if drift.data is None or not texts:
        return []
    try:
        table = lake.read(Ref.parse(drift.data))
    except LakeError as error:
        log.warning("the drifted requests cannot be read: %s", error)
        return []
    if not {"window", "embedding"} <= set(table.column_names):
        return []
    requests = table.filter(pc.equal(table["window"], drift.window))["embedding"].to_pylist()
    return nearest(embed(texts), np.asarray(requests)) if requests else []

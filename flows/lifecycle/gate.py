"""The promotion gate: scores champion and challenger on the same held-out text and promotes the better model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from flows.lifecycle.alias import SCOPE, move_alias
from infra import completion, engine
from infra.claims import Claims
from infra.errors import BadInput, LakeError
from infra.events import Drift, ModelValidated, emit
from infra.lake import Lake, Ref
from infra.progress import forward_from_worker
from infra.settings import Settings
from infra.shared import open_lake
from infra.tracking import Tracking, open_tracking, where_open
from tasks.model.compare import Verdict, document_bits, judge, nearest
from tasks.text.embeddings import embed

log = logging.getLogger("ketcycle.gate")

CHARACTERS = 2000  # of a held-out document that both models read


class Gate(BaseModel):
    """Conditions under which a new model replaces the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: float = Field(0.01, ge=0, description="Largest accepted loss in bits per byte over all held-out documents.")
    documents: int = Field(
        200, ge=20, description="Maximum number of held-out documents on which both models are scored."
    )
    champion: str = Field("champion", description="Alias of the model that serves.")


GATE = Gate()


@dataclass(frozen=True)
class Judged:
    """The verdict on the model that a run registered.

    Attributes:
        name: name of the model in the registry.
        version: version of the model.
        against: version of the champion; None if there was no champion.
        passed: whether the model may serve.
        reason: the figures that decided.
        then: consequence of the verdict, such as the promotion.
    """

    name: str
    version: int
    against: int | None
    passed: bool
    reason: str
    then: str = ""

    def __str__(self) -> str:
        versus = f"version {self.against}" if self.against else "no champion"
        passed = "passed" if self.passed else "not passed"
        said = f"{self.name} version {self.version} against {versus}: {passed}; {self.reason}"
        return f"{said}; {self.then}" if self.then else said


def judge_run(
    loaded: Settings, run_id: str, gate: Gate = GATE, drift: Drift | None = None, asked: Sequence[str] = ()
) -> Judged | None:
    """Judge the model that a run registered against the champion, and promote it if it passes.

    If the Prefect server has the automation for `model.validated`, that automation moves the alias; while it is paused,
    the alias does not move. Without the automation this function moves the alias.

    Args:
        loaded: the settings.
        run_id: the run; its inference stage has finished.
        gate: conditions of the promotion.
        drift: the drifted window that caused the training; the model must be better on documents that resemble it.
        asked: texts of that window that were not used in training, used instead of documents that resemble it.

    Returns:
        The verdict; None if the run registered no model, or the champion itself.
    """
    done = completion.find(loaded.home, run_id, "inference")
    registered = done.result["facts"].get("registered") if done else None
    if done is None or registered is None:
        return None
    name, version = str(registered["name"]), int(registered["version"])
    holdout = Ref.parse(done.parts["inputs"]["preprocessing/holdout"])
    made = Ref.parse(done.result["refs"]["inference/model"])
    new = _New(run_id, loaded.home, name, version, made, holdout)
    found = where_open(_compared, new, gate, drift, asked)
    if found is None:
        return None
    before, verdict = found
    judged = Judged(name, version, before, verdict.passed, verdict.reason)
    judged = _followed(loaded, judged, verdict, run_id, gate)
    where_open(_describe, name, version, f"Gate: {judged}")
    log.info("%s", judged)
    engine.publish(
        f"**{judged}**\n\n{_about(drift)}", key="ketcycle-gate", description=f"Champion against challenger of {run_id}"
    )
    return judged


@dataclass(frozen=True)
class _New:
    """The model that a run registered, and the documents that it was not trained on."""

    run_id: str
    home: Path
    name: str
    version: int
    files: Ref
    holdout: Ref


def _compared(new: _New, gate: Gate, drift: Drift | None, asked: Sequence[str]) -> tuple[int | None, Verdict] | None:
    """Return the version of the champion and the verdict on the new model; None if it is the champion."""
    forward_from_worker(new.run_id)
    tracking = open_tracking()
    before = tracking.version_at(new.name, gate.champion)
    if before == new.version:
        return None
    champion_files, missing = _files(tracking, new.name, gate.champion)
    if champion_files is None:
        return before, Verdict(True, missing, 0.0, (0.0, 0.0), 0)
    lake = open_lake(new.home)
    texts = _held_out(lake, new.holdout, gate.documents)
    like = _like_the_window(lake, drift, texts) if drift and not asked else []
    like += range(len(texts), len(texts) + len(asked))
    log.info("reading %d documents with version %d and version %d", len(texts) + len(asked), before, new.version)
    folders = champion_files, lake.folder(new.files)
    champion, challenger = (document_bits(folder, [*texts, *asked]) for folder in folders)
    return before, judge(champion, challenger, like, gate.margin)


def _describe(name: str, version: int, text: str) -> None:
    open_tracking().describe(name, version, text)


def _files(tracking: Tracking, name: str, alias: str) -> tuple[Path | None, str]:
    """Return the folder of the champion, or None and the reason why there is no champion to compare with."""
    try:
        found = tracking.pointed_at(name, alias)
    except BadInput as error:
        return None, str(error)
    return (found[1], "") if found else (None, f"there is no {alias} yet")


def _about(drift: Drift | None) -> str:
    if drift is None:
        return ""
    return f"Drift: window `{drift.window}`, p = {drift.p_value:.3g}, {drift.requests} requests, data `{drift.data}`."


def _followed(loaded: Settings, judged: Judged, verdict: Verdict, run_id: str, gate: Gate) -> Judged:
    """Emit the verdict as an event, and move the alias if no automation does."""
    once = f"{judged.version} {run_id}"
    if verdict.worse and not verdict.passed:
        about = {"model": f"{judged.name} version {judged.version}", "against": f"version {judged.against}"}
        figures = {"metric": "minus bits per byte", "difference": verdict.gain, "interval": verdict.interval}
        emit("quality.regressed", {**about, **figures, "run_id": run_id}, once=once)
    if not verdict.passed:
        return judged
    fact = ModelValidated(name=judged.name, version=judged.version, by="gate", reason=judged.reason)
    emit("model.validated", fact, once=once)
    if not engine.in_flow():
        then = where_open(_move_alias, loaded.ledger, run_id, fact, gate.champion)
        return replace(judged, then=then)
    from deployments.automations import answered
    from flows.lifecycle.promotion import promote_on_validation

    if answered("model.validated"):
        return replace(judged, then=f"promote-on-validation moves {gate.champion}")
    state = promote_on_validation(fact, gate.champion, return_state=True)
    return replace(judged, then=str(state.message))


def _move_alias(ledger: str, run_id: str, model: ModelValidated, alias: str) -> str:
    claims = Claims(ledger, SCOPE, lambda _: False)  # without a server no flow run is at work
    return move_alias(claims, run_id, model, alias)[1]


def _held_out(lake: Lake, holdout: Ref, limit: int) -> list[str]:
    """Return the beginnings of evenly spaced test documents; the model was not trained on them."""
    table = lake.read(holdout, ["split", "text"])
    texts = [text[:CHARACTERS] for text in table.filter(pc.equal(table["split"], "test"))["text"].to_pylist() if text]
    return texts if len(texts) <= limit else [texts[i * len(texts) // limit] for i in range(limit)]


def _like_the_window(lake: Lake, drift: Drift, texts: list[str]) -> list[int]:
    """Return which documents resemble the window's requests; none if the window is no longer in the lake."""
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

"""Starts a deployment when its electricity is expected to be greenest, and keeps what that saved as evidence."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from prefect import State, flow
from pydantic import BaseModel, ConfigDict, Field

from flows.lifecycle.answers import done, me
from infra import settings
from infra.energy.carbon import Series, read_series
from infra.energy.coefficients import read_coefficients
from infra.energy.green import DAY_S, Start, greenest, open_provider, persistence
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence

log = logging.getLogger("ketcycle.green")

HOUR_S = 3600.0
STAGE, SUBTASK = "operations", "start"
AT_ONCE, BEST = "at-once", "perfect"


class Slack(BaseModel):
    """How long work may wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: float = Field(20.0, ge=0, le=168, description="Hours that the start may wait.")
    duration_h: float = Field(4.0, gt=0, le=168, description="Hours that the work is expected to take.")


SLACK = Slack()


@flow(name="start-when-green", flow_run_name="start-when-green {deployment}")
def start_when_green(
    deployment: str = "lifecycle/nightly", parameters: dict[str, Any] | None = None, slack: Slack = SLACK
) -> State[Any]:
    """Schedule one run of a deployment for the greenest window of the slack; without a forecast it starts at once.

    Args:
        deployment: The deployment to start, as flow/name.
        parameters: Its parameters; none = those that it has.
        slack: How long the start may wait.
    """
    from prefect.deployments import run_deployment

    loaded, now_s = settings.load(), time.time()
    try:
        start, forecast = plan(loaded, now_s, slack)
        said = f"{start.saving:.1%} less carbon expected than at once ({forecast.name})"
    except BadInput as error:
        start, forecast = Start(now_s, 0.0, 0.0), None
        said = f"started at once: {error}"
    run: Any = run_deployment(
        name=deployment,
        parameters=parameters or {},
        scheduled_time=datetime.fromtimestamp(start.at_s, UTC),
        timeout=0,
        as_subflow=False,
        idempotency_key=f"when-green {me()}",
        tags=["carbon"],
    )
    if forecast is not None:
        record(loaded, f"start-{str(run.id)[:13]}", deployment, now_s, start, slack)
    return done(f"{run.name} at {_text(start.at_s)}: {said}")


def plan(loaded: Settings, now_s: float, slack: Slack) -> tuple[Start, Series]:
    """Return when to start, and the forecast that it rests on.

    A provider that says something of the whole time is believed; else, and for a file, what was known before now is
    expected to happen again.

    Raises:
        BadInput: no series is set, or it says nothing of the time.
    """
    slack_s, duration_s = slack.hours * HOUR_S, slack.duration_h * HOUR_S
    until_s = now_s + slack_s + duration_s
    known = series_of(loaded, now_s - DAY_S, until_s)
    if loaded.carbon_provider and known.times_s[-1] + known.step_s >= until_s:
        return greenest(known, now_s, slack_s, duration_s), known
    forecast = persistence(known, now_s, until_s)
    return greenest(forecast, now_s, slack_s, duration_s), forecast


def series_of(loaded: Settings, began_s: float, ended_s: float) -> Series:
    """Return the intensities of the place that computes.

    Raises:
        BadInput: neither a provider nor a file is set, or it cannot be used.
    """
    if loaded.carbon_provider:
        return open_provider(loaded.carbon_provider).series(began_s, ended_s)
    if loaded.carbon_series is None:
        raise BadInput("no carbon intensity series is set (carbon_series or carbon_provider)")
    table = read_coefficients()[0].carbon
    return read_series(loaded.carbon_series.expanduser(), table, loaded.country, loaded.carbon_timezone)


def record(loaded: Settings, run_id: str, what: str, asked_s: float, start: Start, slack: Slack) -> None:
    """Note a start as evidence that waits for what the electricity really was."""
    facts = {"at_s": start.at_s, "asked_s": asked_s, "slack_h": slack.hours, "duration_h": slack.duration_h}
    decision = _Facts(**facts, expected_saving=start.saving, deployment=what).model_dump_json()
    rows = [
        _row(run_id, "persistence", status="pending", chosen=True, decision=decision, kind="classical"),
        _row(run_id, AT_ONCE, status="pending", decision=decision, kind="control"),
    ]
    open_evidence(loaded.home).append(rows)


def score(loaded: Settings) -> list[dict[str, Any]]:
    """Score the starts whose time is over and known by now, and return all that are scored, the latest last."""
    evidence = open_evidence(loaded.home)
    for row in evidence.read(stage=STAGE, subtask=SUBTASK, status="pending", chosen=True):
        facts = _Facts.model_validate_json(row.decision)
        length_s, until_s = facts.duration_h * HOUR_S, facts.asked_s + (facts.slack_h + facts.duration_h) * HOUR_S
        try:
            known = series_of(loaded, facts.asked_s, until_s)
            best = greenest(known, facts.asked_s, facts.slack_h * HOUR_S, length_s)
            was = known.mean(facts.at_s, facts.at_s + length_s)
        except BadInput as error:
            log.info("%s is not scored yet: %s", row.run_id, error)
            continue
        common = {"decision": row.decision, "oracle": (-best.expected,)}
        done = [
            _row(row.run_id, row.arm, qualities=(-was,), chosen=True, kind=row.kind, **common),
            _row(row.run_id, AT_ONCE, qualities=(-best.at_once,), kind="control", **common),
        ]
        evidence.append(done)
    found: dict[str, dict[str, Any]] = {}
    for row in evidence.read(stage=STAGE, subtask=SUBTASK, status="done"):
        facts = _Facts.model_validate_json(row.decision)
        entry = found.setdefault(row.run_id, {"run": row.run_id, "deployment": facts.deployment})
        entry["waited_h"], entry["expected"] = (facts.at_s - facts.asked_s) / HOUR_S, facts.expected_saving
        entry["at once" if row.arm == AT_ONCE else "chosen"] = -row.qualities[0]
        entry[BEST] = -row.oracle[0]
    return [entry | {"saved": 1 - entry["chosen"] / entry["at once"]} for entry in found.values()]


class _Facts(BaseModel):
    at_s: float
    asked_s: float
    slack_h: float
    duration_h: float
    expected_saving: float
    deployment: str


def _row(run_id: str, arm: str, **values: Any) -> EvidenceRow:
    return EvidenceRow(run_id, STAGE, SUBTASK, problem=run_id, arm=arm, metric="minus g CO2e per kWh", **values)


def _text(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"

"""Starts a deployment when its electricity is expected to be greenest, and records the carbon saved.

The start is not a decision with arms: it has one method, the forecast of `infra.energy.green`. So starts and their
scores are data sets of the lake, `operations/starts` and `operations/start_scores`, and not evidence.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from prefect import State, flow
from pydantic import BaseModel, ConfigDict, Field

from flows.lifecycle.answers import done, own_id
from infra import settings
from infra.energy.carbon import Series, read_series
from infra.energy.coefficients import read_coefficients
from infra.energy.green import DAY_S, Start, greenest, open_provider, persistence
from infra.errors import BadInput
from infra.lake import Lake
from infra.settings import Settings
from infra.shared import open_lake

log = logging.getLogger("ketcycle.green")

HOUR_S = 3600.0
STARTS, SCORES = "operations/starts", "operations/start_scores"
STARTED = pa.schema(
    [
        ("run", pa.string()),
        ("deployment", pa.string()),
        *((name, pa.float64()) for name in ("asked_s", "at_s", "slack_h", "duration_h", "expected")),
    ]
)
SCORED = pa.schema([*STARTED, *((n, pa.float64()) for n in ("waited_h", "at once", "chosen", "perfect", "saved"))])


class Slack(BaseModel):
    """How long a start may wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: float = Field(20.0, ge=0, le=168, description="Hours that the start may wait.")
    duration_h: float = Field(4.0, gt=0, le=168, description="Expected hours of the work.")


SLACK = Slack()


@flow(name="start-when-green", flow_run_name="start-when-green {deployment}")
def start_when_green(
    deployment: str = "lifecycle/nightly", parameters: dict[str, Any] | None = None, slack: Slack = SLACK
) -> State[Any]:
    """Schedule one run of a deployment for its greenest time; without a forecast it starts at once.

    Args:
        deployment: The deployment to start, as flow/name.
        parameters: Parameters of the run; none = those of the deployment.
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
        idempotency_key=f"when-green {own_id()}",
        tags=["carbon"],
    )
    if forecast is not None:
        record(loaded, f"start-{str(run.id)[:13]}", deployment, now_s, start, slack)
    return done(f"{run.name} at {_text(start.at_s)}: {said}")


def plan(loaded: Settings, now_s: float, slack: Slack) -> tuple[Start, Series]:
    """Return when to start, and the forecast that was used.

    The provider's forecast is used if it covers the whole time. Else, and for a file, the last day's values are
    expected at the same times of day.

    Raises:
        BadInput: no series is set, or it does not cover the time.
    """
    slack_s, duration_s = slack.hours * HOUR_S, slack.duration_h * HOUR_S
    until_s = now_s + slack_s + duration_s
    known = series_of(loaded, now_s - DAY_S, until_s)
    if loaded.carbon_provider and known.times_s[-1] + known.step_s >= until_s:
        return greenest(known, now_s, slack_s, duration_s), known
    forecast = persistence(known, now_s, until_s)
    return greenest(forecast, now_s, slack_s, duration_s), forecast


def series_of(loaded: Settings, began_s: float, ended_s: float) -> Series:
    """Return the carbon intensities of the electricity at this site.

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
    """Store a start in the lake; it is scored when the true intensities are known."""
    row = {
        "run": run_id,
        "deployment": what,
        "asked_s": asked_s,
        "at_s": start.at_s,
        "slack_h": slack.hours,
        "duration_h": slack.duration_h,
        "expected": start.saving,
    }
    open_lake(loaded.home).write(STARTS, pa.Table.from_pylist([row], STARTED))


def score(loaded: Settings) -> list[dict[str, Any]]:
    """Score the starts whose true intensities are known now; return all scored starts, the latest last."""
    lake = open_lake(loaded.home)
    scored = {row["run"]: row for row in _kept(lake, SCORES)}
    for row in _kept(lake, STARTS):
        if row["run"] not in scored and (found := _scored(loaded, row)):
            lake.write(SCORES, pa.Table.from_pylist([found], SCORED))
            scored[row["run"]] = found
    return sorted(scored.values(), key=lambda row: float(row["asked_s"]))


def _kept(lake: Lake, name: str) -> list[dict[str, Any]]:
    return [row for ref in lake.versions(name) for row in lake.read(ref).to_pylist()]


def _scored(loaded: Settings, row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a start with the intensities at its time, at once and at the best time; None while they are unknown."""
    length_s, slack_s = row["duration_h"] * HOUR_S, row["slack_h"] * HOUR_S
    try:
        known = series_of(loaded, row["asked_s"], row["asked_s"] + slack_s + length_s)
        best = greenest(known, row["asked_s"], slack_s, length_s)
        was = known.mean(row["at_s"], row["at_s"] + length_s)
    except BadInput as error:
        log.info("%s is not scored yet: %s", row["run"], error)
        return None
    return row | {
        "waited_h": (row["at_s"] - row["asked_s"]) / HOUR_S,
        "at once": best.at_once,
        "chosen": was,
        "perfect": best.expected,
        "saved": 1 - was / best.at_once if best.at_once > 0 else 0.0,
    }


def _text(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M} UTC"

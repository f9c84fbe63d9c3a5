"""Watches the request log of the served model: each call compares one window with the model's first requests.

Each window is one problem of the decision `drift`, solved and recorded as evidence like those of a run. The state
between two calls is in `watch/MODEL.json` of the state folder. A window ends at a full hour, so a killed and repeated
call judges the same window and emits the same event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import State, flow
from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, ConfigDict, Field

from flows.lifecycle.answers import done, named_by_time, scheduled, skipped
from infra import settings
from infra.events import emit
from infra.lake import Lake, Ref, write_atomic
from infra.settings import Settings
from infra.shared import open_lake
from tasks.contract import Method
from tasks.monitoring.service import SettledDrift, service_bench
from tasks.monitoring.watching.standing import Standing
from tasks.monitoring.watching.states import Level, Rules
from tasks.monitoring.watching.watch import Watched, watch_window
from tasks.options import SettleOptions
from tasks.serving.request_log import read_requests
from tasks.workbench import Workbench

REFERENCE, WINDOWS = "monitoring/watch_reference", "monitoring/watch_windows"
KEPT = ("request_id", "time", "model_version", "prompt_tokens", "mean_logprob", "embedding")
SERVED = "serve"  # source of the requests to `ketcycle serve`; test requests of a stage have another source
TRAFFIC = "requests"  # data fingerprint in the evidence on served requests
HISTORY = 24 * 14


class Watching(BaseModel):
    """How requests are watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: int = Field(200, ge=6, description="First requests of a model, with which later ones are compared.")
    minimum: int = Field(40, ge=2, description="Minimum requests of a window; until then it grows.")
    level: float = Field(0.01, gt=0, lt=1, description="p-value at or below which a window counts as drifted.")
    debounce: int = Field(2, ge=1, description="Consecutive drifted windows that raise an alert.")
    recovery: int = Field(2, ge=1, description="Consecutive windows without drift that end an alert.")
    cool_down: int = Field(3, ge=0, description="Windows after an alert event in which no further one is emitted.")
    columns: tuple[str, ...] = Field(("embedding",), description="Columns of the request log that are watched.")
    method: Method = Field(Method.AUTO, description="How the arm that judges a window is picked.")
    backend: str = Field("aer", description="Backend of its circuits: aer, noisy:<fake device> or ibm:<device>.")
    beside_s: float = Field(30.0, ge=0, description="CPU seconds for shadow arms at each window; 0 = none.")
    settle: SettleOptions = Field(SettleOptions(), description="How the arms are metered.")


@dataclass(frozen=True)
class Memory:
    """State of the watch of a model between two windows.

    Attributes:
        reference: lake reference of its first requests.
        until: end of the last window, ISO 8601.
        standing: levels and counters of the state machine.
        streak: first window of the current sequence of drifted windows, empty if there is none.
        history: results of the last windows.
    """

    reference: str
    until: str
    standing: Standing
    streak: str = ""
    history: tuple[Mapping[str, Any], ...] = ()


WATCHING = Watching()


@flow(name="drift-watch", flow_run_name=named_by_time)
def drift_watch(watching: Watching = WATCHING, until: datetime | None = None) -> State[Any]:
    """Judge the requests since the last window; emit events of warnings, drift, its end, and worse quality.

    Args:
        watching: How they are judged.
        until: End of the window; none = the last full hour before the scheduled time.
    """
    loaded = settings.load()
    end = until.astimezone(UTC) if until else scheduled().replace(minute=0, second=0, microsecond=0)
    lake = open_lake(loaded.home)
    model = _newest_model(lake, end)
    if model is None:
        return skipped("no requests were logged in the last two weeks; is `ketcycle serve` running?")
    memory = _remembered(loaded, model) or _begin(lake, loaded, model, end, watching)
    if memory is None:
        return skipped(f"{model}: fewer than {watching.reference} requests yet, too few for a reference")
    current = _of(read_requests(lake, SERVED, since=datetime.fromisoformat(memory.until), until=end), model)
    if current.num_rows < watching.minimum:
        return skipped(f"{model}: {current.num_rows} requests since {memory.until}, {watching.minimum} make a window")
    window = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    rules = Rules(watching.level, watching.minimum, watching.debounce, watching.recovery, watching.cool_down)
    reference = lake.read(Ref.parse(memory.reference))
    service = SettledDrift(_bench(loaded, model, window, memory, watching))
    found = watch_window(
        reference, current, memory.standing, rules, columns=watching.columns, judge=service.judge
    )  # fmt: skip
    memory = _follow(memory, found, window, end)
    _announce(lake, model, window, memory, found, current)
    _remember(loaded, model, memory)
    beside = service.run_beside(watching.beside_s) if watching.beside_s else 0
    create_table_artifact(
        [dict(row) for row in reversed(memory.history)],
        key="ketcycle-watch",
        description=f"Windows of {model}, the newest first",
    )
    emitted = f", emitted {found.event}" if found.event else ""
    others = f", {beside} shadow arms run on a probe" if beside else ""
    return done(f"{model} {window}: {found.state}, {current.num_rows} requests{emitted}{others}")


def _bench(loaded: Settings, model: str, window: str, memory: Memory, watching: Watching) -> Workbench:
    """Return the workbench of a window's decision; all served requests of this home count as one data set."""
    return service_bench(
        loaded,
        f"watch-{_slug(model)}-{window.replace(':', '')}",
        method=watching.method,
        backend=watching.backend,
        minimum_s=watching.settle.minimum_s,
        blocks=watching.settle.blocks,
        data=TRAFFIC,
        unit=memory.reference,
    )


def _follow(memory: Memory, found: Watched, window: str, end: datetime) -> Memory:
    """Return the state after a window; a streak lasts from its first drifted window until the watch is ok again."""
    drifted = found.standing.drift.drifted > 0 or found.standing.drift.standing is Level.ALERT
    p_value = found.payload["p_value"]
    row = {
        "window": window,
        "requests": found.payload["requests"],
        "p": None if p_value is None else round(p_value, 4),
        "state": found.state,
        "quality": found.payload["quality"],
        "event": found.event or "",
    }
    streak = (memory.streak or window) if drifted else ""
    history = (*memory.history, row)[-HISTORY:]
    return Memory(memory.reference, end.isoformat(), found.standing, streak, history)


def _announce(lake: Lake, model: str, window: str, memory: Memory, found: Watched, current: pa.Table) -> None:
    if found.event is None:
        return
    if found.event == "quality.regressed":
        harm = found.harm
        if harm is not None:
            figures = {"difference": harm.difference, "interval": (harm.low, harm.high)}
            what = {"against": "its first requests", "metric": "mean log-likelihood per token, nats"}
            emit(found.event, {"model": model, **what, **figures}, once=f"{model} {window}")
        return
    named = current.append_column("window", pa.array([window] * current.num_rows))
    payload = {
        "model": model,
        "window": window,
        "data": str(lake.write(WINDOWS, named, {"model": model, "window": window})),
        "streak": f"{model} {memory.streak or window}",
        "requests": current.num_rows,
        "p_value": found.payload["p_value"],
        "state": found.state,
        "mean_logprob": pc.mean(current["mean_logprob"]).as_py(),
    }
    emit(found.event, payload, once=f"{model} {window}")


def _newest_model(lake: Lake, end: datetime) -> str | None:
    recent = read_requests(lake, SERVED, since=end - timedelta(days=14), until=end)
    return str(recent["model_version"][-1].as_py()) if recent.num_rows else None


def _of(requests: pa.Table, model: str) -> pa.Table:
    return requests.filter(pc.equal(requests["model_version"], model)).select(list(KEPT))


def _begin(lake: Lake, loaded: Settings, model: str, end: datetime, watching: Watching) -> Memory | None:
    """Store the reference of a model once it has answered enough requests."""
    first = _of(read_requests(lake, SERVED, until=end), model).slice(0, watching.reference)
    if first.num_rows < watching.reference:
        return None
    after = first["time"][-1].as_py() + timedelta(microseconds=1)
    memory = Memory(str(lake.write(REFERENCE, first, {"model": model})), after.isoformat(), Standing())
    _remember(loaded, model, memory)
    return memory


def _path(loaded: Settings, model: str) -> Path:
    return loaded.home / "watch" / f"{_slug(model)}.json"


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", model)


def _remembered(loaded: Settings, model: str) -> Memory | None:
    try:
        found = json.loads(_path(loaded, model).read_text())
    except FileNotFoundError:
        return None
    memory = Memory(**found)
    return replace(memory, standing=Standing.parse(found["standing"]), history=tuple(found["history"]))


def _remember(loaded: Settings, model: str, memory: Memory) -> None:
    plain = {**vars(memory), "standing": memory.standing.asdict(), "history": list(memory.history)}
    write_atomic(_path(loaded, model), json.dumps(plain, indent=1))

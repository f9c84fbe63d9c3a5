"""One look at an installation: services, runs, queue and budget, champion, drift, events, disk.

Everything is read where it is kept, at the moment of asking; what does not answer is reported as such, never guessed.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import sqlite3
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.compute import read_note
from infra.errors import BadInput
from infra.events import PREFIX
from infra.installation.doctor import listens
from infra.moved import DATABASE
from infra.runs import names, record_file
from infra.runtime.figures.inspect import list_open
from infra.runtime.ledger.budget import overview
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings, environment

HOURS = 24  # of ended runs
LISTED = 10  # runs, and events
PAGE = 200  # log lines of one answer
TIMEOUT_S = 10.0  # for each answer of the Prefect server
ACTIVE, ENDED = ("PENDING", "RUNNING", "CANCELLING", "PAUSED"), ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
LEVELS = {"ok": 0, "warning": 1, "alert": 2}


@dataclass(frozen=True)
class Service:
    """A service and whether it answers: Prefect its questions, another one a connection."""

    name: str
    address: str
    answers: bool


@dataclass(frozen=True)
class Run:
    """A flow run of the Prefect server, or a run of the home where no server answers."""

    name: str
    state: str
    since: str
    message: str = ""


@dataclass(frozen=True)
class Champion:
    """A registered model and the version that its alias `champion` points to."""

    model: str
    version: int


@dataclass(frozen=True)
class Watched:
    """What `drift-watch` found last of a model: `ok`, `warning` or `alert`."""

    model: str
    level: str
    until: str


@dataclass(frozen=True)
class Happened:
    """An event of the project."""

    event: str
    resource: str
    at: str


@dataclass(frozen=True)
class Status:
    """An installation at a moment.

    Attributes:
        home: state folder.
        at: time of the look, ISO 8601.
        services: the services that are configured or running.
        active: runs that are going on, the newest first.
        ended: number of runs that ended in the last 24 hours, by state; empty where Prefect does not answer.
        recent: the runs that ended last.
        open_calls: number of calls that wait in the runtime queue, by backend.
        budget: each limit of the runtime queue with what is left.
        champions: models that serve.
        drift: states of the drift watch.
        events: the newest events.
        free_gb: free space of the disk.
    """

    home: str
    at: str
    services: tuple[Service, ...]
    active: tuple[Run, ...]
    ended: dict[str, int]
    recent: tuple[Run, ...]
    open_calls: dict[str, int]
    budget: tuple[dict[str, Any], ...]
    champions: tuple[Champion, ...]
    drift: tuple[Watched, ...]
    events: tuple[Happened, ...]
    free_gb: float

    def asdict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def look(settings: Settings) -> Status:
    """Look at an installation; nothing is started or changed."""
    note = read_note(settings.home)
    try:
        flows = prefect_of(settings).flows()
    except (httpx.HTTPError, OSError):  # there is none, or it takes too long
        flows = None
    return Status(
        home=str(settings.home),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        services=tuple(_services(settings, note, answers=flows is not None)),
        active=flows.active if flows else tuple(_own_runs(settings.home, ended=False)),
        ended=flows.ended if flows else {},
        recent=flows.recent if flows else tuple(_own_runs(settings.home, ended=True)),
        open_calls=_open_calls(settings),
        budget=tuple(_budget(settings)),
        champions=tuple(_champions(settings)),
        drift=tuple(_drift(settings.home)),
        events=flows.events if flows else (),
        free_gb=round(shutil.disk_usage(settings.home).free / 1e9, 1),
    )


@dataclass(frozen=True)
class Flows:
    """What a Prefect server knows; the attributes are those of `Status`."""

    active: tuple[Run, ...]
    ended: dict[str, int]
    recent: tuple[Run, ...]
    events: tuple[Happened, ...]


class Prefect:
    """The questions of this module to a Prefect server.

    Args:
        url: of its API; empty = there is none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        user, _, secret = (environment("PREFECT_API_AUTH_STRING") or "").partition(":")
        self._auth = (user, secret) if secret else None
        key = environment("PREFECT_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def answers(self) -> bool:
        """Return whether the server answers."""
        try:
            self._ask("/flows/count", {})
        except (httpx.HTTPError, OSError):
            return False
        return True

    def flows(self) -> Flows:
        """Return what the server knows of flow runs and events.

        Raises:
            httpx.HTTPError: it refuses or does not answer one of the questions in time.
        """
        return Flows(
            self._runs(ACTIVE, "START_TIME_DESC"), self._ended(), self._runs(ENDED, "END_TIME_DESC"), self._events()
        )

    def _runs(self, states: Sequence[str], sort: str) -> tuple[Run, ...]:
        """Return flow runs in some states that no other flow run has started."""
        wanted = {"flow_runs": _of(states), "sort": sort, "limit": LISTED}
        found = self._ask("/flow_runs/filter", wanted)
        return tuple(
            Run(item["name"], item["state"]["name"], item["state"]["timestamp"][:19], item["state"]["message"] or "")
            for item in found
        )

    def _ended(self) -> dict[str, int]:
        """Return how many flow runs ended in the last hours, by state."""
        after = {"after_": (datetime.now(UTC) - timedelta(hours=HOURS)).isoformat()}
        return {
            state: int(self._ask("/flow_runs/count", {"flow_runs": _of([state]) | {"end_time": after}}))
            for state in ENDED
        }

    def _events(self) -> tuple[Happened, ...]:
        """Return the newest events of the project."""
        wanted = {"filter": {"event": {"prefix": [f"{PREFIX}."]}, "order": "DESC"}, "limit": LISTED}
        found = self._ask("/events/filter", wanted)["events"]
        return tuple(
            Happened(item["event"], item["resource"]["prefect.resource.id"], item["occurred"][:19]) for item in found
        )

    def logs(self, run: str) -> Iterator[str] | None:
        """Return the lines that a flow run has logged, by its id or name, of a name the newest; None = no such run."""
        by = {"id": {"any_": [run]}} if _is_uuid(run) else {"name": {"any_": [run]}}
        found = self._ask("/flow_runs/filter", {"flow_runs": by, "sort": "EXPECTED_START_TIME_DESC", "limit": 1})
        return self._lines(found[0]["id"], found[0]["name"]) if found else None

    def _lines(self, run: str, name: str) -> Iterator[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": PAGE}
        for offset in itertools.count(0, PAGE):
            page = self._ask("/logs/filter", wanted | {"offset": offset})
            for line in page:
                at = datetime.fromisoformat(line["timestamp"]).astimezone(UTC).replace(tzinfo=None)
                level = logging.getLevelName(line["level"])
                yield f"{at.isoformat(timespec='milliseconds')}Z {name} {level} {line['name']}: {line['message']}"
            if len(page) < PAGE:
                return

    def _ask(self, path: str, body: Any) -> Any:
        authority = environment("PREFECT_API_SSL_CERT_FILE") if self._url.startswith("https:") else None
        verify = ssl.create_default_context(cafile=authority) if authority else True
        answer = httpx.post(
            f"{self._url}{path}", json=body, timeout=TIMEOUT_S, auth=self._auth, headers=self._headers, verify=verify
        )
        answer.raise_for_status()
        return answer.json()


def prefect_of(settings: Settings) -> Prefect:
    """Return the Prefect server of an installation, which may not answer."""
    noted = str(read_note(settings.home).get("prefect_url", ""))
    return Prefect(settings.prefect_url or environment("PREFECT_API_URL") or noted)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _of(states: Sequence[str]) -> dict[str, Any]:
    return {"state": {"type": {"any_": list(states)}}, "parent_task_run_id": {"is_null_": True}}


def _services(settings: Settings, note: dict[str, Any], *, answers: bool) -> Iterator[Service]:
    addresses = {
        "Prefect": settings.prefect_url or note.get("prefect_url", ""),
        "Dask": settings.dask_address or note.get("dask_address", ""),
        "MLflow": settings.tracking_uri or note.get("mlflow_url", ""),
        "metrics": note.get("metrics_url", ""),
    }
    for name, address in addresses.items():
        if "://" in str(address) and not str(address).startswith(("sqlite", "postgresql")):
            yield Service(name, str(address), answers if name == "Prefect" else listens(str(address)))


def _own_runs(home: Path, *, ended: bool) -> Iterator[Run]:
    for path in [record_file(home, name) for name in names(home)[::-1][:LISTED]]:
        try:
            state = str(json.loads(path.read_text())["status"])
        except (OSError, ValueError, KeyError):
            state = "unreadable"
        if (state not in ("starting", "running")) == ended:
            since = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")[:19]
            yield Run(path.parent.name, state, since)


def _open_calls(settings: Settings) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for call in list_open(settings.ledger):
            found[str(call["backend"])] = found.get(str(call["backend"]), 0) + 1
    except BadInput:  # the ledger appears with the first quantum call
        return {}
    return found


def _budget(settings: Settings) -> list[dict[str, Any]]:
    try:
        return [row for row in overview(Ledger(settings.ledger, create=False)) if row["limit"] is not None]
    except BadInput:
        return []


def _champions(settings: Settings) -> Iterator[Champion]:
    if settings.tracking.startswith("http"):
        if not listens(settings.tracking):
            return
        from infra.tracking import Tracking

        tracking = Tracking(settings.tracking, settings.home / "mlflow" / "artifacts")
        yield from (Champion(name, version) for name, version in tracking.with_alias("champion").items())
    elif (settings.home / DATABASE).exists():
        with closing(sqlite3.connect(f"file:{settings.home / DATABASE}?mode=ro", uri=True)) as connection:
            query = "SELECT name, version FROM registered_model_aliases WHERE alias = 'champion' ORDER BY name"
            yield from (Champion(str(name), int(version)) for name, version in connection.execute(query))


def _drift(home: Path) -> Iterator[Watched]:
    for path in sorted((home / "watch").glob("*.json")):
        try:
            found = json.loads(path.read_text())
            yield Watched(path.stem, str(found["standing"]["drift"]["standing"]), str(found["until"])[:19])
        except (OSError, ValueError, KeyError, TypeError):
            yield Watched(path.stem, "unreadable", "")


class StatusCollector(Collector):
    """The figures of `look` for Prometheus; they are read at each scrape.

    Args:
        settings: of the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterable[Metric]:
        """Look once and yield the figures."""
        began = time.monotonic()
        found = look(self._settings)
        up = GaugeMetricFamily("ketcycle_service_up", "Whether a service answers.", labels=("service",))
        for service in found.services:
            up.add_metric((service.name,), float(service.answers))
        active = GaugeMetricFamily("ketcycle_runs_active", "Runs that are going on.", labels=("state",))
        for state in sorted({run.state for run in found.active}):
            active.add_metric((state,), sum(run.state == state for run in found.active))
        ended = GaugeMetricFamily("ketcycle_runs_ended", "Runs that ended in the last 24 hours.", labels=("state",))
        for state, count in found.ended.items():
            ended.add_metric((state.lower(),), count)
        champion = GaugeMetricFamily("ketcycle_champion_version", "Version that serves.", labels=("model",))
        for item in found.champions:
            champion.add_metric((item.model,), item.version)
        drift = GaugeMetricFamily(
            "ketcycle_drift_level", "State of the drift watch: 0 ok, 1 warning, 2 alert.", labels=("model",)
        )
        for watched in found.drift:
            drift.add_metric((watched.model,), LEVELS.get(watched.level, -1))
        yield from (up, active, ended, champion, drift)
        yield GaugeMetricFamily("ketcycle_disk_free_bytes", "Free space of the disk of the home.", found.free_gb * 1e9)
        yield GaugeMetricFamily("ketcycle_status_seconds", "Time that this look took.", time.monotonic() - began)

"""A week of a standing installation in fast time: schedules, files, drift, new models, two crashes, a full disk.

The runs of each day are created with their scheduled times, which the flows take for the time; a worker starts them at
once. Every day has one nightly run, one look for files, two windows of requests, a cleaning, and a file that arrives;
every third day a dispatch and a status, and the week a report. Real schedules look more often. `-s` prints runs wanted
against runs done; `WRITE_TABLES=1` writes it into docs/operations.md. Needs root, for a disk that can be filled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from installation import OVER, Installation, until
from printed import Printed

from infra.installation import flow_runs
from infra.lake import Lake
from infra.tracking import Tracking
from tasks.serving.request_log import REQUESTS, SCHEMA
from tasks.text.embeddings import DIMENSION

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(7200)]

DAYS = 7
MODEL = "ketcycle/1"  # whose requests are logged
NIGHTLY, CURATE, RETRAIN = "lifecycle", "curate-on-arrival", "retrain-on-drift"
PROMOTE, WATCH, CORPUS, CLEAN, STATUS = "promote-on-validation", "drift-watch", "corpus-watch", "clean", "status"
DISPATCH, REPORT = "quantum-dispatch", "evidence-report"
KEPT, VERSIONS = 8, 3
CRASHED_NIGHT, CRASHED_DAY, FULL_DAY = 2, 4, 5
FULL_S = 15  # the disk stays full
DRIFTED = (3, 4, 6)  # days: two streaks, the second one in the cool-down after the first one's retraining
APPROVED_DAY = 5  # a person lets the version of this day's night serve
TEXT = "On day {0} the number {0} came, and the people who read of it know that day {0} was not like the others. " * 12
# The smallest life of a model: the incumbents alone, no step beside what makes a model and judges it.
SMALL: dict[str, Any] = {
    "profile": "smoke",
    "method": "classical",
    "stages": ["curation", "preprocessing", "architecture", "training", "inference"],
}
WATCHING = {"reference": 40, "minimum": 20, "debounce": 2, "beside_s": 0, "settle": {"minimum_s": 0}}


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    found = Installation(tmp_path / "standing")
    found.home.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", str(found.home)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("may mount no disk")
    try:
        found.up()
        yield found
        found.down()
    finally:
        subprocess.run(["umount", "--lazy", str(found.home)], check=False)


class Week:
    """What happens on its days.

    Args:
        installation: the installation.
        began: midnight of the first day.
    """

    def __init__(self, installation: Installation, began: datetime) -> None:
        self.at, self.began = installation, began
        mlflow = installation.home / "mlflow"
        self.registry = Tracking(f"sqlite:///{mlflow / 'mlflow.db'}", mlflow / "artifacts")
        self.wanted: Counter[str] = Counter()
        self.rng = np.random.default_rng(0)

    def schedule(self, deployment: str, at: datetime, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Create the run of a deployment that its schedule would have created, and count it."""
        found = self.at.ask(f"/deployments/name/{deployment}", method="GET")
        details = {"scheduled_time": at.isoformat()}
        wanted = {"parameters": parameters or {}, "state": {"type": "SCHEDULED", "state_details": details}}
        self.wanted[deployment.partition("/")[0]] += 1
        return dict(self.at.ask(f"/deployments/{found['id']}/create_flow_run", wanted))

    def over(self, *runs: dict[str, Any]) -> None:
        """Wait until runs are over."""
        until(lambda: all(self.at.ended(run) for run in runs))

    def quiet(self) -> None:
        """Wait until all events are answered: no run of a deployment is scheduled or going on."""
        going = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}
        body = {"flow_runs": going | {"deployment_id": {"is_null_": False}}}
        for _ in range(2):  # an event may be on its way to its automation
            until(lambda: self.at.ask("/flow_runs/count", body) == 0)
            time.sleep(3)

    def file(self, day: int) -> str:
        """Put the file of a day into the inbox, an hour old."""
        path = self.at.home / "inbox" / f"day-{day}.txt"
        path.write_text(TEXT.format(day))
        os.utime(path, (time.time() - 3600,) * 2)
        return path.name

    def requests(self, at: datetime, shift: float) -> None:
        """Log requests of an hour, as `ketcycle serve` does; drifted ones are answered worse, else nothing retrains."""
        vectors = self.rng.normal(size=(60, DIMENSION)).astype(np.float32)
        vectors[:, 0] += shift
        rows = [
            dict.fromkeys(SCHEMA.names)
            | {"request_id": f"{at:%dT%H}-{i}", "run_id": "serve", "time": at + timedelta(seconds=i)}
            | {
                "model_version": MODEL,
                "mean_logprob": -4.0 - (shift > 0) + 0.1 * self.rng.normal(),
                "embedding": vectors[i].tolist(),
                "prompt_tokens": 9,
            }
            for i in range(60)
        ]
        Lake(self.at.home / "lake").write(f"{REQUESTS}/{at:%Y%m%dt%H}", pa.Table.from_pylist(rows, SCHEMA))

    def events(self) -> list[dict[str, Any]]:
        """Return the project's events of real resources."""
        kinds = ("corpus.arrived", "drift.detected", "model.validated")
        found: list[dict[str, Any]] = []
        for kind in kinds:
            wanted = {"filter": {"event": {"name": [f"ketcycle.{kind}"]}}, "limit": 50}
            page = self.at.ask("/events/filter", wanted)
            assert page["next_page"] is None
            found += page["events"]
        return found

    def of(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment; a run inside another one is not one."""
        return [run for run in self.at.runs(flow) if run["deployment_id"]]


def day_of(week: Week, day: int) -> None:
    midnight, at = week.began + timedelta(days=day), week.at
    night = week.schedule(
        "lifecycle/nightly", midnight + timedelta(hours=2), {"config": SMALL | {"run_id": f"night-{day}", "seed": day}}
    )
    if day == CRASHED_NIGHT:
        until(lambda: at.state(night)[0] == "RUNNING" and night["id"] in flow_runs.processes())
        time.sleep(8)
        flow_runs.processes()[night["id"]].send_signal(signal.SIGKILL)
        until(lambda: at.state(night)[0] == "CRASHED")
        retry = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}  # *Retry* in the page
        at.ask(f"/flow_runs/{night['id']}/set_state", retry)
    for hour in (6, 18):
        week.requests(midnight + timedelta(hours=hour - 1), 6.0 if day in DRIFTED else 0.0)
        week.over(week.schedule("drift-watch/drift-watch", midnight + timedelta(hours=hour), {"watching": WATCHING}))
    if day in (CRASHED_DAY, FULL_DAY):
        week.over(night)
    name = week.file(day)
    looked = week.schedule("corpus-watch/corpus-watch", midnight + timedelta(hours=7))
    if day in (CRASHED_DAY, FULL_DAY):
        until(lambda: any(name in run["name"] for run in week.of(CURATE)))
        run = next(run for run in week.of(CURATE) if name in run["name"])
        until(lambda: run["id"] in flow_runs.processes() or at.ended(run))
        week.over(looked)
        if day == CRASHED_DAY:
            at.process("up").send_signal(signal.SIGKILL)
            at.up()
        else:
            filler = at.home / "filler"
            fill(filler)
            time.sleep(FULL_S)
            filler.unlink()
        until(lambda: at.ended(run))
        print(f"\nday {day}: {at.state(run)}", flush=True)
        if at.state(run)[0] != "COMPLETED":  # the next look reports the file again
            week.over(week.schedule("corpus-watch/corpus-watch", midnight + timedelta(hours=8)))
    week.over(looked, night)
    if day == APPROVED_DAY:
        version = week.registry.version_at("ketcycle", "challenger")
        at.emit("model.validated", {"name": "ketcycle", "version": version, "by": "a person"})
    week.quiet()
    week.over(week.schedule("clean/clean", midnight + timedelta(hours=23), {"keep": KEPT, "versions": VERSIONS}))
    if day % 3 == 0:
        for name in (STATUS, DISPATCH):
            week.over(week.schedule(f"{name}/{name}", midnight + timedelta(hours=12)))


def fill(path: Path) -> None:
    """Fill a disk to the last byte."""
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(2**20))
        except OSError:
            return


def size_mb(home: Path) -> float:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) / 1e6


def test_a_week_leaves_nothing_out_and_does_nothing_twice(installed: Installation) -> None:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    week, sizes = Week(installed, now - timedelta(days=DAYS)), []
    model = {"config": SMALL | {"run_id": "", "seed": 99}}
    found = installed.ask("/deployments/name/retrain-on-drift/retrain-on-drift", method="GET")
    installed.ask(f"/deployments/{found['id']}", {"parameters": model}, method="PATCH")  # as in the page: *Edit*
    for day in range(DAYS):
        began = time.monotonic()
        day_of(week, day)
        sizes.append(size_mb(installed.home))
        print(f"\nday {day}: {time.monotonic() - began:.0f} s, {sizes[-1]:.0f} MB", flush=True)

    week.over(week.schedule(f"{REPORT}/{REPORT}", week.began + timedelta(days=DAYS)))
    events = week.events()
    told = Counter(event["event"].removeprefix("ketcycle.") for event in events)
    week.wanted.update(
        {CURATE: told["corpus.arrived"], RETRAIN: told["drift.detected"], PROMOTE: told["model.validated"]}
    )
    header = ("deployment", "runs wanted", "created", "completed", "skipped", "crashed or failed", "open")
    table = Printed("week", header)
    made: Counter[str] = Counter()
    open_runs: Counter[str] = Counter()
    for flow in (NIGHTLY, WATCH, CORPUS, CURATE, RETRAIN, PROMOTE, CLEAN, STATUS, DISPATCH, REPORT):
        states = Counter(run["state"]["name"] for run in week.of(flow))
        ended = states["Crashed"] + states["Failed"]
        left = sum(run["state"]["type"] not in OVER for run in week.of(flow))
        table.add(f"`{flow}`", week.wanted[flow], states.total(), states["Completed"], states["Skipped"], ended, left)
        made[flow], open_runs[flow] = states.total(), left
    table.close()
    for run in week.of(NIGHTLY):
        if run["state"]["name"] != "Completed":
            print(f"{run['name']}: {run['state']['name']}, {run['state']['message']}", flush=True)
    assert made == {flow: week.wanted[flow] for flow in made}
    assert not any(open_runs.values())
    curated = [run["state"]["message"] for run in week.of(CURATE) if run["state"]["name"] == "Completed"]
    assert Counter(said.split("; ")[0] for said in curated) == {"1 of 1 files were new": DAYS}, "each file once"
    assert all(run["state"]["name"] == "Completed" for run in week.of(NIGHTLY)), "the crashed one was continued"
    answered = [run["state"]["name"] for run in week.of(RETRAIN)]
    assert answered.count("Completed") == 1, "one streak, one retraining"
    assert answered.count("Skipped") == len(answered) - 1 >= 1, "the second one came in the cool-down"
    promoted = [run["state"]["message"] for run in week.of(PROMOTE) if run["state"]["name"] == "Completed"]
    assert len(promoted) == len(set(promoted)) >= 2, "the first model, and the one that a person approved"
    champion = week.registry.version_at("ketcycle", "champion")
    assert champion == max(e["payload"]["version"] for e in events if e["event"] == "ketcycle.model.validated")
    assert len(list((installed.home / "runs").iterdir())) <= KEPT + 1
    print(f"champion: version {champion}; MB after each day: {', '.join(f'{size:.0f}' for size in sizes)}")
    assert sizes[-1] < 1.5 * sizes[2], "the disk stays bounded"

"""A service is killed while a run of every deployment is going on: each ends or goes on, and the next of each begins.

Four deployments run at once, which two cores bear. A long run whose process is alive 90 s after the kill has survived
and is cancelled. Short runs are stopped (SIGSTOP) as soon as their process is there, and go on once the service is
killed. `-s` prints how each run ended; `WRITE_TABLES=1` writes it into docs/operations.md, where rows of other services
(`-k`) stay.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from installation import DEPLOYMENTS, OVER, Installation, until
from printed import Printed

from infra.installation import flow_runs
from infra.tracking import Tracking

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(3600)]

TEXT = "The clock keeps what it was given, and the people who read of it know that it is so. " * 20
# The others share the place of `nightly` in the queue `training`.
LONG = ("lifecycle/nightly", "pilot/grid", "curation/curation-alone", "curate-on-arrival/curate-on-arrival")
TOGETHER = {
    "watches": ("promote-on-validation/promote-on-validation", "drift-watch/drift-watch",
                "corpus-watch/corpus-watch", "quantum-dispatch/quantum-dispatch"),
    "reports": ("evidence-report/evidence-report", "status/status", "clean/clean",
                "start-when-green/nightly-when-green"),
    "long": LONG,
}  # fmt: skip
INSIDE = ("lifecycle", "curation", "study")  # flows that run inside others
ENDS = {"COMPLETED": "completed", "CRASHED": "crashed", "FAILED": "failed"}
SURVIVED = timedelta(seconds=90)
SERVICES = {
    "Prefect worker": "worker", "Prefect server": "server", "Dask worker": "dask", "`ketcycle up`": "up",
    "`ketcycle down`": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("installed"))
    installation.up()
    (installation.home / "inbox" / "a.txt").write_text(TEXT)
    mlflow, model = installation.home / "mlflow", tmp_path_factory.mktemp("model")
    Tracking(f"sqlite:///{mlflow / 'mlflow.db'}", mlflow / "artifacts").register("demo", model, "challenger", {})
    yield installation
    installation.down()


def begin(installed: Installation, name: str, service: str) -> dict[str, Any]:
    """Start a run of a deployment; return it once its process is there, a short one stopped."""
    given = DEPLOYMENTS[name]
    if name.startswith("curate"):
        given = {"arrival": {"files": [f"{service.strip('`').replace(' ', '-')}.txt"]}}
        (installed.home / "inbox" / given["arrival"]["files"][0]).write_text(TEXT.replace("clock", service))
    run = installed.start(name, given)
    until(lambda: run["id"] in flow_runs.processes() and (name not in LONG or installed.state(run)[0] == "RUNNING"))
    if name not in LONG:
        flow_runs.processes()[run["id"]].send_signal(signal.SIGSTOP)
    return run


def short(name: str) -> str:
    """Return the name of a deployment without its flow."""
    return f"`{name.partition('/')[2]}`"


def survived(name: str, run: dict[str, Any], began: datetime) -> bool:
    """Return whether the process of a long run is alive so late after the kill that nothing will end it any more."""
    return name in LONG and datetime.now(UTC) - began > SURVIVED and run["id"] in flow_runs.processes()


def cancel(installed: Installation, run: dict[str, Any]) -> None:
    """Cancel a run as the page does, and wait for its end."""
    installed.ask(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: installed.ended(run))


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("service", SERVICES)
def test_a_run_of_each_deployment_ends_and_the_next_one_begins(
    installed: Installation, service: str, together: str
) -> None:
    if together == next(iter(TOGETHER)):  # `up` gives up when services have ended six times in ten minutes
        installed.down()
        installed.up()
    going = {name: begin(installed, name, service) for name in TOGETHER[together]}
    time.sleep(3)
    began = datetime.now(UTC)
    if service == "`ketcycle down`":
        installed.down()
    else:
        installed.process(SERVICES[service]).send_signal(signal.SIGKILL)
    alive = flow_runs.processes()
    for name, run in going.items():
        if name not in LONG and (process := alive.get(run["id"])):
            process.send_signal(signal.SIGCONT)
    if service in ("`ketcycle up`", "`ketcycle down`"):
        installed.up()
    ended = {}
    for name, run in going.items():
        until(lambda name=name, run=run: installed.ended(run) or survived(name, run, began))  # type: ignore[misc]
        if installed.ended(run):
            ended[name] = (*installed.state(run), installed.seconds_until_end(run, began))
    lasting = [name for name in going if name not in ended]
    for name in lasting:  # only now: a Dask worker whose task does not end is started again, with what else it runs
        cancel(installed, going[name])
    again = time.monotonic()
    following = {name: installed.start(name, DEPLOYMENTS[name]) for name in going}
    begins = {}
    for name, run in following.items():
        until(lambda run=run: installed.state(run)[0] in ("RUNNING", *OVER))  # type: ignore[misc]
        begins[name] = time.monotonic() - again
        if name in LONG and not installed.ended(run):
            cancel(installed, run)
    for run in following.values():
        until(lambda run=run: installed.ended(run))  # type: ignore[misc]
    table = Printed("every", ("killed: runs", *(f"{state}, after s" for state in ENDS.values()), "go on", "next, s"))
    ends = [
        ", ".join(f"{short(name)} {seconds:.0f}" for name, (state, _, seconds) in ended.items() if state == wanted)
        for wanted in ENDS
    ]
    table.add(f"{service}: {together}", *ends, ", ".join(map(short, lasting)), f"{max(begins.values()):.0f}")
    table.close()
    print({name: message for name, (_, message, _) in ended.items()}, flush=True)
    assert {state for state, *_ in ended.values()} <= set(ENDS), ended
    until(lambda: all(run["state"]["type"] in OVER for flow in INSIDE for run in installed.runs(flow)))
    crashed = {name: seconds for name, (state, _, seconds) in ended.items() if state == "CRASHED"}
    assert all(seconds < 60 for seconds in crashed.values()), crashed

"""A standing installation on good and bad days: events in, runs out, while its processes are killed one by one.

`-s` prints what a person sees after each fault and how long it takes until the next event is answered;
`WRITE_TABLES=1` writes these tables into docs/operations.md.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import distributed
import pytest
from installation import DEPLOYMENTS, DRIFT, OVER, SMOKE, Installation, corpus, until
from printed import Printed

from infra.claims import Claims
from infra.compute import read_note
from infra.installation import flow_runs
from infra.tracking import Tracking

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(3600)]

TEXT = "The queue keeps what it was given, and the people who read the book know that it is so. " * 20


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("installed"))
    installation.up()
    yield installation
    installation.down()


def test_the_inbox_is_there_and_a_second_deployment_changes_nothing(installed: Installation) -> None:
    assert (installed.home / "inbox").is_dir()
    assert installed.deploy("--dry-run") == []


def test_just_the_new_files_of_an_arrival_are_curated(installed: Installation) -> None:
    installed.arrive("a.txt", TEXT)
    ((state, said),) = installed.over("curate-on-arrival", 1)
    assert (state, said.split("; ")[0]) == ("Completed", "1 of 1 files were new")
    (first,) = installed.runs("curate-on-arrival")
    assert first["name"] == "curate-on-arrival: a.txt"
    (installed.home / "inbox" / "b.txt").write_text(TEXT.replace("queue", "ledger"))
    installed.emit("corpus.arrived", {"files": ["a.txt", "b.txt"]})
    installed.emit("corpus.arrived", {"files": ["../home/ledger.db"]})
    installed.emit("corpus.arrived", {"files": ["a.txt"]})
    states = installed.over("curate-on-arrival", 4)
    assert ("Completed", "1 of 2 files were new") in [(state, said.split("; ")[0]) for state, said in states]
    assert any(state == "Failed" and "is outside" in said for state, said in states)
    assert ("Skipped", f"nothing new in 1 files: done by flow run {first['id']}") in states


def test_a_payload_that_does_not_fit_is_refused_where_it_is_emitted(installed: Installation) -> None:
    refused = installed.command("emit", "corpus.arrived", "--payload", '{"file": "a.txt"}', check=False)
    assert refused.returncode == 2
    assert "files: Field required" in refused.stderr


def test_a_validated_model_gets_the_alias_once(installed: Installation, tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{installed.home / 'mlflow' / 'mlflow.db'}", installed.home / "mlflow" / "artifacts")
    for version in (1, 2):
        folder = tmp_path / f"model-{version}"
        folder.mkdir()
        assert tracking.register("demo", folder, "challenger", {}) == version
    fact = {"name": "demo", "version": 2, "by": "gate", "reason": "better"}
    for _ in range(2):
        installed.emit("model.validated", fact)
    states = installed.over("promote-on-validation", 2)
    assert sorted(state for state, _ in states) == ["Completed", "Skipped"]
    assert "champion of demo: none -> version 2 (gate: better)" in [said for _, said in states]
    assert tracking.version_at("demo", "champion") == 2


def test_drift_in_the_cool_down_trains_nothing(installed: Installation) -> None:
    claims = Claims(f"sqlite:///{installed.home / 'ledger.db'}", "retrain-on-drift")
    claims.claim("an earlier streak", "run-1", "ketcycle")
    claims.finish("an earlier streak", "run-1")
    installed.emit("drift.detected", DRIFT)
    ((state, said),) = installed.over("retrain-on-drift", 1)
    assert state == "Skipped"
    assert "cool-down: ketcycle was retrained 0.0 h ago by flow run run-1; 24 h must pass" in said


def test_the_clock_starts_what_is_scheduled(installed: Installation) -> None:
    (found,) = [d for d in installed.ask("/deployments/filter") if d["name"] == "corpus-watch"]
    (schedule,) = found["schedules"]
    change = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
    installed.ask(f"/deployments/{found['id']}/schedules/{schedule['id']}", change, method="PATCH")
    until(
        lambda: any(r["auto_scheduled"] and r["state"]["type"] == "COMPLETED" for r in installed.runs("corpus-watch"))
    )
    changed = installed.deploy("--schedules", "off")
    assert {change["kind"] for change in changed} == {"deployment", "schedule"}, "the file's schedule comes back"


def test_cancel_ends_a_run_within_30_s_and_its_file_is_curated_later(installed: Installation) -> None:
    run = installed.arrive("cancelled.txt", TEXT.replace("book", "letter"))
    time.sleep(3)
    installed.ask(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    took = until(lambda: installed.state(run)[0] == "CANCELLED")
    print(f"\ncancelled after {took:.1f} s: {installed.state(run)[1]}")
    assert took < 30 * patience()
    again = installed.arrive("cancelled.txt", TEXT.replace("book", "letter"))
    until(lambda: installed.state(again)[0] == "COMPLETED")


# What ends while a curation runs, and the states that its flow run may end in.
ENDS = {
    "the process of the run": ("CRASHED",),
    "the Prefect worker": ("CRASHED", "COMPLETED"),  # the process of the flow is a child of its own and may finish
    "the Prefect worker, before the run's process started": ("CRASHED", "COMPLETED"),
    "the Prefect server": ("CRASHED", "COMPLETED"),
    "the Prefect server, for 75 s": ("COMPLETED",),  # longer than a flow run may be silent
    "MLflow": ("COMPLETED",),
    "the Dask worker": ("COMPLETED",),  # another one takes its task
    # Its Dask cluster ends with it, which the run may find out first, or may not need any more.
    "`ketcycle up`": ("CRASHED", "FAILED", "COMPLETED"),
    "`ketcycle down`": ("CRASHED",),  # not killed, but stopped in the middle
}
SERVICES = {
    "the Prefect worker": "worker",
    "the Prefect worker, before the run's process started": "worker",
    "the Prefect server": "server",
    "MLflow": "mlflow",
    "the Dask worker": "dask",
    "`ketcycle up`": "up",
}


@pytest.fixture(scope="module")
def kills() -> Iterator[Printed]:
    table = Printed(
        "kills",
        ("killed while a curation runs", "the run", "its message", "after, s", "next event: begins, s", "done, s"),
    )
    yield table
    table.close()


@pytest.mark.parametrize("what", ENDS)
def test_whatever_is_killed_the_run_ends_and_the_next_event_is_answered(
    installed: Installation, kills: Printed, what: str
) -> None:
    name, text = re.sub("[^a-z]+", "-", what.lower()).strip("-"), TEXT.replace("people", what)
    run = installed.arrive(f"{name}.jsonl", corpus(text), until_it_runs="before" not in what)
    began = datetime.now(UTC)
    if "process of the run" in what:
        flow_runs.processes()[run["id"]].send_signal(signal.SIGKILL)
    elif what == "`ketcycle down`":
        installed.down()
    elif "for 75 s" in what:
        leader = installed.process("up")
        leader.suspend()  # it would start the server again
        installed.process("server").send_signal(signal.SIGKILL)
        time.sleep(75)
        leader.resume()
    else:
        installed.process(SERVICES[what]).send_signal(signal.SIGKILL)
    if what in ("`ketcycle up`", "`ketcycle down`"):
        installed.up()
    until(lambda: installed.ended(run))
    state, said = installed.state(run)
    ended_s = installed.seconds_until_end(run, began)
    assert state in ENDS[what], said
    begun_s, done_s = installed.answered(f"{name}-next.txt", text.replace("know", "see"))
    kills.add(what, state.capitalize(), said.split("; run")[0], f"{ended_s:.0f}", f"{begun_s:.0f}", f"{done_s:.0f}")
    assert ended_s < 60 * patience() or "for 75 s" in what
    until(lambda: installed.answers("mlflow_url", "/health"))
    if state == "CRASHED":
        again = installed.arrive(f"{name}.jsonl", corpus(text))
        until(lambda: installed.state(again)[0] == "COMPLETED")
        assert installed.state(again)[1].startswith("1 of 1 files were new")
    inner = [run for run in installed.runs("lifecycle") if run["state"]["type"] == "RUNNING"]
    assert not inner, "flow runs inside it end too"


@pytest.fixture(scope="module")
def stopped() -> Iterator[Printed]:
    table = Printed(
        "stopped", ("deployment", "run killed: state", "after, s", "next run begins, s", "*Cancel*: state", "after, s")
    )
    yield table
    table.close()


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_a_killed_run_frees_the_place_of_each_deployment_and_cancel_ends_the_next_one(
    installed: Installation, stopped: Printed, deployment: str
) -> None:
    """Its process is killed as soon as it is there, the next run is cancelled as soon as it runs, or is over."""
    (installed.home / "inbox" / "a.txt").write_text(TEXT.replace("book", "novel"))
    run = installed.start(deployment, DEPLOYMENTS[deployment])
    until(lambda: run["id"] in flow_runs.processes())
    flow_runs.processes()[run["id"]].send_signal(signal.SIGKILL)
    killed_s = until(lambda: installed.ended(run))
    killed = installed.state(run)[0]
    following = installed.start(deployment, DEPLOYMENTS[deployment])
    begins_s = until(lambda: installed.state(following)[0] in ("RUNNING", *OVER))
    if installed.state(following)[0] == "RUNNING":
        installed.ask(f"/flow_runs/{following['id']}/set_state", {"state": {"type": "CANCELLING"}})
    cancelled_s = until(lambda: installed.ended(following))
    cancelled = installed.state(following)[0]
    stopped.add(
        f"`{deployment}`", killed.capitalize(), f"{killed_s:.0f}", f"{begins_s:.0f}", cancelled.capitalize(),
        f"{cancelled_s:.0f}",
    )  # fmt: skip
    assert killed == "CRASHED"
    assert cancelled in ("CANCELLED", "COMPLETED")  # one that was over first
    assert max(killed_s, begins_s) < 60 * patience()
    assert cancelled_s < 30 * patience()


@pytest.mark.parametrize("ending", ["cancelled", "killed"])
def test_the_shared_worker_is_free_soon_after_a_run_was_cancelled_or_killed(
    installed: Installation, ending: str
) -> None:
    run = installed.start("lifecycle/nightly", {"config": SMOKE["config"] | {"run_id": f"busy-{ending}"}})
    with distributed.Client(read_note(installed.home)["dask_address"], set_as_default=False) as client:
        until(lambda: any(client.processing().values()))
        time.sleep(3)
        if ending == "cancelled":
            installed.ask(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        else:
            flow_runs.processes()[run["id"]].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert client.submit(sum, [1, 2], pure=False).result(timeout=120) == 3
        free_s = time.monotonic() - began
        until(lambda: installed.ended(run))
    over_s = time.monotonic() - began
    print(f"\n{ending}: {installed.state(run)[0]} after {over_s:.1f} s, worker free after {free_s:.1f} s")
    assert installed.state(run)[0] == {"cancelled": "CANCELLED", "killed": "CRASHED"}[ending]
    assert max(free_s, over_s) < 30 * patience()


def patience() -> float:
    """Return by how much a busy machine is slower than a quiet one."""
    import psutil

    return max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))

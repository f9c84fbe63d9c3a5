"""A standing installation on good and bad days: events in, runs out, while its processes are killed one by one.

`-s` prints what a person sees after each fault and how long it takes until the next event is answered.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from installation import Installation, until

from infra import flow_runs
from infra.claims import Claims
from infra.tracking import Tracking

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(3600)]

DRIFT = {"model": "m", "window": "w1", "streak": "s1", "requests": 40, "p_value": 0.001, "state": "alert"}
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
    assert "champion of demo: nothing -> version 2 (gate: better)" in [said for _, said in states]
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


# What is killed while a curation runs, and the states that its flow run may end in.
KILLED = {
    "flow": ("CRASHED",),
    "worker": ("CRASHED", "COMPLETED"),  # the process of the flow is a child of its own and may finish
    "server": ("CRASHED", "COMPLETED"),
    "up": ("CRASHED",),
    "down": ("CRASHED",),  # not killed, but stopped in the middle
}


@pytest.mark.parametrize("what", KILLED)
def test_whatever_is_killed_the_run_ends_and_the_next_event_is_answered(installed: Installation, what: str) -> None:
    text = TEXT.replace("people", what)
    run = installed.arrive(f"{what}.txt", text)
    began = time.monotonic()
    if what == "flow":
        flow_runs.processes()[run["id"]].send_signal(signal.SIGKILL)
    elif what == "down":
        installed.down()
    else:
        installed.process(what).send_signal(signal.SIGKILL)
    if what in ("up", "down"):
        installed.up()

    def ended() -> bool:
        try:
            return installed.state(run)[0] in KILLED[what]
        except httpx.HTTPError:  # the server is being started again
            return False

    until(ended)
    state, said = installed.state(run)
    ended_s = time.monotonic() - began
    following = installed.arrive(f"{what}-next.txt", text.replace("know", "see"))
    until(lambda: installed.state(following)[0] == "COMPLETED")
    print(
        f"\n{what}: {state} after {ended_s:.0f} s ({said}); next event answered after {time.monotonic() - began:.0f} s"
    )
    if state == "CRASHED":
        again = installed.arrive(f"{what}.txt", text)
        until(lambda: installed.state(again)[0] == "COMPLETED")
        assert installed.state(again)[1].startswith("1 of 1 files were new")
    inner = [run for run in installed.runs("lifecycle") if run["state"]["type"] == "RUNNING"]
    assert not inner, "flow runs inside it end too"


def patience() -> float:
    """Return by how much a busy machine is slower than a quiet one."""
    import psutil

    return max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))

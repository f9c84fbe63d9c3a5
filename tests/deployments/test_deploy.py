"""`ketcycle deploy` and its automations on a real Prefect server without a worker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from deployments.deploy import Change, _ordered, deploy, merged
from flows.cli import app
from infra import events, settings
from infra.compute import write_note
from infra.installation.flow_runs import POOL

NIGHTLY, CURATE = "lifecycle/nightly", "curate-on-arrival/curate-on-arrival"


@pytest.mark.parametrize(
    ("deployed", "there", "ours", "result", "kept"),
    [
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, []),  # the repository changed
        ({"a": 1}, {"a": 3}, {"a": 1}, {"a": 3}, ["a"]),  # people changed
        ({"a": 1}, {"a": 3}, {"a": 2}, {"a": 3}, ["a"]),  # both did
        ({"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}, []),  # both to the same
        ({"a": 1}, {}, {"a": 1}, {}, ["a"]),  # people removed it
        ({}, {"b": 1}, {"a": 1}, {"a": 1, "b": 1}, ["b"]),  # people added one, the repository another
        ({"a": 1}, {"a": 1}, {}, {}, []),  # the repository removed it
    ],
)
def test_parameters_are_merged_three_ways(
    deployed: dict[str, Any], there: dict[str, Any], ours: dict[str, Any], result: dict[str, Any], kept: list[str]
) -> None:
    assert merged(deployed, there, ours) == (result, kept)


class Server:
    """A Prefect server with what `ketcycle deploy` put there."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        httpx.delete(f"{url}/work_pools/{POOL}")  # other files' tests of this process may have made it
        self.first = self.deploy()

    def deploy(self, **options: Any) -> list[Change]:
        return deploy(settings.load(home=self.home), **options)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        for pause_s in (1, 2, 4, 8, 0):  # 503: its SQLite database is locked; Prefect's own client asks again, too
            answer = httpx.request(method, f"{self.url}{path}", json=body, timeout=60)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(pause_s)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/deployments/name/{name}"))

    def events(self, name: str) -> list[dict[str, Any]]:
        found = self.ask("POST", "/events/filter", {"filter": {"event": {"name": [name]}}})
        return list(found["events"])


@pytest.fixture(scope="module")
def server(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_server}):
        patch.setenv("PREFECT_API_URL", prefect_server)
        patch.setenv("KETCYCLE_VERSION", "test")
        yield Server(prefect_server, tmp_path_factory.mktemp("home"))


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.3)


pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]  # the server makes its database


@pytest.mark.slow  # the server makes its database, and every flow is imported
def test_deploying_twice_changes_nothing_the_second_time(server: Server) -> None:
    assert {change.kind for change in server.first} == {"pool", "queue", "limit", "deployment", "automation"}
    assert server.deploy() == []
    switched = server.deploy(schedules=True)
    assert {(change.kind, change.detail) for change in switched} == {("schedule", "on")}
    assert server.deploy() == [], "schedules that people switched on stay on"
    assert {change.detail for change in server.deploy(schedules=False)} == {"off"}
    nightly = server.deployment(NIGHTLY)
    assert [(item["slug"], item["active"]) for item in nightly["schedules"]] == [("nightly", False)]
    assert (nightly["work_queue_name"], nightly["global_concurrency_limit"]["limit"]) == ("training", 1)
    assert nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert nightly["enforce_parameter_schema"]


def test_parameters_that_people_changed_stay_and_are_listed(server: Server) -> None:
    found = server.deployment(CURATE)
    server.ask("PATCH", f"/deployments/{found['id']}", {"parameters": {"config": {"profile": "smoke"}}})
    (change,) = server.deploy()
    assert (change.kind, change.action, change.name) == ("parameters", "keep", CURATE)
    assert server.deployment(CURATE)["parameters"] == {"config": {"profile": "smoke"}}
    assert {(change.kind, change.action) for change in server.deploy(reset=True)} == {("deployment", "update")}
    assert server.deployment(CURATE)["parameters"] == {}
    assert server.deploy() == []


def test_a_deployment_of_an_earlier_layout_is_moved(server: Server) -> None:
    found = server.deployment(NIGHTLY)
    server.ask("PATCH", f"/deployments/{found['id']}", {"entrypoint": "flows.lifecycle.lifecycle", "version": "old"})
    (change,) = server.deploy(dry_run=True)
    assert (change.name, change.action, change.detail) == (NIGHTLY, "update", "entrypoint, version old -> test")
    assert server.deployment(NIGHTLY)["entrypoint"] == "flows.lifecycle.lifecycle"
    server.deploy()
    moved = server.deployment(NIGHTLY)
    assert (moved["id"], moved["entrypoint"]) == (found["id"], "flows.lifecycle.lifecycle.lifecycle")


def test_a_server_that_does_not_answer_yet_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL")  # else the server is known before it answers
    home = server.home / "later"
    home.mkdir()
    command = ["deploy", "--dry-run", "--json", "--home", str(home)]
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        refused = CliRunner().invoke(app, [*command, "--wait", "0.5"])
        assert refused.exit_code == 2
        assert "no Prefect server answers" in refused.stderr
        starting = threading.Timer(2.0, write_note, (home, {"prefect_url": server.url}))
        starting.start()
        found = CliRunner().invoke(app, [*command, "--wait", "60"])
        starting.join()
    assert json.loads(found.stdout) == {"dry_run": True, "changes": []}


def test_planted_drift_starts_no_retraining_and_real_drift_does(server: Server) -> None:
    drift = {"model": "m", "window": "w1", "streak": "s1", "requests": 40, "p_value": 0.001, "state": "alert"}
    runs = {"flows": {"name": {"any_": ["retrain-on-drift"]}}}
    assert events.emit("drift.detected", drift | {"demonstration": True})
    assert events.emit("drift.detected", drift | {"window": "w2"})
    until(lambda: bool(server.ask("POST", "/flow_runs/filter", runs)))
    time.sleep(2)
    (run,) = server.ask("POST", "/flow_runs/filter", runs)
    assert run["parameters"]["drift"]["window"] == "w2"


def test_a_payload_that_does_not_fit_is_a_failed_action_with_a_reason(server: Server) -> None:
    event = {
        "event": "ketcycle.corpus.arrived",
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "resource": {"prefect.resource.id": "ketcycle.corpus"},
        "payload": {"file": "march.parquet"},
        "id": "6f2a1a37-59a5-4c5f-9a57-1d2f0d3b3c10",
    }
    server.ask("POST", "/events", [event])  # as `prefect event emit` does
    until(lambda: bool(server.events("prefect.automation.action.failed")))
    (failed,) = server.events("prefect.automation.action.failed")
    assert "'file' was unexpected" in failed["payload"]["reason"]
    assert not server.ask("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["curate-on-arrival"]}}})


def test_names_that_a_server_returns_in_another_order_are_no_change() -> None:
    """The events that an automation expects are a set: its order depends on the hash seed of the process."""
    one, other = ({"trigger": {"expect": names, "within": 3600}} for names in (["a", "b"], ["b", "a"]))
    assert one != other
    assert _ordered(one) == _ordered(other)
    assert _ordered({"actions": [{"subject": "b"}, {"subject": "a"}]}) == {
        "actions": [{"subject": "b"}, {"subject": "a"}]
    }


def test_an_incident_is_posted_once(server: Server, posted: tuple[str, list[dict[str, Any]]]) -> None:
    url, bodies = posted
    loaded = settings.load(home=server.home, notify_url=url)
    kinds = {change.kind for change in deploy(loaded)}
    assert kinds == {"block", "automation"}
    assert deploy(loaded) == []
    worse = {"against": "its first requests", "metric": "nats", "difference": -0.5}
    for model in ("n", "n", "o"):
        assert events.emit("quality.regressed", worse | {"model": model})
    status = server.deployment("status/status")
    for _ in range(2):
        run = server.ask("POST", f"/deployments/{status['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        crashed = {"state": {"type": "CRASHED", "message": "its process is gone"}, "force": True}
        server.ask("POST", f"/flow_runs/{run['id']}/set_state", crashed)
    until(lambda: len(bodies) >= 3)
    time.sleep(3)  # no message comes late
    said = sorted(body["subject"] for body in bodies)
    assert said[0].startswith("ketcycle.quality.regressed on ketcycle.model.n")
    assert said[1].startswith("ketcycle.quality.regressed on ketcycle.model.o")
    assert said[2].startswith("status Crashed")
    assert len(said) == 3, said
    (text,) = [body["text"] for body in bodies if "Crashed" in body["subject"]]
    assert "its process is gone" in text
    assert {change.kind for change in server.deploy()} == {"block", "automation"}

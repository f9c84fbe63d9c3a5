from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from flows.reports.status import markdown, sections
from infra import settings
from infra.installation.status import Champion, Run, Watched, look, prefect_of
from infra.lake import write_atomic
from infra.runtime.ledger.budget import set_limit
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return settings.load(home=tmp_path / "home")


def test_an_empty_home_has_a_status(loaded: Settings) -> None:
    found = look(loaded)
    assert (found.services, found.active, found.recent, found.champions, found.budget) == ((), (), (), (), ())
    assert found.free_gb > 0
    assert {section.title: section.empty for section in sections(found)}["Drift"] == "not watched yet"
    assert json.loads(json.dumps(found.asdict()))["home"] == str(loaded.home)


def test_everything_is_read_where_it_is_kept(loaded: Settings) -> None:
    write_atomic(loaded.home / "runs" / "r1" / "run.json", json.dumps({"status": "done"}))
    write_atomic(loaded.home / "runs" / "r2" / "run.json", "{half")
    write_atomic(
        loaded.home / "watch" / "ketcycle.json",
        json.dumps({"standing": {"drift": {"standing": "alert"}}, "until": "2026-11-29T10:00:00+00:00"}),
    )
    write_atomic(loaded.home / "services.json", json.dumps({"prefect_url": "http://127.0.0.1:9/api"}))
    (loaded.home / "mlflow").mkdir()
    with sqlite3.connect(loaded.home / "mlflow" / "mlflow.db") as connection:
        connection.execute("create table registered_model_aliases (name text, alias text, version integer)")
        connection.execute("insert into registered_model_aliases values ('ketcycle', 'champion', 3)")
    set_limit(Ledger(loaded.ledger), "day", "qpu_s", 60.0)
    found = look(loaded)
    assert {run.name: run.state for run in found.recent} == {"r1": "done", "r2": "unreadable"}
    assert found.drift == (Watched("ketcycle", "alert", "2026-11-29T10:00:00"),)
    assert found.champions == (Champion("ketcycle", 3),)
    assert [(service.name, service.answers) for service in found.services] == [("Prefect", False)]
    assert [(row["scope"], row["left"]) for row in found.budget] == [("day", 60.0)]
    page = markdown(found)
    for words in (
        "| Prefect | http://127.0.0.1:9/api | NO |",
        "| ketcycle | alert |",
        "| budget per day | 60 qpu_s left |",
    ):
        assert words in page


def test_a_server_that_stops_answering_in_between_is_reported(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def do_POST(self) -> None:
            self.asked.append(self.path)
            if len(self.asked) > 1:
                return  # the connection ends without an answer
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None: ...

    write_atomic(loaded.home / "runs" / "r1" / "run.json", json.dumps({"status": "done"}))
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        write_atomic(loaded.home / "services.json", json.dumps({"prefect_url": url}))
        found = look(loaded)
        server.shutdown()
    assert len(Slow.asked) > 1
    assert [(service.name, service.answers) for service in found.services] == [("Prefect", False)]
    assert [run.name for run in found.recent] == ["r1"], "its own record instead"


@pytest.mark.engine
@pytest.mark.slow  # the server makes its database
def test_runs_and_events_come_from_the_server(
    loaded: Settings, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.states import Crashed, Running

    @flow(name="seen")
    def seen() -> None: ...

    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with SyncPrefectClient(prefect_server) as client:
        going = client.create_flow_run(seen, name="going", state=Running())
        ended = client.create_flow_run(seen, name="ended", state=Running())
        before = look(loaded).ended["CRASHED"]
        client.set_flow_run_state(ended.id, Crashed(message="gone"), force=True)
        found = look(loaded)
        client.set_flow_run_state(going.id, Crashed(), force=True)
        line = {"name": "ketcycle.test", "level": 20, "timestamp": datetime(2026, 11, 29, 8, tzinfo=UTC)}
        client.request(
            "POST",
            "/logs/",
            json=[
                {**line, "timestamp": str(line["timestamp"]), "message": f"line {k}", "flow_run_id": str(ended.id)}
                for k in range(250)
            ],
        )
        until = time.monotonic() + 20
        while len(lines := [*(prefect_of(loaded).logs("ended") or ())]) < 250:
            assert time.monotonic() < until
        assert lines == [*(prefect_of(loaded).logs(str(ended.id)) or ())]
        assert "2026-11-29T08:00:00.000Z ended INFO ketcycle.test: line 0" in lines
        assert prefect_of(loaded).logs("nobody") is None
    assert "going" in [run.name for run in found.active]
    assert Run("ended", "Crashed", found.recent[0].since, "gone") in found.recent
    assert found.ended["CRASHED"] == before + 1

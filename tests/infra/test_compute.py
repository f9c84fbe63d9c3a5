"""Services of a run: which are used, and that what was started stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import distributed
import psutil
import pytest

from infra import compute, standing
from infra.compute import _answers, read_note, stop_families, write_note
from infra.errors import BadInput
from infra.settings import Settings

ROOT = Path(__file__).parents[2]


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_proxy_is_not_asked_for_what_runs_here(served: str) -> None:
    code = (
        "from pathlib import Path; from infra import settings; settings.quiet_libraries(Path('home')); "
        f"from infra.compute import _answers; print(_answers({served!r}))"
    )
    proxies = dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"
    )
    environment = {**os.environ, **proxies, "PYTHONPATH": str(ROOT), "NO_PROXY": "example.org"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_note_of_services_that_are_gone_or_damaged_is_no_address(tmp_path: Path) -> None:
    assert read_note(tmp_path) == {}
    (tmp_path / "services.json").write_text("{half")
    assert read_note(tmp_path) == {}
    write_note(tmp_path, {"prefect_url": "http://127.0.0.1:9/api"})
    assert read_note(tmp_path)["prefect_url"] == "http://127.0.0.1:9/api"
    assert not _answers("http://127.0.0.1:9/api")


FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def family() -> tuple[psutil.Process, psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return psutil.Process(process.pid), psutil.Process(int(process.stdout.readline()))


def gone(*processes: psutil.Process) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


def test_down_stops_what_a_killed_up_left_behind(tmp_path: Path) -> None:
    parent, child = family()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    note = {"pid": dead.pid, "started": time.time(), "children": [[parent.pid, parent.create_time()]]}
    write_note(tmp_path, {**note, "prefect_url": "http://127.0.0.1:9/api"})
    said: list[str] = []
    assert standing.down(tmp_path, said.append)
    assert gone(parent, child)
    assert not (tmp_path / "services.json").exists()
    assert "1 of its services are left" in said[0]
    assert not standing.down(tmp_path, said.append)
    assert said[-1] == f"nothing runs for {tmp_path}"


def test_down_spares_a_process_that_only_has_the_same_number(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        began = psutil.Process(other.pid).create_time() - 3600
        write_note(tmp_path, {"pid": other.pid, "started": began, "children": [[other.pid, began]]})
        standing.down(tmp_path, lambda _: None)
        assert other.poll() is None
    finally:
        stop_families([psutil.Process(other.pid)])
        other.wait()


def test_a_second_up_is_refused_with_the_addresses_of_the_first(tmp_path: Path) -> None:
    write_note(tmp_path, {"prefect_url": "http://127.0.0.1:4200/api"})
    with (
        standing.alone(tmp_path),
        pytest.raises(BadInput, match=r"run already; `ketcycle down` stops them\nPrefect +http://127.0.0.1:4200$"),
        standing.alone(tmp_path),
    ):
        pass


def test_a_usual_port_that_is_taken_is_replaced_and_one_that_was_asked_for_is_not(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        usual = Settings.model_construct(
            prefect_port=port, mlflow_port=0, dask_port=0, metrics_port=0, _fields_set=set()
        )
        names = ("prefect_port", "mlflow_port", "dask_port", "metrics_port")
        found = {name: standing.choose_port(usual, name) for name in names}
        assert found["prefect_port"] != port
        assert len(set(found.values())) == 4
        with pytest.raises(BadInput, match=f"prefect_port {port} is in use by another program; stop it, or choose"):
            standing.choose_port(Settings(home=tmp_path, prefect_port=port), "prefect_port")


@pytest.mark.engine
def test_workers_are_copies_of_one_process_that_imported_for_all_and_ends_with_them(tmp_path: Path) -> None:
    with compute.cluster(Settings(home=tmp_path), ["colorsys"]):
        client = distributed.get_client()
        assert set(client.run(lambda: "colorsys" in sys.modules).values()) == {True}
        parents = set(client.run(os.getppid).values())
        assert parents & {child.pid for child in psutil.Process().children()} == parents
    [parent] = parents
    assert not psutil.pid_exists(parent)

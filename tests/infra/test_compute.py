"""Services of a run: which are used, and that what was started stops."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import distributed
import psutil
import pytest

from infra import compute
from infra.compute import _answers, cluster, read_note, running_prefect, stop_families, write_note
from infra.errors import BadInput
from infra.installation import services
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
    assert services.down(tmp_path, said.append)
    assert gone(parent, child)
    assert not (tmp_path / "services.json").exists()
    assert "1 of its services are left" in said[0]
    assert not services.down(tmp_path, said.append)
    assert said[-1] == f"nothing runs for {tmp_path}"


def test_down_spares_a_process_that_only_has_the_same_number(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        began = psutil.Process(other.pid).create_time() - 3600
        write_note(tmp_path, {"pid": other.pid, "started": began, "children": [[other.pid, began]]})
        services.down(tmp_path, lambda _: None)
        assert other.poll() is None
    finally:
        stop_families([psutil.Process(other.pid)])
        other.wait()


def test_a_second_up_is_refused_with_the_addresses_of_the_first(tmp_path: Path) -> None:
    write_note(tmp_path, {"prefect_url": "http://127.0.0.1:4200/api"})
    with (
        services.alone(tmp_path),
        pytest.raises(BadInput, match=r"run already; `ketcycle down` stops them\nPrefect +http://127.0.0.1:4200$"),
        services.alone(tmp_path),
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
        found = {name: services.choose_port(usual, name) for name in names}
        assert found["prefect_port"] != port
        assert len(set(found.values())) == 4
        with pytest.raises(BadInput, match=f"prefect_port {port} is in use by another program; stop it, or choose"):
            services.choose_port(Settings(home=tmp_path, prefect_port=port), "prefect_port")


@pytest.mark.engine
def test_workers_are_copies_of_one_process_that_imported_for_all_and_ends_with_them(tmp_path: Path) -> None:
    with compute.cluster(Settings(home=tmp_path), ["colorsys"]):
        client = distributed.get_client()
        assert set(client.run(lambda: "colorsys" in sys.modules).values()) == {True}
        parents = set(client.run(os.getppid).values())
        assert parents & {child.pid for child in psutil.Process().children()} == parents
    [parent] = parents
    assert not psutil.pid_exists(parent)


def test_a_copied_home_does_not_use_or_stop_the_services_of_the_original(tmp_path: Path) -> None:
    parent, child = family()
    first, copy, moved = tmp_path / "first", tmp_path / "copy", tmp_path / "moved"
    first.mkdir()
    try:
        children = [[child.pid, child.create_time()]]
        write_note(first, {"pid": parent.pid, "started": parent.create_time(), "children": children})
        shutil.copytree(first, copy)
        assert read_note(copy) == {}
        assert not services.down(copy, lambda _: None)
        assert not gone(parent)
        assert not gone(child)
        first.rename(moved)
        assert services.down(moved, lambda _: None), "one that was only renamed can be stopped"
        assert gone(parent, child)
    finally:
        stop_families([process for process in (parent, child) if process.is_running()])


class Cloud(BaseHTTPRequestHandler):
    """A server that answers nobody without the key, as Prefect Cloud does."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer pnu_key" and self.path == "/api/accounts/a/workspaces/w/health"
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_prefect_cloud_is_used_with_its_key_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    url = f"http://127.0.0.1:{server.server_port}/api/accounts/a/workspaces/w"
    loaded = Settings(home=tmp_path, prefect_url=url)
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    with pytest.raises(BadInput, match=r"no Prefect server answers at .*PREFECT_API_KEY"):
        running_prefect(loaded)
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_key")
    assert running_prefect(loaded) == url
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler listens"),
        ("gateway://host:8000/abc", "is no address of a Dask scheduler"),
        ("127.0.0.1:8786", "is no address of a Dask scheduler"),
    ],
)
def test_a_scheduler_that_was_set_is_never_replaced(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(BadInput, match=said), cluster(Settings(home=tmp_path, dask_address=address)):
        pass


def test_what_a_killed_service_leaves_behind_ends_before_it_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    running = services.Services(tmp_path, said.append)
    log = tmp_path / "service.log"
    running.start("service", [sys.executable, "-c", FAMILY], log)
    while not log.read_text().strip():
        time.sleep(0.05)
    first, child = running.children["service"], psutil.Process(int(log.read_text()))
    try:
        first.kill()
        first.wait()
        assert not gone(child), "its child goes on, with its port"
        running._restart("service", -9)
        psutil.wait_procs([child], timeout=10)
        assert gone(child)
        assert running.children["service"].poll() is None
        assert "service ended by itself (status -9)" in said[0]
    finally:
        running.stop()

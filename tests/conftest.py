"""One thread for every numerical library, for results depend on the thread count, and servers that tests share."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import infra.processes.warm  # noqa: F401  (before the libraries that tests import)

os.environ.setdefault("QDK_PYTHON_TELEMETRY", "none")  # read when the estimator is imported
# As the product sets it: else the vendor's client looks for its caller's module among all that are imported, at each
# request; in a process that has imported all tests that is a tenth of a second.
os.environ.setdefault("USAGE_DATA_OPT_OUT", "True")
sys.path.append(str(Path(__file__).parent / "doubles"))  # what several tests share


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, so that no process is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the slowest files; the tests of one run in one process."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if len(seconds) > 1:
        terminalreporter.section(f"slowest of {len(seconds)} files")
        for file, duration in sorted(seconds.items(), key=lambda item: -item[1])[:25]:
            terminalreporter.write_line(f"{duration:7.1f} s  {file}")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a study without options makes its instances of; the processes of the tests share what is read of libraries.

    Parsing them takes as long as all else that is tested with it.
    """
    from flows.study.bank import CACHE, gather_material
    from infra import settings
    from tasks.text.docstrings import LIBRARIES, library_docstrings

    base, home = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("material")
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docstrings"
    for source in LIBRARIES:
        library_docstrings(source, kept)
    shutil.copytree(kept, home / CACHE)
    return gather_material(settings.load(home=home))


@pytest.fixture(scope="session")
def ibm_double() -> Iterator[Any]:
    """A process that speaks the quantum platform's protocol, started by the first test that asks."""
    from ibm_platform import Double

    double = Double()
    yield double
    double.stop()


@pytest.fixture
def ibm(ibm_double: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The platform without jobs and faults, and this process set to it; it polls fast and backs off at once."""
    from qiskit_ibm_runtime.api.session import PostForcelistRetry

    from infra.runtime.backends import registry as backends
    from infra.runtime.backends.ibm.device import IBMDevice

    ibm_double.reset()
    for name, value in ibm_double.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("IAM_URL", "GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"):
        monkeypatch.setenv(name, ibm_double.url)  # the product sets them for its process; here they are put back
    monkeypatch.setenv("KETCYCLE_IBM_LISTING_DELAY_S", "0.6")  # the double lists at once, unless a test says otherwise
    monkeypatch.setattr(backends, "_open", {})
    monkeypatch.setattr(IBMDevice, "poll_s", 0.01)
    monkeypatch.setattr(IBMDevice, "linger_s", 0.0)
    monkeypatch.setattr(PostForcelistRetry, "get_backoff_time", lambda _: 0.0)
    return ibm_double


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback; what it holds is gone with the tests."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name below an empty bucket of that server, for which this process has credentials."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a client keeps the address that it began with
    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/lake of us"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the API of a Prefect server on loopback that lives as long as the tests; it has no worker."""
    import psutil

    from deployments.tables import make_tables
    from infra.compute import free_port, prefect_command, stop_families, wait_for_prefect

    home = tmp_path_factory.mktemp("prefect")
    (home / "prefect").mkdir()
    make_tables(home / "prefect.db", "prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with (home / "prefect" / "server.log").open("ab") as output:
        quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
        process = subprocess.Popen(prefect_command(port), stdout=output, stderr=output, env={**os.environ, **quiet})
    try:
        wait_for_prefect(process, url, home)
        yield url
    finally:
        stop_families([psutil.Process(process.pid)])
        process.wait()


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _as_user() -> tuple[list[str] | None, Any]:
    """Return what makes a command run as an ordinary user: the server refuses to be run by root."""
    if os.getuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user
    return None, None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[int]:
    """Yield the port of a server on loopback that lives as long as the tests."""
    import pg8000.dbapi

    programs, (prefix, user) = _programs(), _as_user()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb")
    if prefix is None or (prefix and not shutil.which("setpriv")):
        pytest.skip("PostgreSQL refuses to be run by root, and there is no setpriv or no other user to run it as")
    folder = Path(tempfile.mkdtemp(prefix="ketcycle-postgres-"))  # not below tmp_path, which only its owner may enter
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    make = [
        *prefix,
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "ketcycle",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
    ]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*prefix, str(programs / "postgres"), "-D", str(data), "-p", str(port), *options],
            stdout=log,
            stderr=log,
            cwd="/",
        )
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                pg8000.dbapi.connect("ketcycle", host="127.0.0.1", port=port, database="postgres").close()
                break
            except (pg8000.dbapi.Error, OSError):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up, "the server does not answer"
                time.sleep(0.1)
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for connections that are still open
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: int) -> str:
    """Return the URL of an empty database."""
    import pg8000.dbapi

    name = f"ledger_{uuid.uuid4().hex[:12]}"
    connection = pg8000.dbapi.connect("ketcycle", host="127.0.0.1", port=postgres_server, database="postgres")
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    return f"postgresql+pg8000://ketcycle@127.0.0.1:{postgres_server}/{name}"

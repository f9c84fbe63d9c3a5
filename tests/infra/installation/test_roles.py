"""Roles of an installation on several machines, as processes with homes and work folders of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra import compute, settings
from infra.access import init_tls
from infra.errors import BadInput
from infra.installation.roles import ROLES, play

ROOT = Path(__file__).parents[3]


def start(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    work = home.with_name(f"{home.name}-work")
    work.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "flows.cli", "up", "--home", str(home), *arguments]
    with (work / "said.log").open("wb") as output:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=work, env=environment, stdout=output, stderr=subprocess.STDOUT)


def said(home: Path, pattern: str, seconds: float = 120.0) -> str:
    path, end = home.with_name(f"{home.name}-work") / "said.log", time.monotonic() + seconds
    while time.monotonic() < end:
        if found := re.search(pattern, path.read_text()):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(path.read_text())


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """A scheduler on 127.0.0.2 and a worker on 127.0.0.3, with certificates of one authority."""
    first, second = tmp_path / "first", tmp_path / "second"
    init_tls(first / "tls", ["127.0.0.2", "127.0.0.3"])
    second.mkdir()
    shutil.copytree(first / "tls", second / "tls", ignore=shutil.ignore_patterns("ca-key.pem"))
    ports = ["--dask-port", "0"]
    processes = [start(first, "--role", "scheduler", "--address", "127.0.0.2", *ports)]
    try:
        address = said(first, r"tls://127\.0\.0\.2:\d+")
        worker = ["--role", "worker", "--address", "127.0.0.3", "--scheduler", address, "--workers", "1"]
        processes.append(start(second, *worker))
        yield first, second, address
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


@pytest.mark.slow
@pytest.mark.engine
def test_workers_elsewhere_are_reached_by_tls_only(machines: tuple[Path, Path, str], tmp_path: Path) -> None:
    import distributed

    first, _, address = machines
    loaded = settings.load(home=first, dask_address=address)
    with compute.cluster(loaded) as reached:
        client = distributed.get_client()
        assert reached == address
        client.wait_for_workers(1, timeout=120)
        (worker,) = client.scheduler_info()["workers"]
        assert worker.startswith("tls://127.0.0.3:")
        assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
    with (
        pytest.raises(BadInput, match="wants certificates"),
        compute.cluster(settings.load(home=tmp_path / "stranger", dask_address=address)),
    ):
        pass
    with pytest.raises(OSError, match=r"reset|closed|Timed out"):
        distributed.Client(address.replace("tls:", "tcp:"), timeout=3)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_others_reach_wants_certificates_and_a_secret(role: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"the {role} on 10.0.0.7 would be open to others without TLS and a secret"):
        play(role, settings.load(home=tmp_path), "10.0.0.7", print)  # type: ignore[arg-type]
    init_tls(tmp_path / "tls", ["10.0.0.7"])
    (tmp_path / "tls" / "secret").unlink()
    with pytest.raises(BadInput, match="without a secret"):
        play(role, settings.load(home=tmp_path), "10.0.0.7", print)  # type: ignore[arg-type]


def test_a_worker_wants_a_scheduler_and_its_certificates(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--scheduler ADDRESS"):
        play("worker", settings.load(home=tmp_path), "127.0.0.1", print)
    with pytest.raises(BadInput, match="copy that folder"):
        play("worker", settings.load(home=tmp_path, dask_address="tls://127.0.0.2:1"), "127.0.0.1", print)


@pytest.mark.slow
@pytest.mark.engine
def test_the_pages_of_a_server_are_reached_by_tls_and_the_secret_only(tmp_path: Path) -> None:
    home, host = tmp_path / "home", "127.0.0.2"
    certificate = init_tls(home / "tls", [host])
    ports = [f"--{name}-port={compute.free_port()}" for name in ("prefect", "mlflow", "metrics")]
    server = start(home, "--role", "server", "--address", host, *ports)
    try:
        url = said(home, r"https://127\.0\.0\.2:\d+/api(?=\")")
        ours = ssl.create_default_context(cafile=str(certificate.authority))
        secret = (home / "tls" / "secret").read_text().strip()
        counted = f"{url}/flows/count"
        assert httpx.post(counted, verify=ours, auth=(settings.USER, secret)).json() == 0
        assert httpx.post(counted, verify=ours).status_code == httpx.codes.UNAUTHORIZED
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(counted, auth=(settings.USER, secret))
        with pytest.raises(httpx.HTTPError):
            httpx.post(counted.replace("https:", "http:"))
        told = subprocess.run(
            [sys.executable, "-m", "flows.cli", "deploy", "--dry-run", "--json", "--home", str(home)],
            cwd=home.with_name("home-work"), env={**os.environ, "PYTHONPATH": str(ROOT), "KETCYCLE_PREFECT_URL": url},
            capture_output=True, text=True,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)

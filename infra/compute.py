"""One Prefect server and one Dask cluster for a run: those that run already, else own ones on loopback."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import psutil

from infra.errors import KetcycleError
from infra.settings import Settings, environment, hand_on

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

log = logging.getLogger("ketcycle.compute")

SERVER_START_S = 180
# A shadow arm stays where it was put: stolen by an idle worker it would keep the next stage waiting.
PLACED = {"distributed.scheduler.work-stealing": False}


@dataclass(frozen=True)
class Services:
    """Addresses of what a run uses, and the server's pid where the run started it itself."""

    prefect_url: str
    dask_address: str
    server_pid: int | None


@contextmanager
def services(settings: Settings) -> Iterator[Services]:
    """Yield a Prefect API and a Dask cluster; what was started here is stopped at the end."""
    with ExitStack() as stack:
        url = _running_prefect(settings)
        server: subprocess.Popen[bytes] | None = None
        if url is None:
            server, url = stack.enter_context(_prefect_server(settings.home))
        hand_on(PREFECT_API_URL=url)
        address = stack.enter_context(cluster(settings))
        if server is not None:
            _wait_for_prefect(server, url, settings.home)
        yield Services(url, address, server.pid if server else None)
        from prefect.logging.handlers import APILogHandler  # prefect reads its address when it is imported

        APILogHandler().flush()  # what is still queued would meet a server that is gone


@contextmanager
def cluster(settings: Settings) -> Iterator[str]:
    """Yield the address of the current Dask cluster, of the configured one, or of an own one on loopback."""
    import dask
    import distributed

    try:
        yield _address(distributed.get_client())
        return
    except ValueError:
        pass  # no client in this process yet
    address = settings.dask_address or _noted(settings.home, "dask_address")
    if address and _listens(address):
        with distributed.Client(address) as client:
            yield _address(client)
        return
    local = settings.home / "dask"
    with (
        dask.config.set({"temporary-directory": str(local), "distributed.comm.timeouts.connect": "60s", **PLACED}),
        distributed.LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,  # usage is attributed per process
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as own,
        distributed.Client(own) as client,
    ):
        yield _address(client)


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return the task runner of every flow: it uses the current Dask client of the process."""
    from prefect_dask.task_runners import DaskTaskRunner

    runner = DaskTaskRunner(
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    )
    return cast("TaskRunner[PrefectFuture[Any]]", runner)


def _address(client: Any) -> str:
    return str(client.scheduler.address)


def note(home: Path, **addresses: str) -> None:
    """Write down the addresses of services that outlive this process."""
    from infra.lake import write_atomic

    write_atomic(home / "services.json", json.dumps(addresses))


def free_port() -> int:
    """Return a port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _noted(home: Path, name: str) -> str | None:
    try:
        value = json.loads((home / "services.json").read_text()).get(name)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return str(value) if value else None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _running_prefect(settings: Settings) -> str | None:
    for url in (settings.prefect_url, environment("PREFECT_API_URL"), _noted(settings.home, "prefect_url")):
        if url and _answers(url):
            return url
    return None


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@contextmanager
def _prefect_server(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    hand_on(PREFECT_SERVER_UI_API_URL=url)
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "infra.child",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (home / "prefect" / "server.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        yield process, url
    finally:
        _stop(process)


def _wait_for_prefect(process: subprocess.Popen[bytes], url: str, home: Path) -> None:
    give_up = time.monotonic() + SERVER_START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > give_up:
            raise KetcycleError(
                f"the Prefect server did not start; the reason stands in {home / 'prefect' / 'server.log'}"
            )
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=8)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(timeout=10)


def stay_up(settings: Settings, show: Callable[[str], None]) -> None:
    """Run the services until interrupted: Prefect, Dask with its dashboard, the MLflow page, all on loopback."""
    import dask
    import distributed

    port = free_port()
    mlflow = [sys.executable, "-m", "infra.child", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    mlflow += ["--backend-store-uri", settings.tracking, "--workers", "1"]
    mlflow += ["--artifacts-destination", str(settings.home / "mlflow" / "artifacts")]
    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        server, url = stack.enter_context(_prefect_server(settings.home))
        hand_on(PREFECT_API_URL=url)
        stack.enter_context(dask.config.set(PLACED))
        own = stack.enter_context(
            distributed.LocalCluster(
                n_workers=settings.workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
            )
        )
        output = stack.enter_context((settings.home / "mlflow" / "server.log").open("ab"))
        page = subprocess.Popen(mlflow, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        stack.callback(_stop, page)
        _wait_for_prefect(server, url, settings.home)
        note(settings.home, prefect_url=url, dask_address=own.scheduler_address)
        stack.callback(note, settings.home)
        show(f"Prefect  {url.removesuffix('/api')}")
        show(f"MLflow   http://127.0.0.1:{port}")
        show(f"Dask     {own.dashboard_link}")
        show("runs of this home use them; stop with Ctrl-C")
        with suppress(KeyboardInterrupt):
            page.wait()

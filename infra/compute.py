"""What a run uses: a Prefect server if one answers, and a Dask cluster, a running one or an own one on loopback."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import psutil

from deployments.tables import make_tables
from infra import versions
from infra.access import Certificate
from infra.errors import BadInput, KetcycleError
from infra.settings import Settings, environment, hand_on, load, shared, unset

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

log = logging.getLogger("ketcycle.compute")

SERVER_START_S = 600  # of a busy machine; one that ends is noticed at once
HEALTH_S = 2.0
TRAINERS = "ketcycle-trainers"  # the limit that `ketcycle deploy` sets: one for each GPU
MIB = 2**20
SCHEMES = ("tcp://", "tls://")  # of a Dask scheduler
# Dask has malloc return every 64 KiB to the system; a training step would ask for the same pages again.
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(512 * MIB),
    "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),  # glibc takes no more
    "MALLOC_TOP_PAD_": str(16 * MIB),
    "MALLOC_ARENA_MAX": "1",  # a task is a thread; another arena gives pages back
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
}
HEARTBEAT_S = 10.0  # between the figures that a worker sends to the scheduler
# Tasks of a run are few, long and small in memory: what Dask does for many short ones would only cost CPU time.
DASK = {
    # A shadow arm stays where it was put: stolen by an idle worker it would keep the next stage waiting.
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.profile.enabled": False,
    **{f"distributed.worker.memory.{limit}": False for limit in ("target", "spill", "pause", "terminate")},
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.comm.timeouts.connect": "60s",
    "distributed.worker.multiprocessing-method": "forkserver",
    **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ENVIRONMENT.items()},
}


@dataclass(frozen=True)
class Services:
    """Addresses of what a run uses; without a Prefect server it runs without Prefect's engine."""

    prefect_url: str
    dask_address: str

    @property
    def said(self) -> str:
        """A line for the one who started the run: where it can be watched."""
        if self.prefect_url:
            return f"Prefect page {self.prefect_url.removesuffix('/api')}"
        return "without a Prefect server; `ketcycle up` starts one, whose page then shows each run"


@contextmanager
def services(
    settings: Settings, imported: Sequence[str] = (), meanwhile: Callable[[], object] = lambda: None
) -> Iterator[Services]:
    """Yield the Prefect API that answers, if one does, and a Dask cluster; one started here is stopped at the end.

    Args:
        settings: the settings.
        imported: modules that workers started here import before they are copied from one process.
        meanwhile: called while that process imports them.
    """
    url = running_prefect(settings) or ""
    if url:
        hand_on(PREFECT_API_URL=url)
    else:
        unset("PREFECT_API_URL")  # do not try again a server that does not answer
    with cluster(settings, imported, meanwhile) as address:
        yield Services(url, address)


@contextmanager
def cluster(
    settings: Settings, imported: Sequence[str] = (), meanwhile: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Yield the address of the current Dask cluster, of the configured one, or of an own one on loopback.

    Args:
        settings: the settings.
        imported: modules that workers of an own cluster import before they are copied from one process.
        meanwhile: called while that process imports them.
    """
    if current := _current():
        yield current
        return
    if settings.dask_address:
        require_scheduler(settings.dask_address)
    address = settings.dask_address or read_note(settings.home).get("dask_address")
    if address and _listens(address):
        import dask
        import distributed

        from infra.processes.abandoned import Abandoned

        with dask.config.set(certificates(settings.home, address)), distributed.Client(address) as client:
            require_same(client, settings)
            client.register_plugin(Abandoned())
            yield _address(client)
        return
    with _copied_workers(imported):  # it imports while this process does
        import dask
        import distributed

        distributed.utils._forkserver_preload_set = True  # noqa: SLF001  (else this process imports pandas for a list)
        # Half a second otherwise, and no setting changes it. A lost worker is noticed by its connection, not by these.
        distributed.scheduler.heartbeat_interval = lambda n: HEARTBEAT_S  # noqa: ARG005
        meanwhile()
        with (
            dask.config.set({"temporary-directory": str(settings.home / "dask"), **DASK}),
            distributed.LocalCluster(
                n_workers=settings.workers,
                threads_per_worker=1,  # usage is attributed per process
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # its health page; Dask warns of a port in use
                silence_logs=logging.ERROR,
            ) as own,
            distributed.Client(own) as client,
        ):
            yield _address(client)


def _current() -> str:
    """Return the address of the Dask client of this process; empty without one."""
    if "distributed" not in sys.modules:  # which takes long to import
        return ""
    import distributed

    try:
        return _address(distributed.get_client())
    except ValueError:
        return ""


@contextmanager
def _copied_workers(imported: Sequence[str]) -> Iterator[None]:
    """Have worker processes be copies (forks) of one process without threads, which imports modules once for all."""
    forkserver.set_forkserver_preload(
        ["infra.processes.importing", "infra.processes.warm", "distributed", *imported, "infra.processes.imported"]
    )
    hand_on(**ENVIRONMENT)  # as Dask does before it starts a worker
    forkserver.ensure_running()
    try:
        yield
    finally:
        _end_importer()


def _end_importer() -> None:
    """End the process that the workers were copied from and wait for it, so that its CPU time is charged to us."""
    server: Any = forkserver._forkserver  # noqa: SLF001  (there is no public way)
    with suppress(ProcessLookupError):
        os.kill(server._forkserver_pid, signal.SIGKILL)  # noqa: SLF001  (its interpreter's own end takes seconds)
    server._stop()  # noqa: SLF001  (waits for it)


@contextmanager
def trainer() -> Iterator[None]:
    """Wait for a place to train, where the Prefect server limits how many there are."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            client.read_global_concurrency_limit_by_name(TRAINERS)
    except ObjectNotFound:  # a server of this run alone
        yield
        return
    # If the server stops answering during a training, the training goes on.
    with concurrency(TRAINERS, raise_on_lease_renewal_failure=False):
        yield


def require_scheduler(address: str) -> None:
    """Check that a scheduler which was set can be reached; a run never uses another one instead.

    Raises:
        BadInput: it is not the address of a scheduler, or nothing listens there.
    """
    if not address.startswith(SCHEMES):
        raise BadInput(
            f"dask_address {address} is no address of a Dask scheduler: it begins with {' or '.join(SCHEMES)}; behind "
            "a gateway take the scheduler's own address in its network"
        )
    if not _listens(address):
        raise BadInput(f"no Dask scheduler listens at {address}; start it, or unset dask_address")


def certificates(home: Path, address: str) -> dict[str, Any]:
    """Return the certificates of a home as Dask's settings, none for a scheduler that does not ask for them.

    Raises:
        BadInput: it asks, and there are none.
    """
    if not address.startswith("tls:"):
        return {}
    found = Certificate.of(home / "tls")
    if found is None:
        raise BadInput(
            f"{address} wants certificates and {home / 'tls'} has none; copy that folder from the machine on which "
            "`ketcycle up --init-tls` was typed"
        )
    tls = "distributed.comm.tls"
    return {
        "distributed.comm.require-encryption": True,
        f"{tls}.ca-file": str(found.authority),
        f"{tls}.client.cert": str(found.chain),
        f"{tls}.client.key": str(found.key),
    }


def _installation() -> dict[str, str]:
    return versions.installed() | shared(load())


def require_same(client: Any, settings: Settings) -> None:
    """Check that the workers of a cluster run the same code as this process and share its stores.

    Raises:
        BadInput: a worker has another version, or another value of a setting; the message names both.
    """
    mine = versions.installed() | shared(settings)
    try:
        theirs: dict[str, dict[str, str]] = client.run(_installation)
    except OSError as error:
        raise BadInput(f"the workers of {_address(client)} do not answer ({error}); start the cluster again") from error
    except Exception as error:  # any answer of a foreign installation means that it is not ours
        raise BadInput(
            f"a worker of {_address(client)} cannot say its versions ({type(error).__name__}: {error}); this client "
            f"has ketcycle {mine['ketcycle']}: install the same on all machines"
        ) from error
    for worker, its in theirs.items():
        other = [
            f"{name} {its.get(name, 'not at all')} against {version}"
            for name, version in mine.items()
            if its.get(name) != version
        ]
        if other:
            raise BadInput(
                f"the worker {worker} and this client differ: {', '.join(other)} here; install and set the same on all "
                "machines"
            )


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return the task runner of every flow: it uses the current Dask client of the process."""
    from prefect_dask.task_runners import DaskTaskRunner

    runner = DaskTaskRunner(
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    )
    return cast("TaskRunner[PrefectFuture[Any]]", runner)


def _address(client: Any) -> str:
    return str(client.scheduler.address)


def write_note(home: Path, found: Mapping[str, Any]) -> None:
    """Record the services that outlive this process: addresses and how to stop them."""
    from infra.lake import write_atomic

    write_atomic(home / "services.json", json.dumps({**found, "folder": _identity(home)}))


def _identity(folder: Path) -> list[int]:
    about = folder.stat()
    return [about.st_dev, about.st_ino]  # a folder that is renamed keeps them, a copy has others


def read_note(home: Path) -> dict[str, Any]:
    """Return the recorded services of a home; empty without a record, or if it was copied from another home."""
    try:
        found, here = json.loads((home / "services.json").read_text()), _identity(home)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or found.pop("folder", here) != here:
        return {}
    return found


def free_port() -> int:
    """Return a port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(address: str) -> bool:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def running_prefect(settings: Settings) -> str | None:
    """Return the API of the Prefect server that is set, or of the one of the home, if it answers.

    Raises:
        BadInput: the one that prefect_url names does not answer.
    """
    if settings.prefect_url:
        if _answers(settings.prefect_url):
            return settings.prefect_url
        raise BadInput(
            f"no Prefect server answers at {settings.prefect_url}; start it, or unset prefect_url. Prefect Cloud also "
            "needs its key in the variable PREFECT_API_KEY"
        )
    for url in (environment("PREFECT_API_URL"), read_note(settings.home).get("prefect_url")):
        if url and _answers(url):
            return url
    return None


def _answers(url: str) -> bool:
    encrypted = url.startswith("https:")
    authority = environment("PREFECT_API_SSL_CERT_FILE") if encrypted else None
    try:
        # Reading the machine's certificates takes tens of milliseconds, and this is asked again and again.
        verify = ssl.create_default_context(cafile=authority) if authority else encrypted
        key = environment("PREFECT_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}  # Prefect Cloud refuses requests without one
        return httpx.get(f"{url}/health", timeout=HEALTH_S, verify=verify, headers=headers).is_success
    except httpx.HTTPError:
        return False


def prefect_command(port: int, host: str = "127.0.0.1", certificate: Certificate | None = None) -> list[str]:
    """Return the command of a Prefect server that ends with the process that starts it.

    `prefect server start` has no option for TLS; with a certificate its application is served by uvicorn directly.
    """
    server = ["prefect", "server", "start"]
    if certificate:
        server = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning"]
        server += ["--ssl-certfile", str(certificate.chain), "--ssl-keyfile", str(certificate.key)]
    return [sys.executable, "-m", "infra.processes.child", *server, "--host", host, "--port", str(port)]


def make_prefect_tables(home: Path) -> None:
    """Make the tables of a home's Prefect server, unless it keeps them in another database."""
    if not environment("PREFECT_API_DATABASE_CONNECTION_URL"):
        make_tables(_prefect_file(home), "prefect")


def prefect_database(home: Path) -> str:
    """Return the SQLAlchemy URL of the database of a home's Prefect server, with a driver that we have."""
    found = environment("PREFECT_API_DATABASE_CONNECTION_URL") or f"sqlite:///{_prefect_file(home)}"
    return found.replace("+asyncpg", "+pg8000").replace("+aiosqlite", "")


def _prefect_file(home: Path) -> Path:
    return Path(environment("PREFECT_HOME") or home / "prefect") / "prefect.db"


def wait_for_prefect(process: subprocess.Popen[bytes], url: str, home: Path) -> None:
    """Wait until a Prefect server answers.

    Raises:
        KetcycleError: it ended, or does not answer in time; the message names its log.
    """
    give_up = time.monotonic() + SERVER_START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > give_up:
            raise KetcycleError(f"the Prefect server did not start; the reason is in {home / 'prefect' / 'server.log'}")
        time.sleep(0.1)


def stop_families(processes: Sequence[psutil.Process]) -> None:
    """Terminate processes and all their descendants; kill those that do not end."""
    family: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family += [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=8)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=5)

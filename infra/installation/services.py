"""The services that `ketcycle up` runs for all runs of a home: Prefect, Dask, MLflow, a Prefect worker, metrics.

`services.json` in the home names the processes by pid and start time, so that `down` finds them even if `up` was
killed, and never ends another process that got the same pid.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from deployments.pools import load_pool
from deployments.project import PACKAGE, project_file
from deployments.tables import make_tables
from infra import versions
from infra.access import Certificate, shown
from infra.compute import (
    free_port,
    make_prefect_tables,
    prefect_command,
    prefect_database,
    read_note,
    stop_families,
    wait_for_prefect,
    write_note,
)
from infra.errors import BadInput, KetcycleError
from infra.installation.flow_runs import Supervisor, forgive_silence, worker_name
from infra.lake import sha256, write_atomic
from infra.moved import readdress
from infra.settings import Settings, environment, hand_on

START_S, STOP_S, POLL_S = 600.0, 90.0, 0.3
RESTARTS, RESTARTS_S = 5, 600.0  # services that end more often are not started again
DEPLOY, ATTEMPTS = "deploy", 3  # to register the deployments
LOOK_EVERY = 5  # seconds between two looks at the flow runs
PORTS = ("prefect_port", "mlflow_port", "dask_port", "metrics_port")
PAGES = {
    "prefect_url": "Prefect",
    "mlflow_url": "MLflow",
    "dask_url": "Dask",
    "metrics_url": "metrics",
    "worker": "Prefect worker",
}
# Else MLflow opens on traces, of which there are none.
VIEWS = {"mlflow_url": "/#/experiments?workflowType=machine_learning"}

Show = Callable[[str], None]


def stay_up(settings: Settings, show: Show) -> None:
    """Run the services on loopback until interrupted; flow runs are ended before the services stop.

    Raises:
        BadInput: they run already, or a requested port is in use.
        KetcycleError: one of them did not start, or ended again and again; the message names its log.
    """
    with alone(settings.home), ExitStack() as stack:
        settings.inbox_folder.mkdir(parents=True, exist_ok=True)
        port = {name: choose_port(settings, name) for name in PORTS}
        services = Services(settings.home, show)
        stack.callback(services.stop)
        url = services.prefect(port["prefect_port"])
        services.register(settings)
        services.mlflow(settings, port["mlflow_port"])
        services.addresses |= stack.enter_context(_dask(settings, port["dask_port"]))
        services.addresses |= stack.enter_context(_metrics(settings, port["metrics_port"]))
        show("waiting for Prefect and MLflow")
        wait_for_prefect(services.children["Prefect"], url, settings.home)
        supervisor = Supervisor(url, show)
        supervisor.end_dead()
        services.worker(url, settings)
        stack.callback(lambda: supervisor.stop_runs(services.children.pop("worker", None)))
        services.wait("MLflow", f"{services.addresses['mlflow_url']}/health")
        services.publish()
        for line in addresses(settings.home):
            show(line)
        show("runs of this home use them; stop with Ctrl-C or `ketcycle down`")
        with suppress(KeyboardInterrupt):
            services.watch(supervisor)


def detach(home: Path, arguments: list[str], show: Show) -> None:
    """Start `ketcycle up` as a process of its own and return once everything answers.

    Raises:
        BadInput: it refused the settings; its message has been shown.
        KetcycleError: it ended; its message has been shown.
    """
    path = home / "up.log"
    with path.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "flows.cli", "up", "--home", str(home), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with path.open(encoding="utf-8", errors="replace") as said:
        while True:
            ended = process.poll()
            text = said.read()
            for line in text.splitlines():
                show(line)
            if ended is not None:
                kind = BadInput if ended == 2 else KetcycleError
                raise kind(f"the services did not start; the reason is above and in {path}")
            if read_note(home).get("pid") == process.pid and addresses(home):
                return
            time.sleep(POLL_S)


def down(home: Path, show: Show) -> bool:
    """Stop the services of a home and whatever a killed `up` left; return whether anything was running."""
    found = read_note(home)
    if not found:
        show(f"nothing runs for {home}")
        return False
    leader = _alive(found.get("pid"), found.get("started"))
    if leader is not None:
        show(f"stopping the services of {home} (process {leader.pid}); it ends its flow runs first")
        leader.terminate()
        with suppress(psutil.TimeoutExpired):
            leader.wait(STOP_S)
    left = [process for pid, started in found.get("children", []) if (process := _alive(pid, started)) is not None]
    if leader is None:
        show(f"`ketcycle up` was killed; {len(left)} of its services are left" if left else "they ended")
    stop_families([*([leader] if leader and leader.is_running() else []), *left])
    (home / "services.json").unlink(missing_ok=True)
    show("all stopped")
    return True


def places(home: Path) -> list[Path]:
    """Return the folders with a note of services of this machine: the home, and roles that were started alone."""
    roles = sorted(path.parent for path in home.glob(f"roles/*@{socket.gethostname()}/services.json"))
    return [home, *roles] if (home / "services.json").exists() or not roles else roles


def role_folder(home: Path, role: str) -> Path:
    """Return the folder of a role on this machine; several machines may have one home."""
    return home / "roles" / f"{role}@{socket.gethostname()}"


def addresses(home: Path) -> list[str]:
    """Return one line for each address in the note of the services."""
    found = read_note(home)
    shown = {key: str(found[key]).removesuffix("/api") + VIEWS.get(key, "") for key in PAGES if found.get(key)}
    return [f"{PAGES[key]:15s}{text}" for key, text in shown.items()]


class Services:
    """The processes of one `up`; each is written to the note when it starts."""

    def __init__(self, home: Path, show: Show) -> None:
        self.home = home
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.addresses: dict[str, str] = {}
        self._logs: dict[str, Path] = {}
        self._again: dict[str, Callable[[], None]] = {}
        self._restarts: list[float] = []
        self._published = False
        self._deployed = ""
        self.show = show
        self._note({})

    def prefect(
        self, port: int, host: str = "127.0.0.1", home: Path | None = None, certificate: Certificate | None = None
    ) -> str:
        """Start the Prefect server and return the address of its API."""
        url = f"{'https' if certificate else 'http'}://{shown(host)}:{port}/api"
        folder = (home or self.home) / "prefect"
        hand_on(PREFECT_SERVER_UI_API_URL=url, PREFECT_API_URL=url)
        folder.mkdir(parents=True, exist_ok=True)
        make_prefect_tables(home or self.home)
        database = prefect_database(home or self.home)
        command = prefect_command(port, host, certificate)
        self.start("Prefect", command, folder / "server.log", lambda: forgive_silence(database))
        self.addresses["prefect_url"] = url
        return url

    def mlflow(self, settings: Settings, port: int) -> None:
        """Start the MLflow page on the tracking store of the home, or name the server that is configured."""
        if settings.tracking.startswith("http"):
            self.addresses["mlflow_url"] = settings.tracking.rstrip("/")
            return
        folder = self.home / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        if settings.tracking == f"sqlite:///{folder / 'mlflow.db'}":
            make_tables(folder / "mlflow.db", "mlflow")
        readdress(self.home)
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        hand_on(MLFLOW_BACKEND_STORE_URI=settings.tracking)  # a command can be read by everybody on the machine
        command += ["--artifacts-destination", str(folder / "artifacts")]
        self.start("MLflow", [sys.executable, "-m", "infra.processes.child", *command], folder / "server.log")
        self.addresses["mlflow_url"] = f"http://127.0.0.1:{port}"

    def worker(self, url: str, settings: Settings) -> None:
        """Start a Prefect worker, and wait until it and the deployments are registered."""
        pool = load_pool(settings.work_pool)
        if pool.type != "process" and find_spec(f"prefect_{pool.type}") is None:
            raise BadInput(f"work_pool {pool.type} needs its worker: pip install 'ketcycle[{pool.type}]'")
        command = ["infra.processes.worker", "worker", "start", "--type", pool.type, "--pool", pool.name]
        command += ["--name", worker_name()]
        folder = self.home / "prefect"
        folder.mkdir(parents=True, exist_ok=True)
        self.start("worker", [sys.executable, "-m", "infra.processes.child", *command], folder / "worker.log")
        self._registered()
        user, _, secret = (environment("PREFECT_API_AUTH_STRING") or "").partition(":")
        certificate = Certificate.of(settings.home / "tls") if url.startswith("https:") else None
        self.wait("worker", f"{url}/work_pools/{pool.name}", (user, secret) if secret else None, certificate)
        self.addresses["worker"] = f"pool {pool.name}: runs and stages can be started from the page (Deployments)"

    def register(self, settings: Settings) -> None:
        """Start `ketcycle deploy`, unless this home's server has the deployments of this code and these settings.

        It reads the flows while the server may still start.
        """
        note = self.home / "prefect" / "deployed"
        given = f"{settings.notify_url} {settings.notify_kind} {settings.work_pool} {Path.cwd()}"
        own = hashlib.sha256(given.encode()).hexdigest()
        automated = sha256(PACKAGE / "automations.py")
        now = f"{versions.installed()['ketcycle']} {sha256(project_file())} {automated} {own}"
        if note.exists() and note.read_text() == now:
            return
        self.show("registering the deployments of this version")
        note.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        self._deployed = now
        command = [sys.executable, "-m", "flows.cli", "deploy", "--home", str(settings.home), "--wait", f"{START_S}"]
        self.start(DEPLOY, command, self.home / "prefect" / "deploy.log")

    def _registered(self) -> None:
        """Wait for `ketcycle deploy`, and repeat it where it failed."""
        if DEPLOY not in self.children:
            return
        for attempt in range(ATTEMPTS):  # a busy server may not answer in time
            if attempt:
                self._again[DEPLOY]()
            if self.children[DEPLOY].wait() == 0:
                write_atomic(self.home / "prefect" / "deployed", self._deployed)
                break
        else:
            self.show(f"the deployments could not be registered; see {self._logs[DEPLOY]}, then `ketcycle deploy`")
        del self.children[DEPLOY]

    def start(self, name: str, command: list[str], log: Path, before: Callable[[], None] = lambda: None) -> None:
        """Start a service, in a process group of its own, whose output goes to a file.

        Args:
            name: of the service.
            command: its command.
            log: the file.
            before: called each time before it is started.
        """
        before()
        with log.open("ab") as output:
            self.children[name] = subprocess.Popen(  # noqa: S603
                command, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        self._logs[name], self._again[name] = log, lambda: self.start(name, command, log, before)
        self._note(self.addresses if self._published else {})

    def wait(
        self, name: str, url: str, auth: tuple[str, str] | None = None, certificate: Certificate | None = None
    ) -> None:
        """Wait until an address of a service answers.

        Raises:
            KetcycleError: the service ended, or does not answer in time.
        """
        self._wait(name, lambda: _found(url, auth, certificate))

    def wait_for_port(self, name: str, host: str, port: int) -> None:
        """Wait until a service listens.

        Raises:
            KetcycleError: the service ended, or does not listen in time.
        """
        self._wait(name, lambda: not _free(port, host))

    def _wait(self, name: str, there: Callable[[], bool]) -> None:
        if name not in self.children:  # a server elsewhere
            return
        give_up = time.monotonic() + START_S
        while not there():
            if self.children[name].poll() is not None or time.monotonic() > give_up:
                raise KetcycleError(f"{name} did not start; see {self._logs[name]}")
            time.sleep(POLL_S)

    def publish(self) -> None:
        """Write down the addresses; from now on runs use the services."""
        self._published = True
        self._note(self.addresses)

    def watch(self, supervisor: Supervisor | None = None) -> None:
        """Start services that end by themselves again, and end flow runs whose process is gone; never return.

        Raises:
            KetcycleError: services ended too often; the message names the log of the last one.
        """
        for tick in itertools.count():
            for name, process in list(self.children.items()):
                if (status := process.poll()) is not None:
                    if supervisor and name == "worker":
                        supervisor.worker_ended()
                    self._restart(name, status)
            if supervisor and tick % LOOK_EVERY == 0:
                supervisor.look()
            time.sleep(1.0)

    def _restart(self, name: str, status: int) -> None:
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_S] + [now]
        if len(self._restarts) > RESTARTS:
            raise KetcycleError(
                f"services ended {len(self._restarts)} times in {RESTARTS_S / 60:.0f} minutes, {name} last "
                f"(status {status}); see {self._logs[name]}"
            )
        self.show(f"{name} ended by itself (status {status}) and is started again; see {self._logs[name]}")
        if name != "worker":  # whose flow runs may end by themselves
            with suppress(ProcessLookupError):  # what it had started may still hold its port
                os.killpg(self.children[name].pid, signal.SIGKILL)
        self._again[name]()

    def stop(self) -> None:
        """Stop all services together, and remove the note of them."""
        self._note({})
        stop_families([psutil.Process(p.pid) for p in self.children.values() if p.poll() is None])
        (self.home / "services.json").unlink(missing_ok=True)

    def _note(self, found: dict[str, str]) -> None:
        me = psutil.Process()
        children = [[p.pid, _started(p.pid)] for p in self.children.values()]
        write_note(self.home, {"pid": me.pid, "started": me.create_time(), "children": children, **found})


@contextmanager
def _dask(settings: Settings, port: int) -> Iterator[dict[str, str]]:
    import distributed

    with distributed.LocalCluster(
        n_workers=settings.workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{port}",
        local_directory=str(settings.home / "dask"),
    ) as own:
        yield {"dask_address": own.scheduler_address, "dask_url": own.dashboard_link}


@contextmanager
def _metrics(settings: Settings, port: int) -> Iterator[dict[str, str]]:
    from infra.installation.status import StatusCollector
    from infra.runtime.figures.metrics import serve_metrics

    address, stop = serve_metrics(settings.ledger, port, more=(StatusCollector(settings),))
    try:
        yield {"metrics_url": address}
    finally:
        stop()


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the lock that keeps a second `up` off a folder."""
    with (home / ".up.lock").open("a") as lock:
        _take(lock, home)
        yield


def _take(lock: IO[str], home: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise BadInput(
            "\n".join([f"the services of {home} run already; `ketcycle down` stops them", *addresses(home)])
        ) from None


def choose_port(settings: Settings, name: str, host: str = "127.0.0.1") -> int:
    """Return the configured port, or a free one where the default is in use.

    Raises:
        BadInput: a port that was requested is in use.
    """
    port = int(getattr(settings, name))
    if port == 0:
        return free_port()
    if _free(port, host):
        return port
    if name in settings.model_fields_set:
        raise BadInput(f"{name} {port} is in use by another program; stop it, or choose another port (0 = any)")
    return free_port()


def _free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _found(url: str, auth: tuple[str, str] | None = None, certificate: Certificate | None = None) -> bool:
    try:
        verify = (
            ssl.create_default_context(cafile=str(certificate.authority)) if certificate else url.startswith("https:")
        )
        return httpx.get(url, timeout=2, auth=auth, verify=verify).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _started(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _alive(pid: Any, started: Any) -> psutil.Process | None:
    """Return the process with this pid if it was started at that time."""
    now = _started(int(pid or 0)) if pid != os.getpid() else None
    if now is None or started is None or abs(now - started) > 2.0:  # the clock may have been set
        return None
    process = psutil.Process(int(pid))
    return process if process.status() != psutil.STATUS_ZOMBIE else None

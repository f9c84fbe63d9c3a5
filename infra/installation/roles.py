"""One part of an installation on several machines: `ketcycle up --role ROLE --address HOST`.

`server` runs Prefect, MLflow and the metrics of the queue, `scheduler` runs the Dask scheduler, `worker` runs Dask
workers, `dispatcher` sends the calls that wait in the ledger, `runner` starts the runs of deployments: those of
schedules and events, and those that people start in the Prefect page. An address that other machines can reach is
bound only with the certificates and the secret of `ketcycle up --init-tls`; a home with certificates uses them on
loopback too.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from typing import Literal, get_args

from infra.access import Certificate, Guard, require_guard, shown
from infra.compute import running_prefect
from infra.errors import BadInput
from infra.installation.flow_runs import Supervisor
from infra.installation.services import Services, Show, alone, choose_port, role_folder
from infra.settings import USER, Settings, hand_on

Role = Literal["server", "scheduler", "worker", "dispatcher", "runner"]
ROLES: tuple[Role, ...] = get_args(Role)
DISPATCH_S = 30.0


def play(role: Role, settings: Settings, host: str, show: Show) -> None:
    """Run one role until interrupted.

    Raises:
        BadInput: the address is open to others and certificates or secret are missing, a port is in use, the role runs
            already, or a worker has no scheduler.
        KetcycleError: a service did not start or ended; the message names its log.
    """
    guard = Guard.of(settings.home)
    require_guard(f"the {role} on {host}", host, guard)
    folder = role_folder(settings.home, role)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder), ExitStack() as stack:
        services = Services(folder, show)
        supervisor: Supervisor | None = None
        stack.callback(services.stop)
        match role:
            case "server":
                _server(settings, host, guard, services, stack)
            case "scheduler":
                _scheduler(settings, host, guard.certificate, services)
            case "worker":
                _worker(settings, host, guard.certificate, services)
            case "runner":
                supervisor = _runner(settings, services, stack)
            case "dispatcher":
                show(f"checking the ledger every {DISPATCH_S:g} s for calls that no process sends")
        services.publish()
        with suppress(KeyboardInterrupt):
            _dispatch(settings, services) if role == "dispatcher" else services.watch(supervisor)


def _server(settings: Settings, host: str, guard: Guard, services: Services, stack: ExitStack) -> None:
    from infra.runtime.figures.metrics import serve_metrics

    secret, ports = guard.key(), {n: choose_port(settings, n, host) for n in ("prefect_port", "mlflow_port")}
    if secret:
        hand_on(PREFECT_SERVER_API_AUTH_STRING=f"{USER}:{secret}", PREFECT_API_AUTH_STRING=f"{USER}:{secret}")
    url = services.prefect(ports["prefect_port"], host, settings.home, guard.certificate)
    page = _mlflow(settings, host, ports["mlflow_port"], guard.certificate, secret, services)
    address, stop = serve_metrics(settings.ledger, choose_port(settings, "metrics_port", host), host, guard.certificate)
    stack.callback(stop)
    services.show(f"queue metrics  {address}{' (asks for a certificate of ours)' if guard.certificate else ''}")
    services.wait("Prefect", f"{url}/health", (USER, secret) if secret else None, guard.certificate)
    services.wait("MLflow", f"{page}/health", certificate=guard.certificate)
    services.show(f"ready; clients and workers set\nprefect_url = {url!r}\ntracking_uri = {page!r}".replace("'", '"'))


def _mlflow(
    settings: Settings, host: str, port: int, certificate: Certificate | None, secret: str | None, services: Services
) -> str:
    folder = settings.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    kept = settings.model_copy(update={"tracking_uri": ""}) if settings.tracking.startswith("http") else settings
    hand_on(MLFLOW_BACKEND_STORE_URI=kept.tracking)  # every user of the machine can read the command line
    command += ["--artifacts-destination", str(folder / "artifacts")]
    command += ["--allowed-hosts", f"{shown(host)}:{port},localhost:{port},127.0.0.1:{port}"]
    if certificate:
        command += ["--uvicorn-opts", f"--ssl-certfile {certificate.chain} --ssl-keyfile {certificate.key}"]
    if secret:
        from infra.access import write_secret

        command += ["--app-name", "basic-auth"]
        rules = folder / "auth.ini"
        rules.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'auth.db'}\n"
            f"admin_username = {USER}\nauthorization_function = "
            "mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
        )
        write_secret(folder / "session-secret")
        hand_on(
            MLFLOW_AUTH_CONFIG_PATH=str(rules),
            MLFLOW_AUTH_ADMIN_PASSWORD=secret,
            MLFLOW_FLASK_SERVER_SECRET_KEY=(folder / "session-secret").read_text().strip(),
        )
    services.start("MLflow", [sys.executable, "-m", "infra.processes.child", *command], folder / "server.log")
    return f"{'https' if certificate else 'http'}://{shown(host)}:{port}"


def _scheduler(settings: Settings, host: str, certificate: Certificate | None, services: Services) -> None:
    hand_on(DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING="False")  # as in the cluster that a run starts
    port = choose_port(settings, "scheduler_port", host)
    command = ["dask", "scheduler", "--host", host, "--port", str(port), *_tls(certificate)]
    command += ["--dashboard-address", f"127.0.0.1:{choose_port(settings, 'dask_port')}"]  # it has no authentication
    services.start(
        "scheduler", [sys.executable, "-m", "infra.processes.child", *command], services.home / "scheduler.log"
    )
    address = f"{'tls' if certificate else 'tcp'}://{shown(host)}:{port}"
    services.wait_for_port("scheduler", host, port)
    services.show(f'ready; clients and workers set\ndask_address = "{address}"')


def _worker(settings: Settings, host: str, certificate: Certificate | None, services: Services) -> None:
    if not settings.dask_address:
        raise BadInput("a worker needs a scheduler: set dask_address in ketcycle.toml, or give --scheduler ADDRESS")
    if settings.dask_address.startswith("tls:") and certificate is None:
        raise BadInput(
            f"{settings.dask_address} wants certificates and {settings.home / 'tls'} has none; copy that folder from "
            "the machine on which `ketcycle up --init-tls` was typed"
        )
    if settings.prefect_url:
        hand_on(PREFECT_API_URL=settings.prefect_url)  # Prefect server that receives the events of the tasks
    local = settings.home / "dask"
    local.mkdir(parents=True, exist_ok=True)
    command = ["dask", "worker", settings.dask_address, "--host", host, *_tls(certificate), "--no-dashboard"]
    command += ["--nworkers", str(settings.workers), "--nthreads", "1", "--local-directory", str(local)]
    command += ["--preload", "infra.versions"]
    services.start("workers", [sys.executable, "-m", "infra.processes.child", *command], services.home / "worker.log")
    services.show(f"{settings.workers} workers of {settings.dask_address}; they say more in {services.home}/worker.log")


def _runner(settings: Settings, services: Services, stack: ExitStack) -> Supervisor:
    url = running_prefect(settings)
    if url is None:
        raise BadInput("a runner needs a Prefect server that answers: set prefect_url in ketcycle.toml")
    hand_on(PREFECT_API_URL=url)
    settings.inbox_folder.mkdir(parents=True, exist_ok=True)
    services.register(settings)
    services.worker(url, settings)
    services.show(f"ready; {services.addresses['worker']}, and run on this machine")
    supervisor = Supervisor(url, services.show, alone=False)
    stack.callback(lambda: supervisor.stop_runs(services.children.pop("worker", None)))
    return supervisor


def _tls(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return []
    files = {"ca-file": certificate.authority, "cert": certificate.chain, "key": certificate.key}
    return ["--protocol", "tls", *(f"--tls-{name}={path}" for name, path in files.items())]


def _dispatch(settings: Settings, services: Services) -> None:
    log = services.home / "drain.log"
    while True:
        command = [sys.executable, "-m", "flows.cli", "queue", "drain", "--home", str(settings.home)]
        services.start("dispatcher", [*command], log)
        services.children["dispatcher"].wait()
        time.sleep(DISPATCH_S)

"""Commands `up`, `down`: start and stop the services that several runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.console import Home, clear_errors, err
from infra import settings
from infra.errors import BadInput

Role = Literal["server", "scheduler", "worker", "dispatcher", "runner"]

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 = any free port; default: the usual port.")]


Address = Annotated[
    str, typer.Option("--address", help="Address to listen on, or several for --init-tls, separated by commas.")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Address of the Dask scheduler, for the role worker.")
]


def up(
    role: Annotated[Role | None, typer.Option(help="Start only this part of a multi-machine installation.")] = None,
    address: Address = "127.0.0.1",
    scheduler: Scheduler = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of Dask workers of the role worker.")] = None,
    init_tls: Annotated[
        bool, typer.Option("--init-tls", help="Create certificates and a secret for these addresses, then exit.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once all services answer; `ketcycle down` stops them.")
    ] = False,
    prefect_port: Port = None,
    mlflow_port: Port = None,
    dask_port: Port = None,
    metrics_port: Port = None,
    home: Home = None,
) -> None:
    """Start Prefect with a worker, Dask, the MLflow page and the queue's metrics on loopback; Ctrl-C stops them."""
    ports = {
        "prefect_port": prefect_port,
        "mlflow_port": mlflow_port,
        "dask_port": dask_port,
        "metrics_port": metrics_port,
    }
    with clear_errors():
        loaded = settings.load(home=home, dask_address=scheduler, workers=workers, **ports)
        if init_tls:
            _init_tls(loaded.home, address)
            return
        settings.quiet_libraries(loaded.home)
        if role is not None:
            from infra.installation import roles

            roles.play(role, loaded, address, _say)
            return
        if address not in settings.LOOPBACK:
            raise BadInput(
                "without --role services listen on 127.0.0.1 only; give --role to let other machines connect"
            )
        from infra.installation import services

        if detach:
            given = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items() if port is not None]
            services.detach(loaded.home, given, _say)
        else:
            services.stay_up(loaded, _say)


def down(home: Home = None) -> None:
    """Stop the services that `ketcycle up` started, also if that command was killed."""
    with clear_errors():
        from infra.installation import services

        folder = settings.load(home=home).home
        for place in services.places(folder):
            services.down(place, _say)


def _init_tls(home: Path, addresses: str) -> None:
    from infra.access import init_tls

    folder = home / "tls"
    init_tls(folder, [host.strip() for host in addresses.split(",") if host.strip()])
    _say(f"certificates for {addresses} and the secret are in {folder}")
    _say("copy that folder into the home of every machine over a private channel; ca-key.pem stays here")


def _say(line: str) -> None:
    err.print(line, highlight=False, markup=False, soft_wrap=True)

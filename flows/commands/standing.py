"""Commands of the services that several runs share: `up`, `down`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.console import Home, clear_errors, err
from infra import settings

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 = any; default: the usual one, if it is free.")]


def up(
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once all answer; `ketcycle down` stops them.")
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
        loaded = settings.load(home=home, **ports)
        settings.quiet_libraries(loaded.home)
        from infra import standing

        if detach:
            given = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items() if port is not None]
            standing.detach(loaded.home, given, _say)
        else:
            standing.stay_up(loaded, _say)


def down(home: Home = None) -> None:
    """Stop what `ketcycle up` started, also where that was killed."""
    with clear_errors():
        from infra import standing

        standing.down(settings.load(home=home).home, _say)


def _say(line: str) -> None:
    err.print(line, highlight=False, markup=False, soft_wrap=True)

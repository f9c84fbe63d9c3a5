"""Commands of the installation: `up`."""

from __future__ import annotations

from flows.commands.console import Home, clear_errors, err
from infra import settings


def up(home: Home = None) -> None:
    """Start the Prefect server, a Dask cluster and the MLflow page on loopback; stop them with Ctrl-C."""
    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        from infra.compute import stay_up

        stay_up(loaded, err.print)

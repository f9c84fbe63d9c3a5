"""The `ketcycle` command. Heavy libraries are imported only by the commands that need them."""

from __future__ import annotations

import signal
from collections.abc import Callable

import typer

import infra.processes.warm  # noqa: F401  (before the libraries)
from flows.commands import (
    decisions,
    drift,
    fetch,
    installation,
    look,
    operations,
    outlook,
    pilot,
    queue,
    run,
    serve,
    study,
    up,
    watch,
)

HELP = """Run the lifecycle of a language model; each of its decisions is solved by classical and quantum methods.

Exit codes: 0 done, 1 failed (finished work is kept), 2 the input cannot be used.
"""

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=HELP)
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Run": (run.run, run.stage, study.study, pilot.pilot, fetch.fetch),
    "Look": (
        look.status,
        look.logs,
        look.report,
        look.compare,
        look.evidence,
        outlook.outlook,
        decisions.decisions,
        drift.drift,
        watch.watch,
    ),
    "Operate": (up.up, up.down, serve.serve, operations.deploy, operations.emit, operations.webhooks),
    "Installation": (
        installation.init,
        installation.config,
        installation.doctor,
        installation.clean,
    ),
}
for title, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=title)(command)
app.add_typer(queue.app, name="queue", rich_help_panel="Look")


def main() -> None:
    """Entry point of the `ketcycle` command; SIGTERM stops it and its child processes, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()

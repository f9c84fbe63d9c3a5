"""Entry point of the `ketcycle` command: all commands with the extra `pipeline`, only `queue` without it."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from flows.commands.console import PIPELINE, WITHOUT_PIPELINE, err


def main() -> None:
    """Run the command; without the extra, commands that need it are refused with exit code 2."""
    if PIPELINE:
        from flows.cli import main as run_all

        run_all()
        return
    from flows.commands import queue

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if command not in (None, "queue"):
        err.print("[red]error:[/red]", escape(f"ketcycle {command}: {WITHOUT_PIPELINE}"), highlight=False)
        sys.exit(2)
    app = typer.Typer(no_args_is_help=True, help="The runtime queue; all other commands need the extra `pipeline`.")
    app.callback()(lambda: None)
    app.add_typer(queue.app, name="queue")
    app()

"""The `ketcycle` command. Heavy libraries are imported only by the commands that need them."""

from __future__ import annotations

import signal

import typer

from flows.commands import installation, look, queue, run, study

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
for command in (run.run, run.stage, study.study, look.report, look.compare, look.evidence, installation.up):
    app.command()(command)
app.add_typer(queue.app, name="queue")


def main() -> None:
    """Entry point of the `ketcycle` command; a SIGTERM stops it as Ctrl-C does, with what it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()

"""Shared by all commands: consoles, common options, clear errors, printing."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import BadInput, KetcycleError

ADVICE = {
    errno.ENOSPC: "free space or choose another folder with --home; finished work is kept",
    errno.EDQUOT: "the quota is used up; free space or choose another folder with --home",
    errno.EACCES: "the file may not be read or written; change its permissions or choose another folder with --home",
    errno.EROFS: "the file system is read-only; choose another folder with --home",
}

PIPELINE = find_spec("prefect") is not None  # else only the runtime queue is installed
WITHOUT_PIPELINE = "this needs the extra `pipeline`: pip install 'ketcycle[pipeline]'; only the queue is installed"

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Home = Annotated[Path | None, typer.Option(help="State folder; default ./.ketcycle or KETCYCLE_HOME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, progress on standard error.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors into one line and exit code 2 (unusable input), 1 (failure) or 130 (interrupted)."""
    try:
        yield
    except BadInput as error:
        raise _stop(str(error), 2) from None
    except KetcycleError as error:
        raise _stop(str(error), 1) from None
    except ModuleNotFoundError:
        if PIPELINE:
            raise
        raise _stop(WITHOUT_PIPELINE, 2) from None
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        where = f": {error.filename}" if error.filename else ""
        raise _stop(f"{error.strerror}{where}; {ADVICE[error.errno]}", 1) from None
    except KeyboardInterrupt:
        err.print("interrupted; finished work is kept", highlight=False)
        raise typer.Exit(130) from None


def _stop(message: str, code: int) -> typer.Exit:
    err.print("[red]error:[/red]", escape(message), highlight=False, soft_wrap=True)
    return typer.Exit(code)


def print_value(value: Any, as_json: bool) -> None:
    """Print a value as JSON on standard output, or as readable text."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
    else:
        out.print(value)


def print_table(rows: list[dict[str, Any]], empty: str) -> None:
    """Print rows as a table with the keys of the first row as header, or `empty` if there are no rows."""
    if not rows:
        out.print(empty)
        return
    table = Table(*rows[0], pad_edge=False)
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    out.print(table)

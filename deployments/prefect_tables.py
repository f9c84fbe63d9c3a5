"""Makes the tables of Prefect's database from a file: its hundred migrations take twelve CPU seconds in a fresh home.

`prefect_tables.sql` is what the migrations leave in an empty SQLite database. Where the installed Prefect has newer
ones, its server applies them at its start. `python -m deployments.prefect_tables` writes the file anew.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path

NAME = "prefect_tables.sql"


def make_tables(database: Path) -> None:
    """Make a database with Prefect's tables, whole or not at all; one that exists stays as it is."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        made = Path(folder) / database.name
        with closing(sqlite3.connect(made)) as connection:
            connection.executescript((files("deployments") / NAME).read_text())
        with suppress(FileExistsError):  # another process was faster
            os.link(made, database)


def migrate(folder: Path) -> Path:
    """Have the installed Prefect make its tables by its migrations, and return the database."""
    url = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    environment = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_API_DATABASE_CONNECTION_URL": url}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    return folder / "prefect.db"


def tables(database: Path) -> str:
    """Return the statements that make a database anew, in the order of its schema."""
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        Path(str(files("deployments") / NAME)).write_text(tables(migrate(Path(temporary))))

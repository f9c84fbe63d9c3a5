"""Makes the tables of Prefect's and MLflow's databases from files: their migrations take seconds in a fresh home.

`prefect.sql` and `mlflow.sql` are what the migrations leave in an empty SQLite database. Where an installed library has
newer migrations, it applies them when it opens the database. `python -m deployments.tables` writes the files anew.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path
from typing import Literal

Library = Literal["prefect", "mlflow"]


def make_tables(database: Path, library: Library) -> None:
    """Make a database with the tables of a library, whole or not at all; one that exists stays as it is."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        made = Path(folder) / database.name
        with closing(sqlite3.connect(made)) as connection:
            connection.executescript((files("deployments.tables") / f"{library}.sql").read_text())
        with suppress(FileExistsError):  # another process was faster
            os.link(made, database)

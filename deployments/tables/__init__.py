"""Creates the tables of Prefect's and MLflow's databases from files, which saves seconds of migrations in a new home.

`prefect.sql` and `mlflow.sql` are dumps of an empty SQLite database after the migrations. A library with newer
migrations applies them when it opens the database. `python -m deployments.tables` rewrites the files.
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
    """Create a database with the tables of a library, atomically; an existing one stays unchanged."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        made = Path(folder) / database.name
        with closing(sqlite3.connect(made)) as connection:
            connection.executescript((files("deployments.tables") / f"{library}.sql").read_text())
        with suppress(FileExistsError):  # another process was faster
            os.link(made, database)

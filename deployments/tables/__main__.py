"""Rewrites the files of this folder from the migrations of the installed Prefect and MLflow."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.resources import files
from pathlib import Path


def migrate_prefect(database: Path) -> None:
    """Create Prefect's tables by its migrations."""
    url = f"sqlite+aiosqlite:///{database}"
    environment = {**os.environ, "PREFECT_HOME": str(database.parent), "PREFECT_API_DATABASE_CONNECTION_URL": url}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603


def migrate_mlflow(database: Path) -> None:
    """Create MLflow's tables by its migrations."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{database}")
    utils._initialize_tables(engine)  # noqa: SLF001  (its command starts from tables that are there)
    engine.dispose()


MIGRATIONS = {"prefect": migrate_prefect, "mlflow": migrate_mlflow}


def main() -> None:
    """Write the statements that create each database."""
    with tempfile.TemporaryDirectory() as folder:
        for library, migrate in MIGRATIONS.items():
            database = Path(folder) / f"{library}.db"
            migrate(database)
            with closing(sqlite3.connect(database)) as connection:
                text = "\n".join(connection.iterdump()) + "\n"
            Path(str(files("deployments.tables") / f"{library}.sql")).write_text(text)


if __name__ == "__main__":
    main()

"""A state folder that was moved or copied: MLflow's addresses follow it.

Lake, evidence, ledger and runs hold no address of the folder. MLflow stores absolute addresses of artifacts and model
files and has no command to change them (its issues 3144 and 4031), so they are rewritten in its database.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.errors import BadInput

ARTIFACTS = "mlflow/artifacts"  # below the home
DATABASE = "mlflow/mlflow.db"
BUSY_S = 30.0
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


@dataclass(frozen=True)
class Missing:
    """A registered model whose files are gone.

    Attributes:
        name: of the model.
        version: of the model.
        aliases: that point to this version.
        folder: where its files should be.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    folder: Path


def moved_from(home: Path) -> str | None:
    """Return the address (file:///...) that a home had before it was moved or copied; None if MLflow's match it."""
    with closing(_open(home)) as connection:
        row = connection.execute(
            "SELECT artifact_location FROM experiments WHERE artifact_location LIKE ? ORDER BY experiment_id DESC",
            (f"file:%/{ARTIFACTS}",),
        ).fetchone()
    before = str(row[0]).removesuffix(f"/{ARTIFACTS}") if row else ""
    same = not before or before == home.absolute().as_uri() or _path(before).resolve() == home.resolve()
    return None if same else before


def readdress(home: Path) -> int:
    """Let MLflow's addresses follow a home that was moved or copied; return how many were changed.

    Raises:
        BadInput: the database cannot be written.
    """
    before = moved_from(home) if (home / DATABASE).exists() else None
    if before is None:
        return 0
    changed = 0
    try:
        with closing(_open(home)) as connection, connection:
            known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, column in ADDRESSES:
                if table in known:
                    changed += connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ?",  # noqa: S608
                        (home.absolute().as_uri(), len(before) + 1, f"{before}/%"),
                    ).rowcount
    except sqlite3.OperationalError as error:
        raise BadInput(
            f"{home} was moved from {before}, and the addresses in {home / DATABASE} cannot be changed ({error}); stop "
            "what uses the database, then `ketcycle doctor --fix`"
        ) from None
    return changed


def missing_models(home: Path) -> list[Missing]:
    """Return the registered models whose files are not where the registry says, those with an alias first."""
    with closing(_open(home)) as connection:
        aliases: dict[tuple[str, int], list[str]] = {}
        for name, version, alias in connection.execute("SELECT name, version, alias FROM registered_model_aliases"):
            aliases.setdefault((str(name), int(version)), []).append(str(alias))
        rows = connection.execute(
            "SELECT name, version, source FROM model_versions WHERE current_stage != 'Deleted_Internal'"
        ).fetchall()
    found = [
        Missing(str(name), int(version), tuple(sorted(aliases.get((str(name), int(version)), ()))), folder)
        for name, version, source in rows
        if str(source).startswith("file:") and not (folder := _path(str(source))).is_dir()
    ]
    return sorted(found, key=lambda item: (not item.aliases, item.name, item.version))


def _path(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))


def _open(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / DATABASE, timeout=BUSY_S)

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deployments.tables import make_tables
from deployments.tables.__main__ import MIGRATIONS


def read(database: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def as_sets(rows: list[tuple[str, ...]]) -> set[tuple[frozenset[str], ...]]:
    """Return the rows without the order of constraints, which a migration draws anew each time."""
    return {tuple(frozenset(re.split(r",?\s*\n\s*", value or "")) for value in row) for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["prefect", "mlflow"])
def test_the_shipped_tables_are_those_that_the_migrations_of_the_installed_library_make(
    tmp_path: Path, library: str
) -> None:
    """Slow: a hundred migrations."""
    migrated, shipped = tmp_path / "migrated.db", tmp_path / "shipped.db"
    MIGRATIONS[library](migrated)
    make_tables(shipped, library)
    for query in ("select * from alembic_version", "select type, name, tbl_name, sql from sqlite_master"):
        found = as_sets(read(shipped, query))
        assert found == as_sets(read(migrated, query))
        assert found


def test_a_database_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    database = tmp_path / "prefect" / "prefect.db"
    make_tables(database, "prefect")
    assert read(database, "select count(*) from flow_run") == [(0,)]
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("drop table flow_run")
    make_tables(database, "prefect")
    assert read(database, "select name from sqlite_master where name = 'flow_run'") == []
    assert [path.name for path in database.parent.iterdir()] == ["prefect.db"]

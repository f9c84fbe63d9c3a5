from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deployments import prefect_tables


def read(database: Path, query: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_the_shipped_tables_are_those_that_the_migrations_of_this_prefect_make(tmp_path: Path) -> None:
    """Slow: a hundred migrations."""
    migrated = prefect_tables.migrate(tmp_path)
    shipped = tmp_path / "shipped.db"
    prefect_tables.make_tables(shipped)
    for query in ("select * from alembic_version", "select type, name, tbl_name, sql from sqlite_master order by name"):
        assert read(shipped, query) == read(migrated, query)
        assert read(shipped, query)


def test_a_database_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    database = tmp_path / "prefect" / "prefect.db"
    prefect_tables.make_tables(database)
    assert read(database, "select count(*) from flow_run") == [(0,)]
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("drop table flow_run")
    prefect_tables.make_tables(database)
    assert read(database, "select name from sqlite_master where name = 'flow_run'") == []
    assert [path.name for path in database.parent.iterdir()] == ["prefect.db"]

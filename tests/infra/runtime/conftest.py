"""Where the ledger of a test lies: in a file, and for `make test-faults` on a PostgreSQL server too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.runtime.ledger import database


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.faults)])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the path or the URL of a new ledger."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    url = str(request.getfixturevalue("postgres"))
    yield url
    for durable in (True, False):
        database._engine(url, durable).dispose()

"""Looking into the ledger: what waits, what runs, what came of it, what it used.

Plain values for people and for JSON. Knows SQL only, so that looking starts fast.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.errors import BadInput
from infra.runtime.ledger import STATES, Ledger
from infra.runtime.schema import batches, calls, parts


def list_calls(
    url: str | Path, state: str | None = None, run: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Return the newest calls of a ledger as plain values.

    Raises:
        BadInput: no ledger there, or a state that does not exist.
    """
    if state is not None and state.upper() not in STATES:
        raise BadInput(f"there is no state {state!r}; choose one of {', '.join(STATES)}")
    query = sa.select(calls).order_by(calls.c.created.desc(), calls.c.key).limit(limit)
    if state is not None:
        query = query.where(calls.c.state == state.upper())
    if run is not None:
        query = query.where(calls.c.run == run)
    columns = ("key", "state", "run", "stage", "subtask", "arm", "repetition", "ordinal", "primitive", "backend")
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(query).mappings().all()
        sums = _sums(connection, [row["key"] for row in rows])
    return [
        {
            **{name: row[name] for name in columns},
            **sums.get(row["key"], {}),
            "created": _iso(row["created"]),
            "error": row["error"],
        }
        for row in rows
    ]


def show_call(url: str | Path, key: str) -> dict[str, Any]:
    """Return all that is known of one call as plain values, results left out.

    Args:
        url: path or URL of the ledger.
        key: the replay key or its first characters.

    Raises:
        BadInput: no call, or several, begin with these characters.
    """
    ledger = Ledger(url, create=False)
    with ledger.database.read() as connection:
        rows = (
            connection.execute(sa.select(calls).where(calls.c.key.startswith(key, autoescape=True)).limit(2))
            .mappings()
            .all()
        )
        if len(rows) != 1:
            raise BadInput(
                f"{'several calls begin' if rows else 'no call begins'} with {key!r}; see ketcycle queue list"
            )
        row = rows[0]
        used = sa.select(parts.c.batch).where(parts.c.call == row["key"])
        jobs = connection.execute(sa.select(batches).where(batches.c.tag.in_(used))).mappings().all()
        columns = (parts.c.position, parts.c.part, parts.c.start, parts.c.circuits, parts.c.shots, parts.c.circuit)
        pieces = connection.execute(
            sa.select(
                *columns, parts.c.batch, parts.c.usage, parts.c.facts, sa.func.length(parts.c.result).label("size")
            )
            .where(parts.c.call == row["key"])
            .order_by(parts.c.position, parts.c.part)
        ).mappings()
        return {
            **row,
            "options": json.loads(row["options"]),
            "created": _iso(row["created"]),
            "updated": _iso(row["updated"]),
            "jobs": [{**job, "created": _iso(job["created"]), "updated": _iso(job["updated"])} for job in jobs],
            "parts": [
                {
                    **{k: v for k, v in piece.items() if k not in ("usage", "facts", "size")},
                    "result_bytes": piece["size"],
                }
                | {name: json.loads(piece[name]) if piece[name] else None for name in ("usage", "facts")}
                for piece in pieces
            ],
        }


def _sums(connection: sa.Connection, keys: list[str]) -> dict[str, dict[str, Any]]:
    """Sum circuits, shots and usage over the parts of each call."""
    sums: dict[str, dict[str, Any]] = {}
    query = sa.select(parts.c.call, parts.c.circuits, parts.c.shots, parts.c.usage).where(parts.c.call.in_(keys))
    for key, count, shots, usage in connection.execute(query):
        total = sums.setdefault(key, {"circuits": 0, "shots": 0, "cpu_s": 0.0, "qpu_s_projected": 0.0})
        total["circuits"] += count
        total["shots"] += count * shots
        spent = json.loads(usage or "{}")
        for name in ("cpu_s", "qpu_s_projected"):
            total[name] += spent.get(name, 0.0)
    return sums


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

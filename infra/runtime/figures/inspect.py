"""Reads the ledger: calls that wait or run, their results and what they used.

Plain values for people and for JSON. Knows SQL only, so that looking starts fast.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.errors import BadInput
from infra.runtime.ledger.ledger import OPEN, OUT, STATES, UNKNOWN, Ledger
from infra.runtime.ledger.schema import batches, calls, leases, parts
from infra.runtime.sweep import RECENT_S, SWEEP_S, is_due

_SUMMED = ("cpu_s", "qpu_s_projected", "qpu_s_billed")


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
            "cancel_requested": _iso(row["cancel_requested"]) if row["cancel_requested"] else None,
            "error": row["error"],
        }
        for row in rows
    ]


def full_key(url: str | Path, key: str) -> str:
    """Return the replay key that begins so.

    Raises:
        BadInput: no call, or several, begin with these characters.
    """
    query = sa.select(calls.c.key).where(calls.c.key.startswith(key, autoescape=True)).limit(2)
    with Ledger(url, create=False).database.read() as connection:
        found: list[str] = list(connection.scalars(query))
    if len(found) != 1:
        raise BadInput(f"{'several calls begin' if found else 'no call begins'} with {key!r}; see ketcycle queue list")
    return found[0]


def show_call(url: str | Path, key: str) -> dict[str, Any]:
    """Return all that is known of one call as plain values, results left out.

    Args:
        url: path or URL of the ledger.
        key: the replay key or its first characters.

    Raises:
        BadInput: no call, or several, begin with these characters.
    """
    key = full_key(url, key)
    with Ledger(url, create=False).database.read() as connection:
        row = connection.execute(sa.select(calls).where(calls.c.key == key)).mappings().one()
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


def list_open(url: str | Path, run: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """Return the calls that are still to be answered, the oldest first, with the jobs that they travel in.

    Raises:
        BadInput: no ledger there.
    """
    now = time.time()
    query = sa.select(calls).where(calls.c.state.in_(OPEN)).order_by(calls.c.created, calls.c.key).limit(limit)
    if run is not None:
        query = query.where(calls.c.run == run)
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(query).mappings().all()
        jobs = _jobs_of(connection, [row["key"] for row in rows])
    return [
        {
            **{name: row[name] for name in ("key", "state", "run", "stage", "subtask", "arm", "backend", "executions")},
            "age_s": now - row["created"],
            "jobs": jobs.get(row["key"], []),
        }
        for row in rows
    ]


def list_parked(url: str | Path) -> list[dict[str, Any]]:
    """Return the batches whose job may or may not exist, with all that is known of them.

    Raises:
        BadInput: no ledger there.
    """
    query = sa.select(batches).where(batches.c.state == UNKNOWN).order_by(batches.c.created)
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(query).mappings().all()
        travellers: dict[str, list[str]] = {row["tag"]: [] for row in rows}
        inside = sa.select(parts.c.batch, parts.c.call).where(parts.c.batch.in_(list(travellers))).distinct()
        for tag, key in connection.execute(inside.order_by(parts.c.call)):
            travellers[tag].append(key)
    return [
        {
            "tag": row["tag"],
            "backend": row["lane"],
            "since": _iso(row["created"]),
            "parts": row["parts"],
            "executions": row["executions"],
            "estimate_s": row["estimate_s"],
            "calls": travellers[row["tag"]],
            "reason": row["error"],
            "look": _how_to_look(row["lane"], row["tag"]),
        }
        for row in rows
    ]


def list_leaders(url: str | Path) -> dict[str, dict[str, Any]]:
    """Return the leader of each lane: host, process, end of its lease; lanes without a leader are left out."""
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(sa.select(leases).where(leases.c.holder.is_not(None))).mappings().all()
    return {
        row["lane"]: {
            "host": str(row["host"]).partition("|")[0],
            "pid": row["pid"],
            "fence": row["fence"],
            "until": _iso(row["expires"]),
        }
        for row in rows
    }


def lanes_to_cancel(url: str | Path, *, run: str | None = None, key: str | None = None) -> list[str]:
    """Return the backends with calls that are out although their cancellation was requested."""
    query = sa.select(calls.c.backend).where(calls.c.state.in_(OUT), calls.c.cancel_requested.is_not(None)).distinct()
    for column, value in ((calls.c.run, run), (calls.c.key, key)):
        query = query if value is None else query.where(column == value)
    with Ledger(url, create=False).database.read() as connection:
        return sorted(connection.scalars(query))


def lanes_to_drain(url: str | Path, *, thorough: bool = False) -> list[str]:
    """Return the backends with work, and those on which duplicates of recent batches are to be looked for.

    Args:
        url: path or URL of the ledger.
        thorough: whether each batch of the last hour is looked at, whenever that was done last.

    Raises:
        BadInput: no ledger there.
    """
    now = time.time()
    recent = sa.select(batches.c.lane, batches.c.sent, sa.func.coalesce(batches.c.looked, 0.0)).where(
        batches.c.sent >= now - SWEEP_S, batches.c.max_qpu_s.is_not(None), batches.c.duplicate_of.is_(None)
    )
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(recent).all()
    due = {
        lane
        for lane, sent, looked in rows
        if is_due(now - sent, looked - sent) or (thorough and looked - sent < now - sent < RECENT_S)
    }
    return sorted(due | set(lanes_with_work(url)))


def lanes_with_work(url: str | Path, run: str | None = None) -> list[str]:
    """Return the backends for which something waits, is out, is parked or is not billed yet."""
    waiting = sa.select(calls.c.backend).where(calls.c.state.in_(OPEN))
    out = sa.select(batches.c.lane).where(batches.c.billed_s.is_(None))
    if run is not None:
        waiting = waiting.where(calls.c.run == run)
    with Ledger(url, create=False).database.read() as connection:
        found = set(connection.scalars(waiting)) | (set(connection.scalars(out)) if run is None else set())
    return sorted(found)


def _jobs_of(connection: sa.Connection, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = (
        sa.select(parts.c.call, batches.c.tag, batches.c.state, batches.c.job_id, batches.c.estimate_s)
        .join(batches, batches.c.tag == parts.c.batch)
        .where(parts.c.call.in_(keys))
        .distinct()
        .order_by(batches.c.tag)
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for key, tag, state, job_id, estimate_s in connection.execute(query):
        job = {"tag": tag, "state": state, "job_id": job_id, "estimate_s": estimate_s}
        found.setdefault(key, []).append(job)
    return found


def _how_to_look(backend: str, tag: str) -> str:
    if backend.startswith("ibm:"):
        return f"list the jobs with the tag {tag} on the platform's page, or service.jobs(job_tags=[{tag!r}])"
    return f"look on {backend} for a job with the tag {tag}"


def _sums(connection: sa.Connection, keys: list[str]) -> dict[str, dict[str, Any]]:
    """Sum circuits, shots and usage over the parts of each call."""
    sums: dict[str, dict[str, Any]] = {}
    query = sa.select(parts.c.call, parts.c.circuits, parts.c.shots, parts.c.usage).where(parts.c.call.in_(keys))
    for key, count, shots, usage in connection.execute(query):
        total = sums.setdefault(key, {"circuits": 0, "shots": 0, **dict.fromkeys(_SUMMED, 0.0)})
        total["circuits"] += count
        total["shots"] += count * shots
        spent = json.loads(usage or "{}")
        for name in _SUMMED:
            total[name] += spent.get(name, 0.0)
    return sums


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

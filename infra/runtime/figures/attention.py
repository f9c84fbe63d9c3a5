"""What a person should look at: batches of unknown outcome, flagged ones, and QPU seconds reserved for long.

Plain values for people, for JSON and for Prometheus. Knows SQL only, so that looking starts fast.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.runtime.ledger.ledger import CANCELLED, DONE, FAILED, UNKNOWN, Ledger
from infra.runtime.ledger.schema import batches, charges

AGES = (("under 1 h", 3600.0), ("1 h to 1 day", 86_400.0), ("over 1 day", float("inf")))


def attention(url: str | Path, run: str | None = None) -> list[dict[str, Any]]:
    """Return for each backend that bills: batches of unknown outcome, flagged ones, seconds reserved by age.

    Args:
        url: path or URL of the ledger.
        run: only batches that this run travels in.

    Raises:
        BadInput: no ledger there.
    """
    with Ledger(url, create=False).database.read() as connection:
        return read_attention(connection, run)


def read_attention(connection: sa.Connection, run: str | None = None) -> list[dict[str, Any]]:
    """Return the same from an open connection."""
    now = time.time()
    mine = [] if run is None else [batches.c.tag.in_(sa.select(charges.c.tag).where(charges.c.run == run))]
    counted = (
        sa.func.sum(sa.case((batches.c.state == UNKNOWN, 1), else_=0)),
        sa.func.sum(sa.case((batches.c.flagged, 1), else_=0)),
    )
    query = sa.select(batches.c.lane, *counted).where(batches.c.max_qpu_s.is_not(None), *mine)
    rows = connection.execute(query.group_by(batches.c.lane).order_by(batches.c.lane)).all()
    reserved: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys((name for name, _ in AGES), 0.0))
    held = (
        sa.select(batches.c.lane, batches.c.created, sa.func.sum(charges.c.reserved_s))
        .join(charges, charges.c.tag == batches.c.tag)
        .where(charges.c.reserved_s > 0, *([] if run is None else [charges.c.run == run]))
        .group_by(batches.c.tag, batches.c.lane, batches.c.created)
    )
    for lane, created, seconds in connection.execute(held):
        reserved[lane][next(name for name, limit in AGES if now - created < limit)] += float(seconds)
    return [
        {"backend": lane, "unknown": int(parked or 0), "flagged": int(flagged or 0), "reserved_s": reserved[lane]}
        for lane, parked, flagged in rows
    ]


def list_unsettled(url: str | Path) -> list[dict[str, Any]]:
    """Return the batches whose bill a person may have to settle: not reported, or not plausible.

    Raises:
        BadInput: no ledger there.
    """
    over = batches.c.state.in_((DONE, FAILED, CANCELLED)), batches.c.billed_s.is_(None)
    lost = batches.c.state == UNKNOWN, batches.c.job_id.is_not(None)
    query = sa.select(batches).where(sa.or_(sa.and_(*over), sa.and_(*lost), batches.c.note.is_not(None)))
    with Ledger(url, create=False).database.read() as connection:
        rows = connection.execute(query.order_by(batches.c.created)).mappings().all()
    now = time.time()
    return [
        {
            **{name: row[name] for name in ("tag", "job_id", "state", "estimate_s", "max_qpu_s", "billed_s", "note")},
            "backend": row["lane"],
            "age_s": now - row["created"],
        }
        for row in rows
    ]

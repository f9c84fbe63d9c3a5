"""Reservations and bills of batches, by run and stage."""

from __future__ import annotations

import json
from collections.abc import Mapping

import sqlalchemy as sa

from infra.runtime.ledger.schema import batches, charges, parts

Spender = tuple[str, str]  # run and stage
Amounts = Mapping[Spender, float]  # QPU seconds


def reserve(connection: sa.Connection, tag: str, requested: Amounts, day: str, usd_per_s: float) -> None:
    """Reserve amounts for a batch in the caller's transaction."""
    total = sum(requested.values())
    for (run, stage), seconds in requested.items():
        share = seconds / total if total > 0 else 1 / len(requested)
        row = {"tag": tag, "run": run, "stage": stage, "day": day, "share": share, "usd_per_s": usd_per_s}
        connection.execute(charges.insert().values(**row, reserved_s=seconds, billed_s=0.0))


def reserve_again(connection: sa.Connection, tag: str, duplicate: str) -> None:
    """Reserve the maximum bill of a duplicate job that the service created, regardless of the limits."""
    columns = [charges.c[name] for name in ("run", "stage", "day", "share", "usd_per_s")]
    seconds = sa.select(sa.func.coalesce(batches.c.max_qpu_s, 0.0)).where(batches.c.tag == tag).scalar_subquery()
    rows = sa.select(sa.literal(duplicate), *columns, charges.c.share * seconds, sa.literal(0.0))
    names = ["tag", *(column.name for column in columns), "reserved_s", "billed_s"]
    connection.execute(charges.insert().from_select(names, rows.where(charges.c.tag == tag)))


def settle(connection: sa.Connection, tag: str, billed_s: float) -> None:
    """Charge a batch's bill to the runs and stages in it by their shares, and release its reservation."""
    charged = charges.update().where(charges.c.tag == tag)
    connection.execute(charged.values(reserved_s=0.0, billed_s=charges.c.share * billed_s))


def billed(seconds: float, usd_per_s: float | None) -> dict[str, float]:
    """Return billing seconds as quantities of `Usage`: QPU seconds, or dollars where the backend bills dollars."""
    return {"qpu_s_billed": seconds} if usd_per_s is None else {"usd_billed": seconds * usd_per_s}


def bill_parts(connection: sa.Connection, tag: str, billed_s: float) -> None:
    """Write a bill that came after the results into the usage of the batch's parts, by their shares of the bill."""
    key = (parts.c.call, parts.c.position, parts.c.part)
    query = sa.select(*key, parts.c.usage, parts.c.facts).where(parts.c.batch == tag, parts.c.result.is_not(None))
    for call, position, part, usage, facts in connection.execute(query).all():
        known = json.loads(facts or "{}")
        if "share" in known:
            its = {**json.loads(usage or "{}"), **billed(known["share"] * billed_s, known.get("usd_per_s"))}
            same = parts.c.call == call, parts.c.position == position, parts.c.part == part
            told = json.dumps({**known, "job_billed_s": billed_s})
            connection.execute(parts.update().where(*same).values(usage=json.dumps(its), facts=told))

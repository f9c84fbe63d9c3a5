"""The budget: limits that can be changed while runs are active, reservations before sending, bills afterwards.

A limit applies to each run, each stage of a run, each day or each month (UTC, at the time of sending), in QPU seconds
or in US dollars. One transaction of the ledger claims a job, checks the limits and makes the reservation; no other
dispatcher can do so at the same time. The reservation is the maximum that the job may use: its estimate, corrected by
earlier bills, and up to the same amount again if the limits allow it. The service is told to stop the job at this
maximum, so bills stay below the limits even if every estimate is wrong, unless the service runs a job twice or stops it
late: such a bill is flagged, and counts against the next jobs.

The module uses SQL only, so that it loads fast.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from infra.errors import BadInput
from infra.runtime.ledger.charges import Amounts, Spender, reserve
from infra.runtime.ledger.schema import charges, meta
from infra.runtime.ledger.schema import limits as table

if TYPE_CHECKING:
    from infra.runtime.ledger.ledger import Ledger

RUN, STAGE, DAY, MONTH = SCOPES = ("run", "stage", "day", "month")
QPU_S, USD = UNITS = ("qpu_s", "usd")
HEADROOM = 2.0  # a job may use this multiple of its corrected estimate, if the limits allow it
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Spending:
    """Billed amounts, and amounts reserved for jobs in flight or without a bill."""

    billed_s: float
    reserved_s: float
    billed_usd: float
    reserved_usd: float

    def of(self, unit: str) -> tuple[float, float]:
        """Return billed and reserved in a unit."""
        return (self.billed_s, self.reserved_s) if unit == QPU_S else (self.billed_usd, self.reserved_usd)


@dataclass(frozen=True)
class Room:
    """Whether an amount fits into the limits.

    Attributes:
        scale: headroom factor, limit left / amount requested; below 1 the amount does not fit.
        reason: the exceeded limit with its numbers, if scale is below 1.
        final: if scale is below 1, whether the amount will not fit even once all current reservations are released.
    """

    scale: float = math.inf
    reason: str = ""
    final: bool = False


def set_limit(ledger: Ledger, scope: str, unit: str, value: float | None) -> None:
    """Set a limit, or remove it with None; it applies from the next job on.

    Raises:
        BadInput: the scope or unit does not exist, or the value is negative or not a number.
    """
    if scope not in SCOPES or unit not in UNITS:
        raise BadInput(f"a limit is per {', '.join(SCOPES)} in {' or '.join(UNITS)}, not per {scope!r} in {unit!r}")
    if value is not None and not 0 <= value < math.inf:
        raise BadInput(f"a limit is a number from 0, or none, not {value}")
    same = table.c.scope == scope, table.c.unit == unit
    with ledger.database.write() as connection:
        _lock(connection)
        connection.execute(table.delete().where(*same))
        if value is not None:
            connection.execute(table.insert().values(scope=scope, unit=unit, value=value))


def limits(ledger: Ledger) -> dict[tuple[str, str], float]:
    """Return the limits by scope and unit."""
    with ledger.database.read() as connection:
        return _limits(connection)


def spending(
    ledger: Ledger, *, run: str | None = None, stage: str | None = None, period: str | None = None
) -> Spending:
    """Return the billed and reserved amounts.

    Args:
        ledger: the ledger.
        run: count only this run.
        stage: count only this stage.
        period: count only this day (2026-11-23) or month (2026-11).
    """
    which = [charges.c.run == run] if run is not None else []
    which += [charges.c.stage == stage] if stage is not None else []
    which += [charges.c.day.startswith(period, autoescape=True)] if period is not None else []
    with ledger.database.read() as connection:
        return _spent(connection, *which)


def remaining(ledger: Ledger) -> dict[tuple[str, str], float]:
    """Return the remaining amount of each limit; for runs and stages, of the run or stage that has spent most."""
    return {(row["scope"], row["unit"]): row["left"] for row in overview(ledger) if row["limit"] is not None}


def overview(ledger: Ledger) -> list[dict[str, Any]]:
    """Return each limit with the amounts billed and reserved against it, as plain values.

    Of runs and stages the one that has spent most is shown; day and month are shown without a limit too.
    """
    today = _day(time.time())
    with ledger.database.read() as connection:
        known = _limits(connection)
        rows = [(scope, unit) for scope in SCOPES for unit in UNITS if (scope, unit) in known or scope in (DAY, MONTH)]
        return [_row(connection, scope, unit, known.get((scope, unit)), today) for scope, unit in rows]


def _row(connection: sa.Connection, scope: str, unit: str, limit: float | None, today: str) -> dict[str, Any]:
    of: str | None
    if scope in (DAY, MONTH):
        of = today if scope == DAY else today[:7]
        spent = _spent(connection, *_within(scope, ("", ""), today))
    else:
        keys = (charges.c.run,) if scope == RUN else (charges.c.run, charges.c.stage)
        used = (charges.c.billed_s + charges.c.reserved_s) * (charges.c.usd_per_s if unit == USD else 1.0)
        most = connection.execute(sa.select(*keys).group_by(*keys).order_by(sa.func.sum(used).desc()).limit(1)).first()
        who = (*most, "")[:2] if most else ("", "")
        of = "/".join(filter(None, who)) or None
        spent = _spent(connection, *_within(scope, who, today))
    billed, reserved = spent.of(unit)
    left = None if limit is None else limit - billed - reserved
    return {
        "scope": scope,
        "unit": unit,
        "limit": limit,
        "of": of,
        "billed": billed,
        "reserved": reserved,
        "left": left,
    }


class Gate:
    """The limits and the spending, read in one transaction; other dispatchers wait for its end."""

    def __init__(self, connection: sa.Connection, now: float, usd_per_s: float) -> None:
        _lock(connection)
        self._connection, self._day, self._usd_per_s = connection, _day(now), usd_per_s
        self._limits = _limits(connection)
        self._spent: dict[tuple[str, Spender], Spending] = {}

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._limits)

    def room(self, requested: Amounts) -> Room:
        """Return whether an amount fits into every limit that applies to it."""
        rooms = [self._room(*asked) for asked in self._asked(requested)]
        return min(rooms, key=lambda room: (not room.final, room.scale), default=Room())

    def reserve(self, tag: str, requested: Amounts) -> None:
        """Reserve amounts for a batch."""
        reserve(self._connection, tag, requested, self._day, self._usd_per_s)
        self._spent.clear()

    def _asked(self, requested: Amounts) -> Iterator[tuple[str, str, float, Spender, float]]:
        """Yield scope, unit, limit, whose, and amount in that unit, for every limit that applies to a request."""
        for (scope, unit), limit in self._limits.items():
            amounts: dict[Spender, float] = defaultdict(float)
            for (run, stage), seconds in requested.items():
                who = {RUN: (run, ""), STAGE: (run, stage)}.get(scope, ("", ""))
                amounts[who] += seconds * (self._usd_per_s if unit == USD else 1.0)
            for who, amount in amounts.items():
                yield scope, unit, limit, who, amount

    def _room(self, scope: str, unit: str, limit: float, who: Spender, amount: float) -> Room:
        if amount <= 0:
            return Room()
        if (scope, who) not in self._spent:
            self._spent[scope, who] = _spent(self._connection, *_within(scope, who, self._day))
        billed, reserved = self._spent[scope, who].of(unit)
        scale = (limit - billed - reserved) / amount
        if scale >= 1 - _ROUNDING:
            return Room(max(1.0, scale))
        name = {RUN: f"run {who[0]}", STAGE: f"stage {who[1]} of run {who[0]}"}.get(scope, f"this {scope}")
        return Room(
            scale,
            f"{amount:.4g} {unit} are needed at least; the limit of {name} is {limit:.4g} {unit}, of which "
            f"{billed:.4g} were billed and {reserved:.4g} are reserved for jobs that are out. To allow it: "
            f"ketcycle queue budget set {scope} {unit} {_up(billed + reserved + amount)}",
            final=billed + amount > limit * (1 + _ROUNDING),
        )


@lru_cache(maxsize=1)
def usd_per_qpu_s() -> float:
    """Return the price of a QPU second, from the coefficients of the energy model."""
    from infra.energy.model import Coefficients

    return float(Coefficients.load().value("qpu.price"))


def _lock(connection: sa.Connection) -> None:
    """Make other dispatchers wait until the end of this transaction; SQLite has only one writer."""
    connection.execute(sa.select(meta.c.name).where(meta.c.name == "schema").with_for_update())


def _limits(connection: sa.Connection) -> dict[tuple[str, str], float]:
    found = {(scope, unit): value for scope, unit, value in connection.execute(sa.select(table))}
    return {(scope, unit): found[scope, unit] for scope in SCOPES for unit in UNITS if (scope, unit) in found}


def _within(scope: str, who: Spender, day: str) -> tuple[Any, ...]:
    match scope:
        case "run":
            return (charges.c.run == who[0],)
        case "stage":
            return charges.c.run == who[0], charges.c.stage == who[1]
        case "day":
            return (charges.c.day == day,)
        case _:
            return charges.c.day >= f"{day[:7]}-01", charges.c.day <= f"{day[:7]}-31"


def _spent(connection: sa.Connection, *which: Any) -> Spending:
    columns = (charges.c.billed_s, charges.c.reserved_s)
    sums = [sa.func.sum(column * price) for price in (1.0, charges.c.usd_per_s) for column in columns]
    row = connection.execute(sa.select(*sums).where(*which)).one()
    return Spending(*(float(value or 0.0) for value in row))


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def _up(value: float) -> str:
    """Round up to three digits."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:g}"

"""Idempotency keys in the ledger's database: which flow run answers an event, which webhook deliveries were taken.

A key is claimed by a holder before the work and finished after it. A finished claim is final. A claim that its holder
never finished is taken over by the next caller, if the holder is no longer at work: a cancelled, failed or
killed run therefore leaves nothing to be released by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from infra.runtime.ledger.database import Database, Duplicate

_META = sa.MetaData()
_claims = sa.Table(
    "claims",
    _META,
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(300), primary_key=True),
    sa.Column("about", sa.String(300), nullable=False),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("finished", sa.Float),
    sa.Index("claims_about", "scope", "about", "at"),
)


@dataclass(frozen=True)
class Claim:
    """A claimed key.

    Attributes:
        key: names what was claimed.
        about: what it concerns, e.g. a model.
        holder: who claimed it, e.g. a flow run.
        at: when it was claimed, seconds since the epoch.
        finished: when its work was completed, seconds since the epoch; None = not yet.
    """

    key: str
    about: str
    holder: str
    at: float
    finished: float | None

    @property
    def said(self) -> str:
        """A text with the holder, and whether its work is finished."""
        return f"{'done' if self.finished else 'being done'} by flow run {self.holder}"


class Claims:
    """Keys of one kind, each answered by one holder.

    Args:
        location: the ledger's path or URL.
        scope: the kind, e.g. `retrain-on-drift`.
        at_work: says whether a holder may still finish its claim; by default every holder may.
    """

    def __init__(self, location: str, scope: str, at_work: Callable[[str], bool] = lambda _: True) -> None:
        self._database, self._scope, self._at_work = Database(location), scope, at_work
        with self._database.write() as connection:
            _META.create_all(connection)
            _add_finished(connection)

    def claim(self, key: str, holder: str, about: str = "") -> Claim | None:
        """Claim a key; return the claim in the way if another holder has finished it or is at work on it.

        The same holder may claim again: a flow run that is retried goes on.
        """
        row = {"scope": self._scope, "key": key[:300], "about": about[:300], "holder": holder, "at": time.time()}
        while True:
            try:
                with self._database.write() as connection:
                    connection.execute(_claims.insert().values(**row))
                return None
            except Duplicate:
                found = self._find(_claims.c.key == row["key"])
            if found is None:  # it was released in between
                continue
            if found.holder == holder:
                return None
            if found.finished is not None or self._at_work(found.holder):
                return found
            self.release(key, found.holder)

    def open(self, key: str) -> bool:
        """Return whether a key may be claimed: it has no holder, or its holder ended without finishing."""
        found = self._find(_claims.c.key == key[:300])
        return found is None or (found.finished is None and not self._at_work(found.holder))

    def holder(self, key: str) -> str | None:
        """Return the holder of a key, or None."""
        found = self._find(_claims.c.key == key[:300])
        return found.holder if found else None

    def newest(self, about: str, besides: str) -> Claim | None:
        """Return the claim about something that was finished last, apart from the one of this key."""
        finished = _claims.c.finished.is_not(None)
        return self._find(_claims.c.about == about[:300], _claims.c.key != besides[:300], finished)

    def finish(self, key: str, holder: str) -> None:
        """Make a claim final: its work is done."""
        with self._database.write() as connection:
            connection.execute(_claims.update().where(*self._mine(key, holder)).values(finished=time.time()))

    def release(self, key: str, holder: str) -> None:
        """Release a key that was not finished, so that it may be claimed again; a finished claim stays."""
        mine = self._mine(key, holder)
        with self._database.write() as connection:
            connection.execute(_claims.delete().where(*mine, _claims.c.finished.is_(None)))

    def forget(self, before_s: float) -> None:
        """Delete claims made before a time; older events are refused by their time stamp."""
        with self._database.write() as connection:
            connection.execute(_claims.delete().where(_claims.c.scope == self._scope, _claims.c.at < before_s))

    def _mine(self, key: str, holder: str) -> tuple[sa.ColumnElement[bool], ...]:
        return _claims.c.scope == self._scope, _claims.c.key == key[:300], _claims.c.holder == holder

    def _find(self, *where: sa.ColumnElement[bool]) -> Claim | None:
        latest = sa.func.coalesce(_claims.c.finished, _claims.c.at).desc()
        wanted = sa.select(_claims).where(_claims.c.scope == self._scope, *where).order_by(latest).limit(1)
        with self._database.read() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else Claim(row["key"], row["about"], row["holder"], row["at"], row["finished"])


def _add_finished(connection: sa.Connection) -> None:
    """Bring a table of version 0.1.0 up to date: a claim was final from the start there."""
    if any(column["name"] == "finished" for column in sa.inspect(connection).get_columns("claims")):
        return
    either = "IF NOT EXISTS " if connection.dialect.name == "postgresql" else ""  # two processes may come here at once
    connection.exec_driver_sql(f"ALTER TABLE claims ADD COLUMN {either}finished FLOAT")
    connection.execute(_claims.update().values(finished=_claims.c.at))

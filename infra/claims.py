"""What may happen once only, written down in the ledger's database: reactions to events, deliveries from outside."""

from __future__ import annotations

import time
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
    sa.Index("claims_about", "scope", "about", "at"),
)


@dataclass(frozen=True)
class Claim:
    """Something that was claimed.

    Attributes:
        key: names the occurrence.
        about: what it concerns, e.g. a model.
        holder: who claimed it, e.g. a flow run.
        at: when, seconds since the epoch.
    """

    key: str
    about: str
    holder: str
    at: float


class Claims:
    """Occurrences of one kind, each of which belongs to the first who claims it, for good.

    Args:
        location: the ledger's path or URL.
        scope: the kind, e.g. `retrain-on-drift`.
    """

    def __init__(self, location: str, scope: str) -> None:
        self._database, self._scope = Database(location), scope
        with self._database.write() as connection:
            _META.create_all(connection)

    def claim(self, key: str, holder: str, about: str = "") -> Claim | None:
        """Claim an occurrence; return who has it if that is another one.

        The same holder may claim again: a flow run that is retried goes on.
        """
        row = {"scope": self._scope, "key": key[:300], "about": about[:300], "holder": holder, "at": time.time()}
        try:
            with self._database.write() as connection:
                connection.execute(_claims.insert().values(**row))
        except Duplicate:
            found = self._find(_claims.c.key == row["key"])
            return None if found is None or found.holder == holder else found
        return None

    def holder(self, key: str) -> str | None:
        """Return who has an occurrence, if anybody."""
        found = self._find(_claims.c.key == key[:300])
        return found.holder if found else None

    def newest(self, about: str, besides: str) -> Claim | None:
        """Return the newest claim about something, apart from the one of this key."""
        return self._find(_claims.c.about == about[:300], _claims.c.key != besides[:300])

    def release(self, key: str, holder: str) -> None:
        """Give an occurrence back that came to nothing, so that it may be claimed again."""
        mine = _claims.c.scope == self._scope, _claims.c.key == key[:300], _claims.c.holder == holder
        with self._database.write() as connection:
            connection.execute(_claims.delete().where(*mine))

    def forget(self, before_s: float) -> None:
        """Drop claims older than a time, where older occurrences are refused by their time."""
        with self._database.write() as connection:
            connection.execute(_claims.delete().where(_claims.c.scope == self._scope, _claims.c.at < before_s))

    def _find(self, *where: sa.ColumnElement[bool]) -> Claim | None:
        wanted = sa.select(_claims).where(_claims.c.scope == self._scope, *where).order_by(_claims.c.at.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(wanted).mappings().first()
        return None if row is None else Claim(row["key"], row["about"], row["holder"], row["at"])

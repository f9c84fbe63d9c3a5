"""Tables of the runtime queue's ledger, and how its database is opened.

Knows SQL only: no circuits, no arrays, so that reading the ledger starts fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError, IntegrityError

from infra.errors import BadInput, RuntimeQueueError

SCHEMA_VERSION = 2
BUSY_S = 30.0

_META = sa.MetaData()
meta = sa.Table(
    "meta", _META, sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.String(64), nullable=False)
)
circuits = sa.Table(
    "circuits",
    _META,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("qpy", sa.LargeBinary, nullable=False),
)
calls = sa.Table(
    "calls",
    _META,
    sa.Column("key", sa.String(32), primary_key=True),
    *(sa.Column(name, sa.String(200), nullable=False) for name in ("run", "stage", "subtask", "problem", "arm")),
    sa.Column("repetition", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("primitive", sa.String(16), nullable=False),
    sa.Column("backend", sa.String(100), nullable=False),
    sa.Column("calibration", sa.String(100), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("content", sa.String(64), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("executions", sa.BigInteger, nullable=False),
    sa.Column("projection", sa.String(100), nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=1),
    sa.Column("reused_from", sa.String(32)),
    sa.Column("error", sa.Text),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Index("calls_waiting", "backend", "state", "created"),
    sa.Index("calls_content", "content", "state"),
    sa.Index("calls_run", "run", "created"),
)
parts = sa.Table(
    "parts",
    _META,
    sa.Column("call", sa.String(32), sa.ForeignKey("calls.key"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("circuit", sa.String(64), nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("circuits", sa.Integer, nullable=False),
    sa.Column("shots", sa.BigInteger, nullable=False),
    sa.Column("batch", sa.String(32), index=True),
    sa.Column("slot", sa.Integer),
    sa.Column("result", sa.LargeBinary),
    sa.Column("usage", sa.Text),
    sa.Column("facts", sa.Text),
)
batches = sa.Table(
    "batches",
    _META,
    sa.Column("tag", sa.String(32), primary_key=True),
    sa.Column("lane", sa.String(120), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("job_id", sa.String(100)),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("executions", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Index("batches_open", "lane", "state"),
)
leases = sa.Table(
    "leases",
    _META,
    sa.Column("lane", sa.String(120), primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("holder", sa.String(64)),
    sa.Column("host", sa.String(300)),
    sa.Column("pid", sa.Integer),
    sa.Column("started", sa.String(32)),
    sa.Column("expires", sa.Float, nullable=False),
)
projections = sa.Table(
    "projections",
    _META,
    sa.Column("circuit", sa.String(64), primary_key=True),
    sa.Column("device", sa.String(160), primary_key=True),
    sa.Column("two_qubit_gates", sa.Integer, nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("error", sa.Text),
)


class Duplicate(RuntimeQueueError):
    """A row with this key is there already."""


def database_url(location: str | Path) -> str:
    """Return the SQLAlchemy URL of a ledger given by path or URL."""
    text = str(location)
    return text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}"


class Database:
    """A ledger's database, opened once per process.

    Args:
        location: a path (SQLite) or any SQLAlchemy URL.
        create: make the tables where there are none.
        durable: wait for the disk at each write. A killed process loses nothing either way; without it, a power cut
            may lose the last second, which costs a simulation that runs again, but would pay a device twice.

    Raises:
        BadInput: there is no ledger and none is to be created, or it has another schema version.
        RuntimeQueueError: the database cannot be used; the message says what to do.
    """

    def __init__(self, location: str | Path, *, create: bool = True, durable: bool = True) -> None:
        self.url = database_url(location)
        url = _parse(self.url)
        self._name = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            if not create:
                raise BadInput(f"there is no ledger at {url.database}; it appears with the first quantum call of a run")
            with self._explained():
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        self._durable = durable
        self._check_schema(create)

    @property
    def _engine(self) -> Engine:
        """The engine of this process; connections do not survive a fork."""
        return _engine(self.url, self._durable, os.getpid())

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes.

        Raises:
            Duplicate: a row with this key is there already.
            RuntimeQueueError: anything else the database refuses.
        """
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection that only reads."""
        with self._explained(), self._engine.connect() as connection:
            yield connection.execution_options(ketcycle_read=True)

    def _check_schema(self, create: bool) -> None:
        found = None
        with self.read() as connection:
            there = sa.inspect(connection).has_table("meta")
            if there:
                found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
        if not there and not create:
            raise BadInput(f"{self._name} holds no ledger; check the path")
        if found is None:
            with self.write() as connection:  # two processes may come here at once; the second finds the row
                _META.create_all(connection)
                if connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema")) is None:
                    connection.execute(meta.insert().values(name="schema", value=str(SCHEMA_VERSION)))
        elif found != str(SCHEMA_VERSION):
            raise BadInput(
                f"the ledger {self._name} has schema version {found}, this program writes version {SCHEMA_VERSION}; "
                "move the ledger away or use the program that wrote it"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a database or a file system says into what a person can do about it."""
        try:
            yield
        except IntegrityError as error:
            raise Duplicate(f"the ledger {self._name} has this row already ({error.orig})") from error
        except (DatabaseError, OSError) as error:
            cause = error.orig if isinstance(error, DatabaseError) else error
            raise RuntimeQueueError(f"the ledger {self._name} failed ({cause}): {_advice(str(cause))}") from error


def _parse(url: str) -> sa.URL:
    try:
        return sa.engine.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise BadInput(f"{url!r} is neither a path nor a database URL such as sqlite:////folder/ledger.db") from error


def _advice(text: str) -> str:
    text = text.lower()
    if "locked" in text or "busy" in text:
        return f"another process has held it for {BUSY_S:.0f} s; stop that process or wait, then run again"
    if "full" in text or "no space" in text or "i/o error" in text:
        return "the disk is full or failing; free space and resume the run, finished calls are kept"
    if "malformed" in text or "not a database" in text:
        return "the file is damaged; restore a copy or move it away (its finished calls are then lost), and run again"
    if "unable to open" in text or "readonly" in text or "permission" in text:
        return "it cannot be opened for writing; check that its folder exists and may be written"
    return "see the database's own message"


@lru_cache(maxsize=8)
def _engine(url: str, durable: bool, pid: int) -> Engine:
    """Return the engine of the process with this id."""
    del pid
    if not url.startswith("sqlite"):
        try:
            return sa.create_engine(url, pool_pre_ping=True)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise BadInput(f"no driver for the ledger's database ({error}); install it, e.g. psycopg") from error
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins transactions too late; see _begin
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and then writes would fail at once, not wait, where another one wrote between.
        reading = connection.get_execution_options().get("ketcycle_read", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine

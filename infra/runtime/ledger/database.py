"""The ledger's database: SQLite in write-ahead mode or PostgreSQL, brought up to the current schema."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from infra.errors import BadInput, NoLedger, RuntimeQueueError
from infra.runtime.ledger.schema import METADATA, batches, calls, charges, limits, meta, parts, projections

SCHEMA_VERSION = 5
BUSY_S = 30.0
_LOCK = 0x6B6574  # PostgreSQL advisory lock for creating the tables


class Duplicate(RuntimeQueueError):
    """A row with this key exists already."""


def database_url(location: str | Path) -> str:
    """Return the SQLAlchemy URL of a ledger given by path or URL."""
    text = str(location)
    return text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}"


class _Forks:
    """Allows the process to fork only while no thread has an open connection, and closes idle connections before.

    SQLite keeps the locks of a process in memory: a child that is forked during a transaction of another thread sees
    the file as locked for ever.
    """

    def __init__(self) -> None:
        self.engines: WeakSet[Engine] = WeakSet()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._still, self._mine = threading.Condition(threading.Lock()), threading.local()
        self._open = self._forking = 0

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Delay forks of other threads, after those that already wait."""
        depth = getattr(self._mine, "depth", 0)
        with self._still:
            self._still.wait_for(lambda: depth or not self._forking)
            self._open += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            with self._still:
                self._open -= 1
                self._still.notify_all()

    def before(self) -> None:
        """Wait for the other threads, and block them until the fork is done."""
        self._still.acquire()
        self._forking += 1
        self._still.wait_for(lambda: self._open <= getattr(self._mine, "depth", 0), BUSY_S)
        for engine in list(self.engines):
            engine.dispose()

    def after(self) -> None:
        """Let the threads of the parent continue."""
        self._forking -= 1
        self._still.notify_all()
        self._still.release()

    def in_child(self) -> None:
        """Begin without open connections, which stay with the parent; its threads do not exist in its child."""
        for engine in list(self.engines):
            engine.dispose(close=False)
        self._begin_anew()


_FORKS = _Forks()
os.register_at_fork(before=_FORKS.before, after_in_parent=_FORKS.after, after_in_child=_FORKS.in_child)


class Database:
    """A ledger's database, opened once per process.

    A database of an older schema is migrated in place.

    Args:
        location: a path (SQLite) or any SQLAlchemy URL.
        create: create missing tables.
        durable: wait for the disk at each write. A killed process loses nothing in either case; without `durable` a
            power cut may lose the last second, which repeats a simulation, but would bill a device twice.

    Raises:
        BadInput: there is no ledger and none is to be created (NoLedger), or it has a newer schema version.
        RuntimeQueueError: the database cannot be used; the message says what to do.

    Attributes:
        url: URL of the database, including a password.
        name: URL without the password, for messages.
    """

    def __init__(self, location: str | Path, *, create: bool = True, durable: bool = True) -> None:
        self.url = database_url(location)
        url = _parse(self.url)
        self.name = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            if not create:
                raise BadInput(f"there is no ledger at {url.database}; it appears with the first quantum call of a run")
            with self._explained():
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        self._durable = durable
        self._check_schema(create)

    def _engine(self, *, wait: bool) -> Engine:
        return _engine(self.url, self._durable and wait)

    @contextmanager
    def write(self, *, wait: bool = True) -> Iterator[Connection]:
        """Open a transaction that writes.

        Args:
            wait: whether to wait for the disk, if writes are durable. Not needed if nothing outside depends on this
                write alone: the next write that waits, before anything is sent, makes it durable too.

        Raises:
            Duplicate: a row with this key exists already.
            RuntimeQueueError: the database refuses for any other reason.
        """
        with _FORKS.held_off(), self._explained(), self._engine(wait=wait).begin() as connection:
            # A transaction that reads first and then writes would fail at once, not wait, where another wrote between.
            _begin(connection, "BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection that only reads."""
        with _FORKS.held_off(), self._explained(), self._engine(wait=False).connect() as connection:
            # A reader takes its snapshot at once, where waiting for it is in our hands.
            _begin(connection, "BEGIN", "SELECT 1 FROM sqlite_master LIMIT 1")
            yield connection

    def _check_schema(self, create: bool) -> None:
        with self.read() as connection:
            found = _version(connection)
        if found is None and not create:
            raise NoLedger(f"{self.name} holds no ledger; check the path")
        if found is None or found in _MIGRATIONS:
            with self.write() as connection:
                if connection.dialect.name == "postgresql":  # two processes may come here at once
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                found = _bring_up(connection)
        if found != SCHEMA_VERSION:
            raise BadInput(
                f"the ledger {self.name} has schema version {found}, this program writes version {SCHEMA_VERSION}; "
                "move the ledger away or use the program that wrote it"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the database or file system into an error with advice."""
        try:
            yield
        except IntegrityError as error:
            raise Duplicate(f"the ledger {self.name} has this row already ({error.orig})") from error
        except (DBAPIError, OSError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise RuntimeQueueError(f"the ledger {self.name} failed ({cause}): {_advice(str(cause))}") from error


def _version(connection: Connection) -> int | None:
    if not sa.inspect(connection).has_table("meta"):
        return None
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
    return None if found is None else int(found)


def _bring_up(connection: Connection) -> int:
    """Create the tables, or migrate those of an older version, and return the version."""
    found = _version(connection)
    if found is None:
        METADATA.create_all(connection)
        connection.execute(meta.insert().values(name="schema", value=str(SCHEMA_VERSION)))
        return SCHEMA_VERSION
    while found in _MIGRATIONS:
        _MIGRATIONS[found](connection)
        found += 1
        connection.execute(meta.update().where(meta.c.name == "schema").values(value=str(found)))
    return found


def _add(connection: Connection, *columns: sa.Column[Any]) -> None:
    for column in columns:
        definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")


def _from_2(connection: Connection) -> None:
    """Version 3: estimates and bills, duplicates, budget, requests to cancel."""
    _add(
        connection,
        calls.c.cancel_requested,
        *(parts.c[name] for name in ("estimate_s", "overhead_s")),
        *(batches.c[name] for name in ("estimate_s", "max_qpu_s", "billed_s", "flagged", "duplicate_of")),
    )
    for table in (limits, charges):
        table.create(connection)
    next(index for index in batches.indexes if index.name == "batches_unbilled").create(connection)
    over = batches.c.state.in_(("DONE", "FAILED", "CANCELLED"))  # before this version there were only simulators
    connection.execute(batches.update().where(over).values(billed_s=0.0))


def _from_3(connection: Connection) -> None:
    """Version 4: when a submission left, jobs by their id, permanent failures, how results are assembled."""
    _add(connection, *(calls.c[name] for name in ("permanent", "outline")))
    _add(connection, *(batches.c[name] for name in ("sent", "refusal", "looked", "tries", "note")))
    for index in batches.indexes:
        if index.name in ("batches_job", "batches_sent"):
            index.create(connection)
    out = batches.c.state.not_in(("PREPARED",))
    connection.execute(batches.update().where(out).values(sent=batches.c.created))


def _from_4(connection: Connection) -> None:
    """Version 5: the depth of projections. Those that are stored lack it and are computed again."""
    projections.drop(connection)
    projections.create(connection)


_MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _from_2, 3: _from_3, 4: _from_4}


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
    if "connect" in text or "refused" in text or "authentication" in text:
        return "the database server does not answer or does not let this user in; check the URL and the server"
    if "unable to open" in text or "readonly" in text or "permission" in text:
        return "it cannot be opened for writing; check that its folder exists and may be written"
    return "see the database's own message"


def _insist(connection: sqlite3.Connection, *statements: str) -> None:
    """Execute statements, with retries while another process has the file locked.

    SQLite does not wait by itself while another process converts a new file to write-ahead mode, recovers it after a
    crash, or is the last one to close it.
    """
    deadline = time.monotonic() + BUSY_S
    for statement in statements:
        while True:
            try:
                connection.execute(statement)
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)


@lru_cache(maxsize=16)
def _engine(url: str, durable: bool) -> Engine:
    """Return the engine of this process: its statements, compiled once, survive a fork, its connections do not."""
    if not url.startswith("sqlite"):
        try:
            engine = sa.create_engine(url, pool_pre_ping=True)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise BadInput(
                f"no driver for the ledger's database ({error}); for PostgreSQL install ketcycle[postgres] and write "
                "postgresql+pg8000://user:password@host/database"
            ) from error
        _FORKS.engines.add(engine)
        return engine
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_S})
    _FORKS.engines.add(engine)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins transactions too late; see `_begin`
        mode = "FULL" if durable else "NORMAL"
        # Write-ahead: readers do not wait for the writer.
        _insist(connection, "PRAGMA journal_mode=WAL", f"PRAGMA synchronous={mode}", "PRAGMA foreign_keys=ON")

    return engine


def _begin(connection: Connection, *statements: str) -> None:
    """Begin a transaction of SQLite; a listener of the engine would be asked at each statement."""
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.dbapi_connection
        _insist(driver, *statements)

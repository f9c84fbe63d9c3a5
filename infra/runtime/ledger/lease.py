"""Leadership of a lane: a lease in the ledger with a fencing number that increases with each new leader.

Each write of a leader is one transaction that also renews the lease and fails if another process holds it, so a former
leader can change nothing, however late it continues.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from infra.errors import RuntimeQueueError
from infra.runtime.ledger.database import Duplicate
from infra.runtime.ledger.ledger import Ledger
from infra.runtime.ledger.schema import leases

STALL_S = 900.0  # a live leader on this machine may be in a long simulation, during which it cannot renew its lease


_RELEASED: dict[tuple[str, str], int] = {}  # fences of the leases that this process gave back last


class LeaseLost(RuntimeQueueError):
    """Another process leads the lane now; nothing was written."""


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_OF_LANE = leases.c.lane == sa.bindparam("its_lane")
_LOOK = sa.select(leases).where(_OF_LANE)
_TAKE = leases.update().where(
    _OF_LANE,
    leases.c.fence == sa.bindparam("its_fence"),
    sa.func.coalesce(leases.c.holder, "") == sa.bindparam("its_holder"),
)


class Lease:
    """The lease of a lane, held by this process. Get one with `acquire`."""

    def __init__(self, ledger: Ledger, name: str, fence: int, holder: str, ttl_s: float) -> None:
        self.ledger, self.name, self.fence, self.ttl_s = ledger, name, fence, ttl_s
        self._holder = holder

    @classmethod
    def acquire(cls, ledger: Ledger, name: str, ttl_s: float) -> Self | None:
        """Take the lease of a lane if it is free, expired, or its holder is dead; else None."""
        fence = _RELEASED.pop((ledger.database.url, name), None)
        if fence is not None and (taken := cls._take(ledger, name, fence, "", ttl_s)) is not None:
            return taken  # no other process has had the lease since
        now = time.time()
        with ledger.database.read() as connection:
            row = connection.execute(_LOOK, {"its_lane": name}).mappings().first()
        if row is None:
            try:
                with ledger.database.write(wait=False) as connection:
                    connection.execute(leases.insert().values(lane=name, fence=0, expires=0.0))
            except Duplicate:
                return None
            return cls.acquire(ledger, name, ttl_s)
        unmoved_s = _SEEN.unmoved_s((ledger.database.url, name), (row["fence"], row["expires"]))
        # Both the wall clock and the monotonic clock of this process count: the wall clock may have been set back.
        overdue_s = max(now - row["expires"], unmoved_s - ttl_s)
        if row["holder"] is not None and not _abandoned(dict(row), overdue_s):
            return None
        return cls._take(ledger, name, row["fence"], row["holder"] or "", ttl_s)

    @classmethod
    def _take(cls, ledger: Ledger, name: str, fence: int, holder: str, ttl_s: float) -> Self | None:
        """Take the lease from its last holder (empty = it is free), unless it has moved since; else None."""
        ours = uuid.uuid4().hex
        host, pid, started = _identity(os.getpid())
        taken = {"holder": ours, "host": host, "pid": pid, "started": started, "expires": time.time() + ttl_s}
        same = {"its_lane": name, "its_fence": fence, "its_holder": holder}
        with ledger.database.write(wait=False) as connection:
            moved = connection.execute(_TAKE, {**same, **taken, "fence": fence + 1})
        return cls(ledger, name, fence + 1, ours, ttl_s) if moved.rowcount == 1 else None

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: another process leads now.
        """
        with self.fenced(wait=False):
            pass

    def release(self) -> None:
        """Release the lease; nothing happens if another process holds it already."""
        with self.ledger.database.write(wait=False) as connection:
            freed = connection.execute(_TAKE, {**self._ours, "holder": None, "expires": 0.0})
        if freed.rowcount == 1:
            _RELEASED[self.ledger.database.url, self.name] = self.fence

    @contextmanager
    def fenced(self, *, wait: bool = True) -> Iterator[sa.Connection]:
        """Open a transaction that renews the lease; fails if another process holds it; see `Database.write`."""
        with self.ledger.database.write(wait=wait) as connection:
            renewed = connection.execute(_TAKE, {**self._ours, "expires": time.time() + self.ttl_s})
            if renewed.rowcount != 1:
                raise LeaseLost(f"lane {self.name} was taken over from the leader with fence {self.fence}")
            yield connection

    @property
    def _ours(self) -> dict[str, Any]:
        return {"its_lane": self.name, "its_fence": self.fence, "its_holder": self._holder}


class _Seen:
    """Time since a lease of another machine last changed, by the monotonic clock of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[tuple[str, str], tuple[tuple[int, float], float]] = {}

    def unmoved_s(self, lane: tuple[str, str], state: tuple[int, float]) -> float:
        """Return the seconds since the lease was first seen in this state."""
        now = time.monotonic()
        with self._lock:
            known = self._since.get(lane)
            if known is None or known[0] != state:
                known = self._since[lane] = (state, now)
            return now - known[1]


_SEEN = _Seen()


@lru_cache(maxsize=1)
def _identity(pid: int) -> tuple[str, int, str]:
    """Return host, process id and start time of this process; the host names kernel boot and process namespace."""
    host = socket.gethostname()
    for path in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        if path.exists():
            host += "|" + (path.read_text().strip() if path.name == "boot_id" else str(path.readlink()))
    return host, pid, _started(pid) or ""


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks, or None if it does not run (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _abandoned(row: Mapping[str, Any], overdue_s: float) -> bool:
    host, _, started = _identity(os.getpid())
    if row["host"] == host and started:  # the kernel knows better than the clock
        return _started(row["pid"]) != row["started"] or overdue_s > STALL_S
    return overdue_s > 0

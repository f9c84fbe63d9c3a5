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
_HELD: set[str] = set()  # holders of the leases that this process has; another one of its own was left behind


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

    def __init__(self, ledger: Ledger, name: str, ttl_s: float, fence: int, before: str = "") -> None:
        """Follow the holder of the last fence (empty = the lease is free); the first write takes the lease."""
        self.ledger, self.name, self.ttl_s, self.fence = ledger, name, ttl_s, fence + 1
        self._holder, self._before = uuid.uuid4().hex, (fence, before)
        self._taken = False

    @classmethod
    def acquire(cls, ledger: Ledger, name: str, ttl_s: float, *, at_once: bool = True) -> Self | None:
        """Take the lease of a lane if it is free, expired, or its holder is dead; else None.

        A holder of this process that was interrupted while it took or released the lease counts as dead.

        Args:
            ledger: the ledger.
            name: of the lane.
            ttl_s: seconds without a renewal after which another machine takes the lease.
            at_once: whether to take it now. Else, where it was free when last seen, the first write takes it, or fails.
        """
        fence = _RELEASED.pop((ledger.database.url, name), None)
        if fence is not None:
            expected = cls(ledger, name, ttl_s, fence)
            if not at_once or expected._take():
                return expected  # no other process has had the lease since
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
        lease = cls(ledger, name, ttl_s, row["fence"], row["holder"] or "")
        return lease if lease._take() else None

    def _take(self) -> bool:
        """Take the lease, unless it has moved since it was looked at; say whether it is held now."""
        try:
            self.renew()
        except LeaseLost:
            return False
        except BaseException:
            _HELD.discard(self._holder)
            raise
        return True

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: another process leads now.
        """
        with self.fenced(wait=False):
            pass

    def release(self) -> None:
        """Release the lease; nothing happens if it is released, or another process holds it already."""
        try:
            if self._holder in _HELD:
                with self.fenced(wait=False, release=True):
                    pass
        except LeaseLost:
            pass
        finally:
            _HELD.discard(self._holder)

    @contextmanager
    def fenced(self, *, wait: bool = True, release: bool = False) -> Iterator[sa.Connection]:
        """Open a transaction that takes or renews the lease; fails if another process holds it.

        Args:
            wait: see `Database.write`.
            release: whether the lease ends with it.
        """
        fence, holder = (self.fence, self._holder) if self._taken else self._before
        then: dict[str, Any] = {"holder": self._holder, "expires": time.time() + self.ttl_s}
        if release:
            then = {"holder": None, "expires": 0.0}
        if not self._taken:
            then |= dict(zip(("host", "pid", "started"), _identity(os.getpid()), strict=True), fence=self.fence)
            _HELD.add(self._holder)  # before another thread can see it in the ledger
        with self.ledger.database.write(wait=wait) as connection:
            same = {"its_lane": self.name, "its_fence": fence, "its_holder": holder}
            if connection.execute(_TAKE, same | then).rowcount != 1:
                _HELD.discard(self._holder)
                raise LeaseLost(f"lane {self.name} was taken over from the leader with fence {self.fence}")
            yield connection
        self._taken = True
        if release:
            _HELD.discard(self._holder)
            _RELEASED[self.ledger.database.url, self.name] = self.fence


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
    host, pid, started = _identity(os.getpid())
    if row["host"] == host and started:  # the kernel knows better than the clock
        left_behind = row["pid"] == pid and row["holder"] not in _HELD
        return left_behind or _started(row["pid"]) != row["started"] or overdue_s > STALL_S
    return overdue_s > 0

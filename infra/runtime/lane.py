"""What the leader of a lane may do with the ledger.

A lane is a road to one backend; whoever holds its lease dispatches for everybody. Each write of a leader is one
transaction that also renews the lease and fails if it has passed on, so a leader that was taken over, however late it
wakes, changes nothing any more. The fencing number rises with each new leader.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.errors import RuntimeQueueError
from infra.runtime.ledger import DONE, FAILED, PREPARED, SUBMITTED, SUBMITTING, Ledger, Part
from infra.runtime.schema import Duplicate, batches, calls, leases, parts

STALL_S = 900.0  # a live leader on this machine may be deep in one simulation, where it cannot renew its lease
_OPEN = (SUBMITTING, SUBMITTED)


class LeaseLost(RuntimeQueueError):
    """The lane is led by someone else now; nothing was written."""


@dataclass(frozen=True)
class Item:
    """A part on its way, with what the backend needs to know of its call; `slot` is its place in the job."""

    part: Part
    slot: int
    seed: int
    primitive: str
    projection: str
    call_executions: int
    options: Mapping[str, Any]

    @property
    def manner(self) -> str:
        """How the part is to be run: what a device that runs all parts of a job alike must have in common."""
        return json.dumps([self.primitive, self.part.shots, self.options.get("effective", {})], sort_keys=True)


@dataclass(frozen=True)
class Batch:
    """Items that travel in one job.

    Attributes:
        tag: what the job is found by after a crash.
        items: the parts whose results are not there yet.
        size: parts in the job, those included whose results are.
        state: state in the ledger.
        job_id: id of the job once it was sent.
    """

    tag: str
    items: tuple[Item, ...]
    size: int
    state: str = SUBMITTING
    job_id: str | None = None


@dataclass(frozen=True)
class Delivery:
    """The result of one part, or why there is none."""

    part: Part
    result: bytes = b""
    usage: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Limits:
    """What one job of a backend may hold.

    Attributes:
        executions: circuits times shots, or None.
        parts: PUBs or ranges of them.
        sets: parameter sets of one PUB; a larger one is cut into parts.
        samples: parameter sets times shots of one part, or None.
        alike: whether all parts of a job must agree on primitive, shots and options.
    """

    executions: int | None = None
    parts: int = 256
    sets: int = 512
    samples: int | None = None
    alike: bool = False

    def sets_per_part(self, shots: int) -> int:
        """Return how many parameter sets of a PUB travel together."""
        bounds = [limit // max(1, shots) for limit in (self.executions, self.samples) if limit is not None]
        return max(1, min([self.sets, *bounds]))

    def admit(self, count: int, executions: int) -> bool:
        """Say whether so many parts with so many executions fit into one job."""
        return count <= self.parts and (self.executions is None or executions <= self.executions)

    def mix(self, items: Sequence[Item]) -> bool:
        """Say whether parts may share a job, whatever their number."""
        return not self.alike or len({item.manner for item in items}) <= 1

    def split(self, items: Sequence[Item]) -> list[tuple[Item, ...]]:
        """Cut items into groups that fit; an item too large on its own travels alone."""
        groups: list[list[Item]] = []
        load = 0
        for item in sorted(items, key=lambda item: item.manner) if self.alike else items:
            full = not groups or not self.admit(len(groups[-1]) + 1, load + item.part.executions)
            if full or not self.mix((groups[-1][0], item)):
                groups.append([])
                load = 0
            groups[-1].append(item)
            load += item.part.executions
        return [tuple(group) for group in groups]


class Lane:
    """A lane whose lease this process holds.

    Get one with `Lane.acquire`.
    """

    def __init__(self, ledger: Ledger, name: str, fence: int, holder: str, ttl_s: float) -> None:
        self.ledger, self.name, self.fence, self.ttl_s = ledger, name, fence, ttl_s
        self._holder = holder

    @classmethod
    def acquire(cls, ledger: Ledger, name: str, ttl_s: float) -> Lane | None:
        """Take the lease of a lane if it is free, expired, or its holder is dead; else None."""
        now = time.time()
        with ledger.database.read() as connection:
            row = connection.execute(sa.select(leases).where(leases.c.lane == name)).mappings().first()
        if row is None:
            try:
                with ledger.database.write() as connection:
                    connection.execute(leases.insert().values(lane=name, fence=0, expires=0.0))
            except Duplicate:
                return None
            return cls.acquire(ledger, name, ttl_s)
        if row["holder"] is not None and not _abandoned(dict(row), now):
            return None
        holder, fence = uuid.uuid4().hex, row["fence"] + 1
        host, pid, started = _identity(os.getpid())
        with ledger.database.write() as connection:
            same = leases.c.holder.is_(None) if row["holder"] is None else leases.c.holder == row["holder"]
            moved = connection.execute(
                leases.update()
                .where(leases.c.lane == name, leases.c.fence == row["fence"], same)
                .values(fence=fence, holder=holder, host=host, pid=pid, started=started, expires=now + ttl_s)
            )
        return cls(ledger, name, fence, holder, ttl_s) if moved.rowcount == 1 else None

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: someone else leads now.
        """
        with self._fenced():
            pass

    def release(self) -> None:
        """Hand the lease on; nothing happens if it has passed on already."""
        with self.ledger.database.write() as connection:
            connection.execute(leases.update().where(*self._ours()).values(holder=None, expires=0.0))

    def claim(self, backend: str, limits: Limits) -> list[Batch]:
        """Turn the calls that wait longest into batches within the limits; empty if none waits.

        At least one call is taken, in as many batches as it needs; further ones while all fit into one batch.
        """
        now = time.time()
        with self._fenced() as connection:
            waiting = connection.execute(
                sa.select(calls)
                .where(calls.c.backend == backend, calls.c.state == PREPARED)
                .order_by(calls.c.created, calls.c.key)
                .limit(limits.parts)
            ).mappings()
            items: list[Item] = []
            keys: list[str] = []
            for call in waiting.all():
                unassigned = parts.c.batch.is_(None), parts.c.result.is_(None)
                more = _items(connection, parts.c.call == call["key"], *unassigned)
                load = sum(item.part.executions for item in (*items, *more))
                fits = limits.admit(len(items) + len(more), load) and limits.mix((*items[:1], *more))
                if items and not fits:
                    break
                keys.append(call["key"])
                items.extend(more)
            groups = [tuple(replace(i, slot=slot) for slot, i in enumerate(group)) for group in limits.split(items)]
            claimed = [Batch(uuid.uuid4().hex, group, len(group)) for group in groups]
            for batch in claimed:
                self._write_batch(connection, batch, now)
            _move(connection, calls.c.key.in_(keys), (PREPARED,), state=SUBMITTING)
            for key in keys:
                _finish(connection, key, None)  # a call of no PUBs, or whose parts all survived a crash
            return claimed

    def _write_batch(self, connection: sa.Connection, batch: Batch, now: float) -> None:
        executions = sum(item.part.executions for item in batch.items)
        row = {"tag": batch.tag, "lane": self.name, "state": SUBMITTING, "fence": self.fence, "created": now}
        connection.execute(batches.insert().values(**row, parts=len(batch.items), executions=executions, updated=now))
        for item in batch.items:
            connection.execute(parts.update().where(*_same(item.part)).values(batch=batch.tag, slot=item.slot))

    def submitted(self, tag: str, job_id: str) -> None:
        """Record that a batch has left under this job id."""
        with self._fenced() as connection:
            values = {"state": SUBMITTED, "job_id": job_id, "fence": self.fence, "updated": time.time()}
            connection.execute(batches.update().where(batches.c.tag == tag).values(**values))
            _move(connection, calls.c.key.in_(_calls_of(tag)), (SUBMITTING,), state=SUBMITTED)

    def deliver(self, deliveries: Sequence[Delivery], *, last_of: str | None = None) -> None:
        """Store results of parts; a call whose parts are all there is DONE, one with a failed part is FAILED.

        Args:
            deliveries: what came back.
            last_of: tag of the batch that is over with them.
        """
        with self._fenced() as connection:
            for item in deliveries:
                if item.error is None:
                    usage, facts = json.dumps(dict(item.usage)), json.dumps(dict(item.facts), default=str)
                    connection.execute(
                        parts.update()
                        .where(*_same(item.part), parts.c.result.is_(None))
                        .values(result=item.result, usage=usage, facts=facts)
                    )
            for key in dict.fromkeys(item.part.call for item in deliveries):
                errors = [item.error for item in deliveries if item.part.call == key and item.error]
                _finish(connection, key, errors[0] if errors else None)
            if last_of is not None:
                over = batches.update().where(batches.c.tag == last_of)
                connection.execute(over.values(state=DONE, updated=time.time()))

    def close(self, tag: str, state: str, error: str) -> None:
        """End a batch without results; the calls in it that are not finished end with it."""
        with self._fenced() as connection:
            values = {"state": state, "error": error, "updated": time.time()}
            connection.execute(batches.update().where(batches.c.tag == tag).values(**values))
            _move(connection, calls.c.key.in_(_calls_of(tag)), _OPEN, state=state, error=error)

    def left_behind(self) -> list[Batch]:
        """Return what earlier leaders of the lane left unfinished, with the parts that have no result yet."""
        with self.ledger.database.read() as connection:
            rows = connection.execute(
                sa.select(batches.c.tag, batches.c.parts, batches.c.state, batches.c.job_id)
                .where(batches.c.lane == self.name, batches.c.state.in_(_OPEN))
                .order_by(batches.c.created)
            ).all()
            unfinished = parts.c.result.is_(None)
            return [Batch(tag, _items(connection, parts.c.batch == tag, unfinished), *rest) for tag, *rest in rows]

    def put_back(self, tag: str, reason: str) -> None:
        """Let the calls of a batch that never left, or died with its process, wait again."""
        with self._fenced() as connection:
            of_batch = calls.c.key.in_(_calls_of(tag))
            _move(connection, of_batch, _OPEN, state=PREPARED, attempt=calls.c.attempt + 1)
            connection.execute(parts.update().where(parts.c.batch == tag, parts.c.result.is_(None)).values(batch=None))
            values = {"state": FAILED, "error": reason, "updated": time.time()}
            connection.execute(batches.update().where(batches.c.tag == tag).values(**values))

    def _ours(self) -> tuple[Any, ...]:
        return leases.c.lane == self.name, leases.c.fence == self.fence, leases.c.holder == self._holder

    @contextmanager
    def _fenced(self) -> Iterator[sa.Connection]:
        """Open a transaction that renews the lease, or fails if it is no longer ours."""
        with self.ledger.database.write() as connection:
            renewed = connection.execute(leases.update().where(*self._ours()).values(expires=time.time() + self.ttl_s))
            if renewed.rowcount != 1:
                raise LeaseLost(f"lane {self.name} was taken over from the leader with fence {self.fence}")
            yield connection


def _calls_of(tag: str) -> Any:
    return sa.select(parts.c.call).where(parts.c.batch == tag)


def _same(part: Part) -> tuple[Any, ...]:
    return parts.c.call == part.call, parts.c.position == part.position, parts.c.part == part.part


def _move(connection: sa.Connection, which: Any, source: tuple[str, ...], **values: Any) -> None:
    connection.execute(calls.update().where(which, calls.c.state.in_(source)).values(**values, updated=time.time()))


def _finish(connection: sa.Connection, key: str, error: str | None) -> None:
    """Move a call to its end if it has come to it."""
    if error is not None:
        _move(connection, calls.c.key == key, _OPEN, state=FAILED, error=error)
        return
    open_parts = sa.select(sa.func.count()).select_from(parts).where(parts.c.call == key, parts.c.result.is_(None))
    if connection.scalar(open_parts) == 0:
        _move(connection, calls.c.key == key, _OPEN, state=DONE, error=None)
        # The fingerprint is enough to recognise a replay; thousands of parameter sets would fill the disk.
        connection.execute(parts.update().where(parts.c.call == key).values(request=b""))


def _items(connection: sa.Connection, *which: Any) -> tuple[Item, ...]:
    names = ("call", "position", "part", "start", "circuit", "request", "circuits", "shots")
    extra = (parts.c.slot, calls.c.seed, calls.c.primitive, calls.c.projection, calls.c.executions, calls.c.options)
    rows = connection.execute(
        sa.select(*(parts.c[name] for name in names), *extra)
        .join(calls, calls.c.key == parts.c.call)
        .where(*which)
        .order_by(calls.c.created, parts.c.call, parts.c.position, parts.c.part)
    )
    return tuple(
        Item(
            Part(*row[:8]),
            row.slot or 0,
            row.seed,
            row.primitive,
            row.projection,
            row.executions,
            json.loads(row.options),
        )
        for row in rows
    )


@cache
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


def _abandoned(row: Mapping[str, Any], now: float) -> bool:
    expires: float = row["expires"]
    host, _, started = _identity(os.getpid())
    if row["host"] == host and started:  # the kernel knows better than the clock
        return _started(row["pid"]) != row["started"] or expires + STALL_S < now
    return expires < now

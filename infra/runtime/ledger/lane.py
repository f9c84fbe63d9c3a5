"""Operations of the leader of a lane on the ledger.

A lane contains the calls of one backend; the process that holds its lease (`infra.runtime.ledger.lease`) dispatches for
all callers. The transaction that claims a batch reserves its maximum bill, and the bill is charged when it ends.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from infra.errors import BadAnswer
from infra.runtime.ledger.batch import Batch, Bill, Delivery, Item, OpenBatch, Tariff
from infra.runtime.ledger.budget import HEADROOM, Gate, Room
from infra.runtime.ledger.charges import Amounts, Spender, bill_parts, reserve_again, settle
from infra.runtime.ledger.lease import Lease
from infra.runtime.ledger.ledger import (
    CANCELLED,
    CANCELLED_BY_CALLER,
    DONE,
    FAILED,
    OPEN,
    OUT,
    PREPARED,
    SUBMITTED,
    SUBMITTING,
    UNKNOWN,
    Part,
    calls_of,
    follow_parts,
    move,
    move_call,
    wait_again,
)
from infra.runtime.ledger.schema import batches, calls, parts
from infra.runtime.limits import Limits

LOADED = 32  # number of calls whose parts are read in one query
REFUSED = "BudgetExceeded: "


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_WAITING = sa.select(calls.c.key).where(calls.c.backend == sa.bindparam("lane"), calls.c.state == PREPARED)
_LONGEST_FIRST = (
    _WAITING.order_by(calls.c.created, calls.c.key).limit(sa.bindparam("most", type_=sa.Integer)).with_for_update()
)
_ANY_WAITING = _WAITING.limit(1)
_UNBILLED = batches.c.lane == sa.bindparam("lane"), batches.c.billed_s.is_(None)
_FIRST_TWO = _WAITING.add_columns(sa.exists().where(*_UNBILLED)).limit(2).with_for_update(of=calls)
_OPEN_COLUMNS = tuple(batches.c[f.name] for f in fields(OpenBatch) if f.name != "unwanted")
_STANDING = sa.select(*_OPEN_COLUMNS).where(*_UNBILLED).order_by(batches.c.created)
_PART_COLUMNS = tuple(parts.c[f.name] for f in fields(Part))
_OF_CALL = tuple(calls.c[name] for name in ("seed", "primitive", "projection", "executions", "options", "run", "stage"))
_OPEN_ITEMS = (
    sa.select(*_PART_COLUMNS, parts.c.slot, *_OF_CALL)
    .join(calls, calls.c.key == parts.c.call)
    .where(parts.c.result.is_(None))
    .order_by(calls.c.created, parts.c.call, parts.c.position, parts.c.part)
)
_LOOSE = _OPEN_ITEMS.where(parts.c.call.in_(sa.bindparam("keys", expanding=True)), parts.c.batch.is_(None))
_LOOSE_OF_ONE = _OPEN_ITEMS.where(parts.c.call == sa.bindparam("its_key"), parts.c.batch.is_(None))
_INSIDE = _OPEN_ITEMS.where(parts.c.batch == sa.bindparam("its_tag"))
_SAME_PART = tuple(parts.c[name] == sa.bindparam(f"its_{name}") for name in ("call", "position", "part"))
_BOARD = parts.update().where(*_SAME_PART)
_STORE = parts.update().where(*_SAME_PART, parts.c.result.is_(None))
_BATCH = batches.update().where(batches.c.tag == sa.bindparam("its_tag"))
_LEFT = sa.select(calls.c.key).where(
    calls.c.key.in_(sa.select(parts.c.call).where(parts.c.batch == sa.bindparam("its_tag"))), calls.c.state.in_(OUT)
)


class Lane(Lease):
    """A lane whose lease this process holds."""

    def look(self) -> tuple[bool, list[OpenBatch]]:
        """Return whether calls wait, and the unfinished or unbilled batches, the oldest first."""
        with self.ledger.database.read() as connection:
            waits = connection.execute(_ANY_WAITING, {"lane": self.name}).first() is not None
            rows = connection.execute(_STANDING, {"lane": self.name}).mappings().all()
            unwanted = set(connection.scalars(_cancelled(self.name))) if rows else set()
        return waits, [OpenBatch(**row, unwanted=row["tag"] in unwanted) for row in rows]

    def claim(
        self,
        backend: str,
        limits: Limits,
        tariff: Tariff | None = None,
        *,
        sent: bool = False,
        alone: str | None = None,
    ) -> list[Batch]:
        """Put the calls that have waited longest into batches within the limits; empty if none waits.

        At least one call is taken, in as many batches as it needs; further calls while all fit into one batch. A batch
        is PREPARED until it is `leaving`. With a tariff, what each batch may spend is reserved, never less than the
        time limit of its job. A call that exceeds a limit is refused; it waits if it would fit once current
        reservations are released.

        Args:
            backend: backend of the calls.
            limits: limits of the backend's jobs.
            tariff: correction and price for the reservation; None if nothing is billed.
            sent: whether a batch counts as sent at once, with its tag as job id: for jobs that end with the process.
            alone: claim this call, and only if no other one waits and no batch of an earlier leader is open.
        """
        now = time.time()
        with self.fenced(wait=False) as connection:
            gate = Gate(connection, now, tariff.usd_per_s) if tariff else None
            factor = tariff.factor if tariff else 1.0
            chosen: list[Item] = []
            keys: list[str] = []
            load = 0
            waiting = _alone(connection, backend, alone) if alone else _waiting(connection, backend, limits.parts)
            for key, more in waiting:
                load += sum(item.part.executions for item in more)
                fits = limits.admit(len(chosen) + len(more), load) and limits.mix((*chosen[:1], *more))
                if chosen and not fits:
                    break
                split = limits.split((*chosen, *more))
                requested = _sum(needed(group, factor, limits) for group in split) if gate and gate.limited else {}
                room = gate.room(requested) if gate and requested else Room()
                if room.scale < 1:
                    load -= sum(item.part.executions for item in more)
                    if room.final:
                        move_call(connection, key, OPEN, state=FAILED, error=REFUSED + room.reason)
                    continue
                keys.append(key)
                chosen.extend(more)
            groups = [tuple(replace(i, slot=slot) for slot, i in enumerate(group)) for group in limits.split(chosen)]
            requests = [needed(group, factor, limits) for group in groups] if gate else [{} for _ in groups]
            scale = min(HEADROOM, gate.room(_sum(requests)).scale) if gate else 1.0
            claimed = [
                self._write_batch(connection, group, now, gate, scaled(requested, scale, limits), sent)
                for group, requested in zip(groups, requests, strict=True)
            ]
            for key in keys:
                move_call(connection, key, (PREPARED,), state=SUBMITTED if sent else SUBMITTING)
            for key in set(keys) - {item.part.call for item in chosen}:
                follow_parts(connection, key, OUT)  # a call without PUBs, or with all results stored
            return claimed

    def _write_batch(
        self,
        connection: sa.Connection,
        items: tuple[Item, ...],
        now: float,
        gate: Gate | None,
        requested: Amounts,
        sent: bool,
    ) -> Batch:
        batch = Batch(uuid.uuid4().hex, items, len(items), sum(requested.values()) if gate else None)
        row = {"tag": batch.tag, "lane": self.name, "state": PREPARED, "fence": self.fence, "created": now}
        row |= {"state": SUBMITTED, "job_id": batch.tag} if sent else {}
        row |= {"executions": sum(item.part.executions for item in items), "parts": len(items), "updated": now}
        row |= {"estimate_s": sum(needed(items, 1.0).values()) if gate else None, "max_qpu_s": batch.max_qpu_s}
        connection.execute(batches.insert(), row)
        connection.execute(_BOARD, [{**_same(item.part), "batch": batch.tag, "slot": item.slot} for item in items])
        if gate is not None:
            gate.reserve(batch.tag, requested)
        return batch

    def leaving(self, tag: str) -> None:
        """Record that a submission is about to be sent: from now on its job may exist.

        Raises:
            LeaseLost: another process leads now; the batch must not be sent.
        """
        with self.fenced() as connection:
            connection.execute(_BATCH, {"its_tag": tag, "state": SUBMITTING, "sent": time.time(), "refusal": None})

    def unclear(self, tag: str, verdict: str, text: str) -> None:
        """Record a response to a submission without a job id, and the consequence if no job is found.

        Args:
            tag: of the batch.
            verdict: see `infra.errors.SubmissionUnclear`.
            text: text of the response.
        """
        with self.fenced() as connection:
            connection.execute(_BATCH, {"its_tag": tag, "refusal": json.dumps([verdict, text]), "error": text})

    def submitted(self, tag: str, job_id: str, duplicates: Sequence[str] = ()) -> bool:
        """Record that a batch has left under this job id; False if it was ended or put back meanwhile.

        Args:
            tag: of the batch.
            job_id: the job that is followed.
            duplicates: further jobs that the service created for the batch.

        Raises:
            BadAnswer: the job belongs to another batch.
        """
        with self.fenced() as connection:
            same = sa.select(batches.c.tag).where(batches.c.lane == self.name, batches.c.job_id == job_id)
            not_ours = batches.c.tag != tag, sa.func.coalesce(batches.c.duplicate_of, "") != tag
            other = connection.scalar(same.where(*not_ours).limit(1))
            if other is not None:
                raise BadAnswer(f"the service names job {job_id}, which belongs to batch {other}")
            open_ = batches.update().where(batches.c.tag == tag, batches.c.state.in_((*OPEN, UNKNOWN)))
            values = {"state": SUBMITTED, "job_id": job_id, "error": None, "fence": self.fence, "updated": time.time()}
            if connection.execute(open_.values(**values, refusal=None)).rowcount != 1:
                return False
            self._note_duplicates(connection, tag, duplicates)
            alone = sa.select(batches.c.tag).where(batches.c.state.in_((PREPARED, SUBMITTING, UNKNOWN)))
            elsewhere = sa.select(parts.c.call).where(parts.c.batch.in_(alone), parts.c.result.is_(None))
            whole = sa.and_(calls.c.key.in_(calls_of(tag)), calls.c.key.not_in(elsewhere))
            move(connection, whole, (SUBMITTING, UNKNOWN), state=SUBMITTED, error=None)
            return True

    def disown(self, tag: str, reason: str) -> None:
        """Record that the job followed for a batch is not its own; the batch's job is looked for by its tag again."""
        with self.fenced() as connection:
            values = {"state": SUBMITTING, "job_id": None, "error": reason, "flagged": True}
            connection.execute(_BATCH, {"its_tag": tag, **values})
            move(connection, calls.c.key.in_(calls_of(tag)), (SUBMITTED,), state=SUBMITTING)

    def attempts(self, tag: str) -> int:
        """Return the largest number of submissions of any call of a batch."""
        with self.ledger.database.read() as connection:
            query = sa.select(sa.func.max(calls.c.attempt)).where(calls.c.key.in_(calls_of(tag)))
            return int(connection.scalar(query) or 1)

    def trying(self, tag: str) -> None:
        """Count a leader that begins to read the result of a batch, to detect results that crash every leader."""
        with self.fenced(wait=False) as connection:
            connection.execute(batches.update().where(batches.c.tag == tag).values(tries=batches.c.tries + 1))

    def survived(self, tag: str) -> None:
        """Reset the count of leaders that began to read a result, because this leader has finished."""
        with self.fenced(wait=False) as connection:
            connection.execute(_BATCH, {"its_tag": tag, "tries": 0})

    def recent(self, since: float) -> list[tuple[str, float, float]]:
        """Return the batches sent since a time whose job is known or given up: tag, time of sending, last listing."""
        query = sa.select(batches.c.tag, batches.c.sent, sa.func.coalesce(batches.c.looked, 0.0)).where(
            batches.c.lane == self.name,
            batches.c.sent >= since,
            batches.c.duplicate_of.is_(None),
            batches.c.state.in_((SUBMITTED, DONE, FAILED, CANCELLED)),
        )
        with self.ledger.database.read() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(batches.c.sent))]

    def looked(self, tag: str, jobs: Sequence[str]) -> int:
        """Record that the jobs under a tag were listed; return the number of unknown jobs.

        Unknown jobs are followed from now on: cancelled while they are queued, else charged and flagged.
        """
        with self.fenced(wait=bool(jobs)) as connection:
            connection.execute(_BATCH, {"its_tag": tag, "looked": time.time()})
            return self._note_duplicates(connection, tag, jobs)

    def deliver(
        self,
        deliveries: Sequence[Delivery],
        *,
        last_of: str | None = None,
        bill: Bill | None = None,
        release: bool = False,
    ) -> set[str]:
        """Store results of parts; a call is DONE once all its parts have a result, FAILED if a part failed.

        Args:
            deliveries: results or errors of parts.
            last_of: tag of the batch that ends with them; its calls without a result are FAILED.
            bill: bill of that batch.
            release: whether the lease ends with this write.

        Returns:
            The calls that are DONE with this write.
        """
        done = set()
        with self.fenced(release=release) as connection:
            if last_of is not None:  # first, because who wants a call again holds it back by this row
                self._end(connection, last_of, DONE, None, bill or Bill())
            if results := [item.row() for item in deliveries if item.error is None]:
                connection.execute(_STORE, results)
            for key in dict.fromkeys(item.part.call for item in deliveries):
                errors = [item.error for item in deliveries if item.part.call == key and item.error]
                if errors:
                    final = any(item.permanent for item in deliveries if item.part.call == key)
                    move_call(connection, key, OUT, state=FAILED, error=errors[0], permanent=final)
                elif follow_parts(connection, key, (*OUT, UNKNOWN)) == DONE:
                    done.add(key)
            if last_of is not None:
                for key in list(connection.scalars(_LEFT, {"its_tag": last_of})):
                    follow_parts(connection, key, OUT)
        return done

    def close(self, tag: str, state: str, error: str, bill: Bill | None = None, *, permanent: bool = False) -> None:
        """End a batch without results; the calls in it that are not finished end with it.

        Args:
            tag: of the batch.
            state: FAILED, CANCELLED, UNKNOWN, or DONE for a duplicate.
            error: reason.
            bill: charge of the batch.
            permanent: whether its calls are sent again only by an explicit `queue retry`.
        """
        with self.fenced() as connection:
            self._end(connection, tag, state, error, bill or Bill(None if state == UNKNOWN else 0.0))
            values = {"state": state, "error": error, "permanent": permanent}
            # A call of which another part waits to be sent again also fails: it could not be answered any more.
            waiting = (PREPARED,) if state in (FAILED, CANCELLED) else ()
            move(connection, calls.c.key.in_(calls_of(tag)), (*waiting, *OUT, UNKNOWN), **values)

    def put_back(self, tag: str, reason: str) -> None:
        """Let the calls of a batch that was never sent, or ended with its process, wait again."""
        with self.fenced() as connection:
            self._end(connection, tag, FAILED, reason, Bill())
            wait_again(connection, tag)

    def settle(self, tag: str, bill: Bill) -> None:
        """Charge the bill of a batch that ended before the bill was known."""
        with self.fenced() as connection:
            self._charge(connection, tag, bill)
            if bill.seconds is not None:
                bill_parts(connection, tag, bill.seconds)

    def leave(self, tag: str) -> bool:
        """Remove cancelled calls from a batch that contains other calls; return False if there are no others."""
        inside, asked = calls.c.key.in_(calls_of(tag)), calls.c.cancel_requested.is_not(None)
        with self.fenced() as connection:
            out = sa.select(calls.c.key).where(inside, calls.c.state.in_(OUT), ~asked).limit(1)
            if connection.execute(out).first() is None:
                return False
            move(connection, sa.and_(inside, asked), OUT, state=CANCELLED, error=CANCELLED_BY_CALLER)
            return True

    def load(self, tag: str) -> Batch:
        """Return a batch with the parts that have no result yet."""
        with self.ledger.database.read() as connection:
            columns = (batches.c.parts, batches.c.max_qpu_s)
            row = connection.execute(sa.select(*columns).where(batches.c.tag == tag)).one()
            return Batch(tag, _items(connection.execute(_INSIDE, {"its_tag": tag})), *row)

    def _end(self, connection: sa.Connection, tag: str, state: str, error: str | None, bill: Bill) -> None:
        self._note_duplicates(connection, tag, bill.duplicates)
        self._charge(connection, tag, bill, state=state, error=error, updated=time.time())

    def _charge(self, connection: sa.Connection, tag: str, bill: Bill, **values: Any) -> None:
        """Charge a bill, and change further values of its batch with it."""
        values["billed_s"] = bill.seconds
        if bill.note is not None:
            values |= {"note": bill.note, "flagged": True}
        connection.execute(_BATCH, {"its_tag": tag, **values})
        if bill.seconds is not None and not bill.free:
            settle(connection, tag, bill.seconds)

    def _note_duplicates(self, connection: sa.Connection, tag: str, jobs: Sequence[str]) -> int:
        """Record further jobs that the service created for a batch and reserve their maximum bill; return how many."""
        if not jobs:
            return 0
        query = sa.select(batches.c.job_id).where(batches.c.lane == self.name, batches.c.job_id.in_(set(jobs)))
        known, now = set(connection.scalars(query)), time.time()
        new = [job_id for job_id in dict.fromkeys(jobs) if job_id not in known]
        for job_id in new:
            row = {"tag": uuid.uuid4().hex, "lane": self.name, "state": SUBMITTED, "fence": self.fence}
            row |= {"job_id": job_id, "parts": 0, "executions": 0, "created": now, "updated": now, "sent": now}
            original = sa.select(batches.c.max_qpu_s).where(batches.c.tag == tag).scalar_subquery()
            connection.execute(batches.insert().values(**row, max_qpu_s=original, duplicate_of=tag, flagged=True))
            reserve_again(connection, tag, str(row["tag"]))
            connection.execute(_BATCH, {"its_tag": tag, "flagged": True})
        return len(new)


def needed(group: Sequence[Item], factor: float, limits: Limits | None = None) -> Amounts:
    """Return the QPU seconds that a batch is expected to be billed, by run and stage.

    Fixed costs of a job are shared equally by its parts, so that a call that joins a job does not raise the cost of the
    others.

    Args:
        group: items of the batch.
        factor: correction factor of the estimates.
        limits: limits of jobs; if given, the sum is rounded up to a time limit that a job can have.
    """
    amounts: dict[Spender, float] = defaultdict(float)
    once_s = max(item.part.overhead_s for item in group) / len(group)
    for item in group:
        own_s = item.part.estimate_s - item.part.overhead_s
        amounts[item.run, item.stage] += factor * (own_s + once_s)
    return amounts if limits is None else scaled(amounts, 1.0, limits)


def scaled(amounts: Amounts, scale: float, limits: Limits) -> Amounts:
    """Return amounts times a factor of at least 1, as far as a job's time limit can be set to their sum."""
    total = sum(amounts.values())
    if total <= 0:
        return amounts
    factor = limits.reserve_s(total, scale * total) / total
    return {spender: factor * seconds for spender, seconds in amounts.items()}


def _sum(requests: Iterable[Amounts]) -> Amounts:
    total: dict[Spender, float] = defaultdict(float)
    for requested in requests:
        for spender, seconds in requested.items():
            total[spender] += seconds
    return total


def _cancelled(lane: str) -> Any:
    """Return the tags of unfinished batches in which a caller cancelled a call."""
    asked = calls.c.cancel_requested.is_not(None), calls.c.state.in_((*OUT, CANCELLED))
    inside = sa.select(parts.c.batch).join(calls, calls.c.key == parts.c.call)
    return inside.join(batches, batches.c.tag == parts.c.batch).where(
        batches.c.lane == lane, batches.c.billed_s.is_(None), *asked
    )


def _waiting(connection: sa.Connection, backend: str, most: int) -> Iterator[tuple[str, tuple[Item, ...]]]:
    """Yield the calls that have waited longest, each with its parts that are neither in flight nor have a result."""
    keys = list(connection.scalars(_LONGEST_FIRST, {"lane": backend, "most": most}))
    for start in range(0, len(keys), LOADED):
        some = keys[start : start + LOADED]
        loose = _items(connection.execute(_LOOSE, {"keys": some}))
        loaded = {key: tuple(items) for key, items in groupby(loose, lambda item: item.part.call)}
        yield from ((key, loaded.get(key, ())) for key in some)


def _alone(connection: sa.Connection, backend: str, key: str) -> Iterator[tuple[str, tuple[Item, ...]]]:
    """Yield a call as `_waiting` does, if it is the only one that waits and no batch is open."""
    first_two = connection.execute(_FIRST_TWO, {"lane": backend}).all()
    if [tuple(row) for row in first_two] == [(key, False)]:
        yield key, _items(connection.execute(_LOOSE_OF_ONE, {"its_key": key}))


def _same(part: Part) -> dict[str, Any]:
    return {"its_call": part.call, "its_position": part.position, "its_part": part.part}


def _items(rows: Iterable[Any]) -> tuple[Item, ...]:
    return tuple(
        Item(
            part=Part(*row[: len(_PART_COLUMNS)]),
            slot=row.slot or 0,
            seed=row.seed,
            primitive=row.primitive,
            projection=row.projection,
            call_executions=row.executions,
            options=json.loads(row.options),
            run=row.run,
            stage=row.stage,
        )
        for row in rows
    )

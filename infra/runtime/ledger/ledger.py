"""The write-ahead record of every call to a quantum backend.

A call is one `run()` of a sampler or estimator; its PUBs are stored in parts, each small enough for one job. Every
submission is recorded here before it is sent, so that a process killed at any moment loses no finished work. Callers
write PREPARED; only the leader of a lane (`infra.runtime.ledger.lane`) changes the state of calls further.

    PREPARED -> SUBMITTING -> SUBMITTED -> DONE | FAILED | CANCELLED
                          |-> UNKNOWN: a job may or may not exist; SUBMITTED once it is found, else a user resolves it

A FAILED or CANCELLED call that is requested again waits again, or rejoins its job if that is still in flight. Batches
have the same states; a claimed batch stays PREPARED until it is sent, so that batches that were never sent are known.

The module uses SQL only, no circuits and no arrays, so that it loads fast.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.errors import BadInput, RuntimeQueueError
from infra.runtime.backends.usage import Projection
from infra.runtime.ledger.charges import bill_parts, settle
from infra.runtime.ledger.database import Database, Duplicate
from infra.runtime.ledger.schema import batches, calls, circuits, parts, projections

PREPARED, SUBMITTING, SUBMITTED = "PREPARED", "SUBMITTING", "SUBMITTED"
DONE, FAILED, CANCELLED, UNKNOWN = "DONE", "FAILED", "CANCELLED", "UNKNOWN"
FINAL = (DONE, FAILED, CANCELLED, UNKNOWN)
OUT = (SUBMITTING, SUBMITTED)
OPEN = (PREPARED, *OUT)
STATES = (*OPEN, *FINAL)


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_OF_KEY = calls.c.key == sa.bindparam("its_key")
_FIND = sa.select(calls).where(_OF_KEY)
_STATE = sa.select(calls.c.state, calls.c.error).where(_OF_KEY)
_STORED = sa.select(circuits.c.digest).where(circuits.c.digest.in_(sa.bindparam("digests", expanding=True)))
_WHERE_PARTS_ARE = (
    sa.select(parts.c.batch, batches.c.state)
    .outerjoin(batches, batches.c.tag == parts.c.batch)
    .where(parts.c.call == sa.bindparam("its_key"), parts.c.result.is_(None))
    .distinct()
)
_RESULTS = (
    sa.select(parts.c.position, parts.c.part, parts.c.circuit, parts.c.result, parts.c.usage, parts.c.facts)
    .where(parts.c.call == sa.bindparam("its_key"))
    .order_by(parts.c.position, parts.c.part)
)

CANCELLED_BY_CALLER = "cancelled by its caller"
NOTHING_CAME = "its job is over and brought no result for all of its PUBs"


@dataclass(frozen=True)
class Call:
    """One `run()` of a primitive.

    Attributes:
        key: the replay key.
        scope: run, stage, subtask, problem, arm, repetition.
        ordinal: number of the call within the arm's execution.
        primitive: `sampler` or `estimator`.
        fingerprint: hash of everything that determines the distribution of the result.
        content: hash by which a finished call of another run is found.
        executions: circuits times shots over all PUBs.
        projection: device on which QPU time is projected.
        options: requested, effective and ineffective options.
        outline: how its results are assembled, as JSON.
    """

    key: str
    scope: Mapping[str, Any]
    ordinal: int
    primitive: str
    backend: str
    calibration: str
    fingerprint: str
    content: str
    seed: int
    executions: int
    projection: str
    options: Mapping[str, Any]
    outline: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the values of the call's columns."""
        fields = {name: value for name, value in vars(self).items() if name not in ("scope", "options")}
        return {**self.scope, **fields, "options": json.dumps(self.options, sort_keys=True, default=str)}


@dataclass(frozen=True)
class Part:
    """A PUB, or a range of its parameter sets.

    Attributes:
        call: replay key of the call.
        position: index of the PUB in its call.
        part: index of the range in its PUB.
        start: first parameter set of the range.
        circuit: digest of the circuit.
        request: encoded parameter values, observables and precision.
        circuits: number of parameter sets (for an estimator: of expectation values).
        shots: shots for each parameter set.
        estimate_s: estimated bill of a job with this part alone, QPU seconds, by formula.
        overhead_s: the part of `estimate_s` that is a fixed cost of each job.
    """

    call: str
    position: int
    part: int
    start: int
    circuit: str
    request: bytes
    circuits: int
    shots: int
    estimate_s: float = 0.0
    overhead_s: float = 0.0

    @property
    def executions(self) -> int:
        """Circuits times shots, at least the circuits."""
        return self.circuits * max(1, self.shots)


def calls_of(tag: str) -> Any:
    """Return the keys of the calls in a batch."""
    return sa.select(parts.c.call).where(parts.c.batch == tag)


def move(connection: sa.Connection, which: Any, source: tuple[str, ...], **values: Any) -> None:
    """Change calls that are in one of the source states."""
    connection.execute(calls.update().where(which, calls.c.state.in_(source)).values(**values, updated=time.time()))


def move_call(connection: sa.Connection, key: str, source: tuple[str, ...], **values: Any) -> bool:
    """Change one call if it is in one of the source states and say whether it was; the values are plain, not SQL."""
    return connection.execute(_moved(source), {"its_key": key, **values, "updated": time.time()}).rowcount == 1


@lru_cache
def _moved(source: tuple[str, ...]) -> sa.Update:
    """Return the statement that changes a call which is in one of some states; a list in it would take longer."""
    return calls.update().where(_OF_KEY, sa.or_(*(calls.c.state == state for state in source)))


def follow_parts(connection: sa.Connection, key: str, source: tuple[str, ...], **values: Any) -> str | None:
    """Move a call, if it is in one of the source states, to the state that its parts imply, and return that."""
    rows = connection.execute(_WHERE_PARTS_ARE, {"its_key": key}).all()
    claimed = {PREPARED: SUBMITTING}  # a batch that has not been sent yet holds its parts like one that has
    found = {PREPARED if tag is None else claimed.get(state, state) for tag, state in rows}
    ends = FAILED if found else DONE
    state = next((state for state in (PREPARED, UNKNOWN, SUBMITTED, SUBMITTING) if state in found), ends)
    if state == FAILED:
        values = {"error": NOTHING_CAME}
    return state if move_call(connection, key, source, state=state, **values) else None


def wait_again(connection: sa.Connection, tag: str) -> None:
    """Let the calls of a batch that never ran wait again, except those that were cancelled meanwhile."""
    inside = calls.c.key.in_(calls_of(tag)), calls.c.state.in_((*OUT, UNKNOWN))
    found = connection.execute(sa.select(calls.c.key, calls.c.cancel_requested).where(*inside)).all()
    connection.execute(parts.update().where(parts.c.batch == tag, parts.c.result.is_(None)).values(batch=None))
    for key, cancelled in found:
        if cancelled is None:
            connection.execute(calls.update().where(calls.c.key == key).values(attempt=calls.c.attempt + 1))
            follow_parts(connection, key, (*OUT, UNKNOWN), error=None)
        else:
            move_call(connection, key, (*OUT, UNKNOWN), state=CANCELLED, error=CANCELLED_BY_CALLER)


class Ledger:
    """Operations of callers on the ledger.

    Args:
        location: a path (SQLite) or any SQLAlchemy URL.
        create: create missing tables.
        durable: wait for the disk at each write.

    Raises:
        BadInput: the ledger does not exist, or has another schema version.
        RuntimeQueueError: the database cannot be used; the message says what to do.
    """

    def __init__(self, location: str | Path, *, create: bool = True, durable: bool = True) -> None:
        self.database = Database(location, create=create, durable=durable)
        self._stored: set[str] = set()
        self._growing: set[str] = set()  # runs of which the last call that was recorded here was new

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the call with this replay key, or None."""
        with self.database.read() as connection:
            row = connection.execute(_FIND, {"its_key": key}).mappings().first()
            return dict(row) if row else None

    def expects_new(self, run: str) -> bool:
        """Say whether the next call of a run is probably new, so that recording it is the fastest way to find out."""
        return run in self._growing

    def state(self, key: str) -> tuple[str, str | None]:
        """Return state and error of a call.

        Raises:
            RuntimeQueueError: the call is not in the ledger.
        """
        with self.database.read() as connection:
            row = connection.execute(_STATE, {"its_key": key}).first()
        if row is None:
            raise RuntimeQueueError(f"call {key} has vanished from {self.database.name}; was the file replaced?")
        return row[0], row[1]

    def batch_state(self, tag: str) -> str:
        """Return the state of a batch."""
        with self.database.read() as connection:
            return str(connection.scalar(sa.select(batches.c.state).where(batches.c.tag == tag)))

    def missing_circuits(self, digests: Iterable[str]) -> set[str]:
        """Return the digests whose circuit is not stored yet; stored circuits are never removed."""
        wanted = set(digests) - self._stored
        if wanted:
            with self.database.read() as connection:
                there = set(connection.scalars(_STORED, {"digests": wanted}))
            self._stored |= there
            wanted -= there
        return wanted

    def prepare(self, call: Call, pieces: Sequence[Part], qpy: Mapping[str, bytes]) -> bool:
        """Record a call before it is sent; return False if the same call has been recorded meanwhile.

        Args:
            call: the call.
            pieces: parts of the call.
            qpy: circuits by digest that may not be stored yet.
        """
        now = time.time()
        try:
            with self.database.write(wait=False) as connection:
                there = set(connection.scalars(_STORED, {"digests": set(qpy)})) if qpy else set()
                if new := [{"digest": digest, "qpy": text} for digest, text in qpy.items() if digest not in there]:
                    connection.execute(circuits.insert(), new)
                row = {**call.row(), "state": PREPARED, "created": now, "updated": now}
                connection.execute(calls.insert(), row)
                if pieces:
                    connection.execute(parts.insert(), [dict(vars(piece)) for piece in pieces])
        except Duplicate:
            if self.find(call.key) is None:  # two callers may store a new circuit at once
                return self.prepare(call, pieces, qpy)
            self._growing.discard(call.scope["run"])
            return False
        self._growing.add(call.scope["run"])
        return True

    def adopt(self, call: Call) -> bool:
        """Answer a call with the results of a finished call of the same content; return False if there is none."""
        now = time.time()
        columns = [column for column in parts.c if column.name != "call"]
        try:
            with self.database.write() as connection:
                source = connection.scalar(
                    sa.select(calls.c.key)
                    .where(calls.c.content == call.content, calls.c.state == DONE)
                    .order_by(calls.c.created)
                    .limit(1)
                )
                if source is None or connection.scalar(sa.select(calls.c.key).where(calls.c.key == call.key)):
                    return False
                connection.execute(
                    calls.insert().values(**call.row(), state=DONE, reused_from=source, created=now, updated=now)
                )
                copied = sa.select(sa.literal(call.key), *columns).where(parts.c.call == source)
                connection.execute(parts.insert().from_select(["call", *(c.name for c in columns)], copied))
        except Duplicate:  # the same call was recorded meanwhile
            return False
        return True

    def prepare_again(self, key: str) -> None:
        """Retry a failed or cancelled call; parts that have a result keep it.

        Parts that are or may be in flight are not sent a second time: the call rejoins its job, and a pending request
        to cancel is withdrawn. The caller must have checked whether the failure is permanent.
        """
        unfinished = parts.c.call == key, parts.c.result.is_(None)
        with self.database.write() as connection:
            # Locked, so that no job ends between this read and the change of state.
            jobs = sa.select(batches.c.tag).where(batches.c.tag.in_(sa.select(parts.c.batch).where(*unfinished)))
            out = jobs.where(batches.c.state.in_((*OPEN, UNKNOWN))).order_by(batches.c.tag).with_for_update()
            held = list(connection.scalars(out))
            row = connection.execute(sa.select(calls.c.state).where(calls.c.key == key).with_for_update()).first()
            again = {"error": None, "cancel_requested": None, "permanent": False}
            if row is not None and row.state in (FAILED, CANCELLED):
                free = sa.or_(parts.c.batch.is_(None), parts.c.batch.not_in(held))
                connection.execute(parts.update().where(*unfinished, free).values(batch=None))
                move(connection, calls.c.key == key, (row.state,), state=PREPARED, attempt=calls.c.attempt + 1, **again)
                follow_parts(connection, key, (PREPARED,))
            else:
                move(connection, calls.c.key == key, OUT, **again)

    def request_cancel(self, *, run: str | None = None, key: str | None = None) -> int:
        """Cancel the open calls of a run, or one call, and return the number of cancelled calls.

        Waiting calls are cancelled at once. The leader of the lane cancels calls in flight, and their job once it has
        no other call. A call of a batch with unknown outcome is cancelled when that batch is resolved.

        Raises:
            ValueError: neither a run nor a key is given; that would cancel all calls.
        """
        if run is None and key is None:
            raise ValueError("name a run or a key")
        which = [column == value for column, value in ((calls.c.run, run), (calls.c.key, key)) if value is not None]
        now = time.time()
        with self.database.write() as connection:
            rows = sa.select(calls.c.key, calls.c.state).where(*which, calls.c.state.in_((*OPEN, UNKNOWN)))
            found = connection.execute(rows.order_by(calls.c.created, calls.c.key).with_for_update()).all()
            chosen = calls.update().where(calls.c.key == sa.bindparam("chosen"))
            if waiting := [{"chosen": name} for name, state in found if state == PREPARED]:
                values = {"state": CANCELLED, "error": CANCELLED_BY_CALLER, "updated": now}
                connection.execute(chosen.values(**values), waiting)
            if out := [{"chosen": name} for name, state in found if state != PREPARED]:
                connection.execute(chosen.values(cancel_requested=now), out)
            return sum(state != UNKNOWN for _, state in found)

    def resolve(self, tag: str, job_id: str | None) -> None:
        """Resolve a batch that may or may not have been sent.

        Args:
            tag: tag of the parked batch.
            job_id: the job found under the tag, whose results are then fetched; None = it never ran: its calls wait
                again, except those that were cancelled meanwhile, and its reservation is released.

        Raises:
            BadInput: no parked batch has this tag, or the job belongs to another batch.
        """
        with self.database.write() as connection:
            lane = sa.select(batches.c.lane).where(batches.c.tag == tag).scalar_subquery()
            not_ours = batches.c.tag != tag, sa.func.coalesce(batches.c.duplicate_of, "") != tag
            same = sa.select(batches.c.tag).where(batches.c.lane == lane, batches.c.job_id == job_id, *not_ours)
            if job_id is not None and (other := connection.scalar(same.limit(1))) is not None:
                raise BadInput(f"job {job_id} belongs to batch {other}, not to {tag}; look for the tag {tag} again")
            state = SUBMITTED if job_id is not None else FAILED
            error = None if job_id is not None else "it never ran, as was said by hand"
            parked = batches.update().where(batches.c.tag == tag, batches.c.state == UNKNOWN)
            values = {"state": state, "job_id": job_id, "error": error, "updated": time.time(), "tries": 0}
            if job_id is None:
                values["billed_s"] = 0.0
            if connection.execute(parked.values(**values)).rowcount != 1:
                raise BadInput(f"no batch {tag} is parked; ketcycle queue resolve lists those that are")
            if job_id is not None:
                for key in list(connection.scalars(calls_of(tag).distinct())):
                    follow_parts(connection, key, (UNKNOWN,), error=None)
                return
            settle(connection, tag, 0.0)
            wait_again(connection, tag)

    def settle(self, tag: str, seconds: float) -> None:
        """Charge a finished batch the QPU seconds given by a user instead of the bill of the service.

        A batch that is parked although its job is known ends with this: its calls have failed.

        Raises:
            BadInput: the batch does not exist, its job has not ended, or the seconds are negative or not a number.
        """
        if not 0 <= seconds < math.inf:
            raise BadInput(f"a bill is a number of seconds from 0, not {seconds}")
        with self.database.write() as connection:
            row = connection.execute(sa.select(batches).where(batches.c.tag == tag)).mappings().first()
            if row is None:
                raise BadInput(f"there is no batch {tag}; ketcycle queue settle lists those without a sound bill")
            lost = row["state"] == UNKNOWN and row["job_id"] is not None
            if not lost and row["state"] not in (DONE, FAILED, CANCELLED):
                raise BadInput(f"batch {tag} is {row['state']}: its job is not over; see ketcycle queue resolve")
            values = {"billed_s": seconds, "note": "settled by hand", "updated": time.time()}
            if lost:
                values |= {"state": FAILED}
                error = f"{row['error']}; it was given up by hand"
                move(connection, calls.c.key.in_(calls_of(tag)), (UNKNOWN,), state=FAILED, error=error, permanent=True)
            connection.execute(batches.update().where(batches.c.tag == tag).values(**values))
            settle(connection, tag, seconds)
            bill_parts(connection, tag, seconds)

    def results(self, key: str) -> list[dict[str, Any]]:
        """Return the parts of a call in order: position, part, circuit, result, usage, facts."""
        with self.database.read() as connection:
            rows = connection.execute(_RESULTS, {"its_key": key}).mappings()
            return [{**row, **{name: json.loads(row[name] or "{}") for name in ("usage", "facts")}} for row in rows]

    def circuits(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return stored circuits by digest."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(circuits).where(circuits.c.digest.in_(set(digests)))).all()
            return {digest: bytes(qpy) for digest, qpy in rows}

    def projection(self, circuit: str, device: str) -> Projection | None:
        """Return the projection of a circuit on a device, if known."""
        columns = [projections.c[item.name] for item in fields(Projection)]
        with self.database.read() as connection:
            row = connection.execute(
                sa.select(*columns).where(projections.c.circuit == circuit, projections.c.device == device)
            ).first()
        return Projection(*row) if row else None

    def store_projection(self, circuit: str, device: str, projection: Projection) -> None:
        """Store a projection for all processes."""
        try:
            with self.database.write(wait=False) as connection:  # a lost projection is computed again
                connection.execute(projections.insert().values(circuit=circuit, device=device, **asdict(projection)))
        except Duplicate:
            return  # another process has stored it; the value is the same

"""The write-ahead record of every call to a quantum backend.

A call is one `run()` of a sampler or estimator; its PUBs are stored in parts, small enough to travel in one job. What
is about to leave the machine is written here first, so that a process killed at any moment loses nothing that was
finished. Callers write PREPARED; only the leader of a lane (`infra.runtime.lane`) moves calls further.

    PREPARED -> SUBMITTING -> SUBMITTED -> DONE | FAILED | CANCELLED | UNKNOWN

Knows SQL only: no circuits, no arrays, so that reading the ledger starts fast.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from infra.errors import RuntimeQueueError
from infra.runtime.schema import Database, Duplicate, calls, circuits, parts, projections

PREPARED, SUBMITTING, SUBMITTED = "PREPARED", "SUBMITTING", "SUBMITTED"
DONE, FAILED, CANCELLED, UNKNOWN = "DONE", "FAILED", "CANCELLED", "UNKNOWN"
FINAL = (DONE, FAILED, CANCELLED, UNKNOWN)
STATES = (PREPARED, SUBMITTING, SUBMITTED, *FINAL)


@dataclass(frozen=True)
class Call:
    """One `run()` of a primitive.

    Attributes:
        key: the replay key.
        scope: run, stage, subtask, problem, arm, repetition.
        ordinal: number of the call within the arm's execution.
        primitive: `sampler` or `estimator`.
        fingerprint: hash of all that determines the distribution of the result.
        content: what a finished call of another run is recognised by.
        executions: circuits times shots over all PUBs.
        projection: device on which QPU time is projected.
        options: what was asked, what is effective, what is not.
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
        shots: shots for each of them.
    """

    call: str
    position: int
    part: int
    start: int
    circuit: str
    request: bytes
    circuits: int
    shots: int

    @property
    def executions(self) -> int:
        """Circuits times shots, at least the circuits."""
        return self.circuits * max(1, self.shots)


class Ledger:
    """The callers' side of the ledger.

    Args:
        location: a path (SQLite) or any SQLAlchemy URL.
        create: make the tables where there are none.
        durable: wait for the disk at each write.

    Raises:
        BadInput: there is no such ledger, or it has another schema version.
        RuntimeQueueError: the database cannot be used; the message says what to do.
    """

    def __init__(self, location: str | Path, *, create: bool = True, durable: bool = True) -> None:
        self.database = Database(location, create=create, durable=durable)

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the call with this replay key, or None."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(calls).where(calls.c.key == key)).mappings().first()
            return dict(row) if row else None

    def state(self, key: str) -> tuple[str, str | None]:
        """Return state and error of a call.

        Raises:
            RuntimeQueueError: the call is not in the ledger.
        """
        with self.database.read() as connection:
            row = connection.execute(sa.select(calls.c.state, calls.c.error).where(calls.c.key == key)).first()
        if row is None:
            raise RuntimeQueueError(f"call {key} has vanished from {self.database.url}; was the file replaced?")
        return row[0], row[1]

    def missing_circuits(self, digests: Iterable[str]) -> set[str]:
        """Return those digests whose circuit is not stored yet."""
        wanted = set(digests)
        with self.database.read() as connection:
            return wanted - set(connection.scalars(sa.select(circuits.c.digest).where(circuits.c.digest.in_(wanted))))

    def prepare(self, call: Call, pieces: Sequence[Part], qpy: Mapping[str, bytes]) -> bool:
        """Write the intent of a call; False if the same call has been written meanwhile.

        Args:
            call: the call.
            pieces: its parts.
            qpy: circuits by digest that may be missing.
        """
        now = time.time()
        try:
            with self.database.write() as connection:
                there = set(connection.scalars(sa.select(circuits.c.digest).where(circuits.c.digest.in_(set(qpy)))))
                if new := [{"digest": digest, "qpy": text} for digest, text in qpy.items() if digest not in there]:
                    connection.execute(circuits.insert(), new)
                connection.execute(calls.insert().values(**call.row(), state=PREPARED, created=now, updated=now))
                if pieces:
                    connection.execute(parts.insert(), [dict(vars(piece)) for piece in pieces])
        except Duplicate:
            if self.find(call.key) is None:  # two callers may store one new circuit at once, where the database allows
                return self.prepare(call, pieces, qpy)
            return False
        return True

    def adopt(self, call: Call) -> bool:
        """Answer a call with the results of a finished one of the same content; False if there is none."""
        now = time.time()
        columns = [column for column in parts.c if column.name != "call"]
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
        return True

    def prepare_again(self, key: str) -> None:
        """Give a failed or cancelled call another attempt; the parts that have a result keep it."""
        with self.database.write() as connection:
            moved = connection.execute(
                calls.update()
                .where(calls.c.key == key, calls.c.state.in_((FAILED, CANCELLED)))
                .values(state=PREPARED, attempt=calls.c.attempt + 1, error=None, updated=time.time())
            )
            if moved.rowcount == 1:
                connection.execute(
                    parts.update().where(parts.c.call == key, parts.c.result.is_(None)).values(batch=None)
                )

    def cancel(self, key: str) -> bool:
        """Cancel a call that no leader has taken yet."""
        with self.database.write() as connection:
            moved = connection.execute(
                calls.update()
                .where(calls.c.key == key, calls.c.state == PREPARED)
                .values(state=CANCELLED, error="cancelled by its caller", updated=time.time())
            )
            return bool(moved.rowcount == 1)

    def results(self, key: str) -> list[dict[str, Any]]:
        """Return the parts of a call in order: position, part, circuit, result, usage, facts."""
        columns = (parts.c.position, parts.c.part, parts.c.circuit, parts.c.result, parts.c.usage, parts.c.facts)
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(*columns).where(parts.c.call == key).order_by(parts.c.position, parts.c.part)
            ).mappings()
            return [{**row, **{name: json.loads(row[name] or "{}") for name in ("usage", "facts")}} for row in rows]

    def circuits(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return stored circuits by digest."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(circuits).where(circuits.c.digest.in_(set(digests)))).all()
            return {digest: bytes(qpy) for digest, qpy in rows}

    def projection(self, circuit: str, device: str) -> tuple[int, float, str | None] | None:
        """Return two-qubit gates, seconds and error of a circuit on a projection device, if known."""
        columns = (projections.c.two_qubit_gates, projections.c.duration_s, projections.c.error)
        with self.database.read() as connection:
            row = connection.execute(
                sa.select(*columns).where(projections.c.circuit == circuit, projections.c.device == device)
            ).first()
        return (row[0], row[1], row[2]) if row else None

    def store_projection(self, circuit: str, device: str, gates: int, duration_s: float, error: str | None) -> None:
        """Keep a projection for all processes."""
        values = {"two_qubit_gates": gates, "duration_s": duration_s, "error": error}
        try:
            with self.database.write() as connection:
                connection.execute(projections.insert().values(circuit=circuit, device=device, **values))
        except Duplicate:
            return  # another process was faster; the figure is the same

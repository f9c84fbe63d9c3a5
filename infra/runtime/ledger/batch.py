"""Values exchanged between the ledger and a dispatcher: parts in flight, batches, bills and results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from infra.runtime.ledger.ledger import Part


@dataclass(frozen=True)
class Item:
    """A part in flight, with the data of its call that the backend needs; `slot` is its position in the job."""

    part: Part
    slot: int
    seed: int
    primitive: str
    projection: str
    call_executions: int
    options: Mapping[str, Any]
    run: str = ""
    stage: str = ""

    @property
    def executions(self) -> int:
        """Circuits times shots of the part."""
        return self.part.executions

    @cached_property
    def manner(self) -> str:
        """How the part is run: options that all parts of a job must share."""
        return json.dumps([self.primitive, self.part.shots, self.options.get("effective", {})], sort_keys=True)


@dataclass(frozen=True)
class Batch:
    """Items that are sent in one job.

    Attributes:
        tag: tag by which the job is found after a crash.
        items: the parts without a result.
        size: number of all parts in the job, with and without a result.
        max_qpu_s: QPU seconds that the job may use; None if nothing is billed.
    """

    tag: str
    items: tuple[Item, ...]
    size: int
    max_qpu_s: float | None = None


@dataclass(frozen=True)
class OpenBatch:
    """An unfinished or unbilled batch, as its leader reads it in each round.

    Attributes:
        tag: tag by which the job is found.
        state: state in the ledger.
        job_id: id of the job once it was sent.
        created: when the batch was claimed, before it was sent.
        duplicate_of: tag of the batch for which the service created this further job.
        max_qpu_s: QPU seconds that the job may use.
        refusal: verdict and text of a response to the submission without a job id, as JSON.
        tries: number of leaders that began to read its result and did not finish.
        unwanted: whether a call in it was cancelled by its caller.
    """

    tag: str
    state: str
    job_id: str | None
    created: float
    duplicate_of: str | None
    max_qpu_s: float | None = None
    refusal: str | None = None
    tries: int = 0
    unwanted: bool = False


@dataclass(frozen=True)
class Tariff:
    """Correction and price with which a claim computes its reservation.

    Attributes:
        factor: correction factor of estimates, from earlier bills.
        usd_per_s: price of a QPU second.
    """

    factor: float
    usd_per_s: float


@dataclass(frozen=True)
class Bill:
    """The charge of a finished job.

    Attributes:
        seconds: QPU seconds; None while the service does not report them.
        duplicates: further jobs that the service created for the same batch.
        free: whether nothing was reserved, because the backend does not bill.
        note: what is odd about the report of the service; the batch is then flagged.
    """

    seconds: float | None = 0.0
    duplicates: tuple[str, ...] = ()
    free: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Delivery:
    """The result of one part, or the reason why there is none.

    Attributes:
        part: the part.
        result: encoded arrays.
        usage: quantities that the part used.
        facts: values recorded about the execution.
        error: reason why there is no result.
        permanent: whether its call is sent again only by an explicit `queue retry`.
        arrays: the same as `result`, for a caller in this process.
    """

    part: Part
    result: bytes = b""
    usage: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    permanent: bool = False
    arrays: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def row(self) -> dict[str, Any]:
        """Return what is stored of a result.

        The request goes: the fingerprint is enough to recognise a replay, and thousands of parameter sets would fill
        the disk.
        """
        same = {"its_call": self.part.call, "its_position": self.part.position, "its_part": self.part.part}
        stored = {"result": self.result, "usage": json.dumps(dict(self.usage)), "request": b""}
        return {**same, **stored, "facts": json.dumps(dict(self.facts), default=str)}

"""What travels between the ledger and a dispatcher: parts on their way, batches, bills and results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from infra.runtime.ledger.ledger import Part


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
    run: str = ""
    stage: str = ""

    @property
    def executions(self) -> int:
        """Circuits times shots of the part."""
        return self.part.executions

    @cached_property
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
        max_qpu_s: QPU seconds that the job may use; None where nothing is billed.
    """

    tag: str
    items: tuple[Item, ...]
    size: int
    max_qpu_s: float | None = None


@dataclass(frozen=True)
class Standing:
    """A batch that is not over, or not billed yet, as its leader sees it in each round.

    Attributes:
        tag: what the job is found by.
        state: state in the ledger.
        job_id: id of the job once it was sent.
        created: when the batch was claimed, before it was sent.
        duplicate_of: tag of the batch that the service made this job from a second time.
        max_qpu_s: QPU seconds that the job may use.
        refusal: verdict and text of an answer to the submission that was no job id, as JSON.
        tries: leaders that began to read its result and did not end.
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
    """What a claim reserves with.

    Attributes:
        factor: what an estimate is multiplied with, from earlier bills.
        usd_per_s: price of a QPU second.
    """

    factor: float
    usd_per_s: float


@dataclass(frozen=True)
class Bill:
    """What a finished job is charged.

    Attributes:
        seconds: QPU seconds; None while the service does not report them.
        duplicates: further jobs that the service made of the same batch.
        free: whether nothing was reserved, because nothing is billed there.
        note: why `seconds` is not what the service reported; the batch is then flagged.
    """

    seconds: float | None = 0.0
    duplicates: tuple[str, ...] = ()
    free: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Delivery:
    """The result of one part, or why there is none.

    Attributes:
        part: the part.
        result: encoded arrays.
        usage: what it used.
        facts: what is worth keeping about it.
        error: why there is no result.
        permanent: whether its call is not to be sent again unless a person says so.
    """

    part: Part
    result: bytes = b""
    usage: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    permanent: bool = False

    def row(self) -> dict[str, Any]:
        """Return what is stored of a result.

        The request goes: the fingerprint is enough to recognise a replay, and thousands of parameter sets would fill
        the disk.
        """
        same = {"its_call": self.part.call, "its_position": self.part.position, "its_part": self.part.part}
        stored = {"result": self.result, "usage": json.dumps(dict(self.usage)), "request": b""}
        return {**same, **stored, "facts": json.dumps(dict(self.facts), default=str)}

"""Sends a claimed batch, once, and records what is known of it at each moment."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from infra.errors import BadAnswer, KetcycleError, NoAnswer, SubmissionUnclear, TurnedAway
from infra.runtime.backends.contract import Backend
from infra.runtime.ledger.batch import Batch, OpenBatch, Tariff
from infra.runtime.ledger.budget import usd_per_qpu_s
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import CANCELLED, FAILED, SUBMITTED, SUBMITTING, Ledger
from infra.runtime.parcels import CIRCUIT_CACHE, sentence, task_of

log = logging.getLogger("ketcycle.queue")


class Pause:
    """How long nothing is sent to a service that takes nothing: longer each time, until it takes something.

    Args:
        longest_s: the longest pause.

    Attributes:
        until: when the pause ends, by the monotonic clock.
    """

    def __init__(self, longest_s: float) -> None:
        self.until = 0.0
        self._longest_s, self._last_s = longest_s, 0.0
        self._since: float | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing is sent now."""
        return time.monotonic() < self.until

    @property
    def since_s(self) -> float:
        """Seconds since the service took something; infinite where it was never refused."""
        return float("inf") if self._since is None else time.monotonic() - self._since

    def lengthen(self, first_s: float) -> None:
        """Pause, twice as long as the last time."""
        self._since = self._since or time.monotonic()
        self._last_s = min(max(2 * self._last_s, first_s), self._longest_s)
        self.until = time.monotonic() + self._last_s

    def end(self) -> None:
        """Note that the service took something."""
        self.until, self._last_s, self._since = 0.0, 0.0, None


def tariff_of(ledger: Ledger, backend: Backend) -> Tariff | None:
    """Return what is reserved for the jobs of a backend; None where nothing is billed."""
    if not backend.priced:
        return None
    if backend.usd_per_s is not None:
        return Tariff(1.0, backend.usd_per_s)
    from infra.runtime.figures.calibration import correction  # only where something is billed

    return Tariff(correction(ledger, backend.name).factor, usd_per_qpu_s())


def send(lane: Lane, backend: Backend, batch: Batch, pause: Pause) -> OpenBatch | None:
    """Send a batch, once; None if there is certainly no job.

    A leader that was paused longer than its lease stops at `lane.leaving`. Between that write and the first byte it
    can still be paused, and no lock of ours reaches into the service: then two leaders may hold the batch, but only
    one sends it. The other finds no job under the tag and sends it again only after `resend_after_s`; if the first one
    wakes later than that, `_recall` cancels its job.
    """
    open_batch = OpenBatch(batch.tag, SUBMITTING, None, time.time(), None, batch.max_qpu_s)
    try:
        circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
        tasks = [task_of(item, circuits[item.part.circuit]) for item in batch.items]
    except Exception as error:  # whatever is wrong with one batch, nothing of it has left
        log.exception("batch %s cannot be sent", batch.tag)
        lane.close(batch.tag, FAILED, sentence(error))
        return None
    if backend.local:  # what it holds dies with this process; the claim has recorded it as sent
        return OpenBatch(batch.tag, SUBMITTED, backend.submit(batch.tag, tasks), open_batch.created, None)
    left = False

    def leaving() -> None:
        nonlocal left
        lane.leaving(batch.tag)
        left = True

    try:
        job_id = backend.submit(batch.tag, tasks, max_qpu_s=batch.max_qpu_s, leaving=leaving)
    except LeaseLost:
        raise
    except TurnedAway as error:
        log.info("batch %s waits: %s", batch.tag, error)
        pause.lengthen(backend.poll_s)
        lane.put_back(batch.tag, str(error))
        return None
    except SubmissionUnclear as error:
        log.warning("batch %s: %s; its job is looked for by its tag", batch.tag, error)
        return _unclear(lane, open_batch, error.verdict, str(error))
    except Exception as error:  # after the first byte any error leaves it open whether there is a job
        if left:
            log.exception("batch %s: no job id came back; its job is looked for by its tag", batch.tag)
            return _unclear(lane, open_batch, "resend", sentence(error))
        if not isinstance(error, KetcycleError):
            log.exception("batch %s could not be sent", batch.tag)
        lane.close(batch.tag, FAILED, sentence(error))
        return None
    pause.end()
    log.info("job %s is sent to %s", job_id, backend.name, extra={"count": ("queue jobs", 0, 1)})
    return _followed(lane, backend, open_batch, job_id)


def _unclear(lane: Lane, open_batch: OpenBatch, verdict: str, text: str) -> OpenBatch:
    """Record an answer that was no job id; the job is looked for by its tag from now on."""
    lane.unclear(open_batch.tag, verdict, text)
    return replace(open_batch, refusal=json.dumps([verdict, text]))


def _followed(lane: Lane, backend: Backend, open_batch: OpenBatch, job_id: str) -> OpenBatch | None:
    """Record the job of a batch that was just sent."""
    tag = open_batch.tag
    try:
        known = lane.submitted(tag, job_id)
    except LeaseLost:
        _recall(lane, backend, tag, job_id)
        raise
    except BadAnswer as error:
        log.warning("batch %s: %s; its job is looked for by its tag", tag, error)
        return _unclear(lane, open_batch, "resend", str(error))
    if not known:  # given up meanwhile, by hand
        cancel_jobs(backend, (job_id,))
        return None
    return OpenBatch(tag, SUBMITTED, job_id, open_batch.created, None, open_batch.max_qpu_s)


def _recall(lane: Lane, backend: Backend, tag: str, job_id: str) -> None:
    """Cancel a job that a leader sent after it was taken over, if its batch was given up meanwhile."""
    if lane.ledger.batch_state(tag) in (FAILED, CANCELLED):
        log.warning("job %s was sent late and its batch %s given up: it is cancelled", job_id, tag)
        cancel_jobs(backend, (job_id,))


def cancel_jobs(backend: Backend, jobs: Sequence[str]) -> None:
    """Cancel jobs without a caller, as far as the service answers."""
    for job in jobs:
        for pause_s in (0.0, 1.0, 5.0):
            time.sleep(pause_s)
            try:
                backend.cancel(job)
                break
            except NoAnswer as error:
                log.warning("job %s was not cancelled: %s", job, error)

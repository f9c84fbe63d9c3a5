"""What a finished job is charged: what the service bills if that makes sense, else the most that the job may use."""

from __future__ import annotations

import logging

from infra.errors import BadAnswer, NoAnswer
from infra.runtime.backends.contract import Backend
from infra.runtime.ledger.batch import Bill, OpenBatch

log = logging.getLogger("ketcycle.queue")

BILL_PATIENCE_S = 10.0  # that results are held back for the bill of their job


def plausible_s(most_s: float) -> float:
    """Return the longest bill that a job with a time limit can have: services overrun it, by seconds."""
    return 2 * most_s + 10.0


def charge(
    backend: Backend, open_batch: OpenBatch, waited_s: float, *, completed: bool = False, required: bool = False
) -> Bill:
    """Return what a finished job is charged; never a negative amount, and never more than it can have used.

    Args:
        backend: where it ran.
        open_batch: its batch.
        waited_s: seconds since the bill was first asked for.
        completed: whether the job is done, so that it must have used something.
        required: whether a bill that is missing is asked for again, however long it takes.

    Raises:
        NoAnswer: the bill is not known yet.
    """
    job, most_s = str(open_batch.job_id), open_batch.max_qpu_s
    try:
        seconds = backend.billed(job)
    except BadAnswer as error:
        if waited_s < BILL_PATIENCE_S or most_s is None:
            raise NoAnswer(str(error)) from None
        log.warning("batch %s is charged %.3g s, the most that its job may use: %s", open_batch.tag, most_s, error)
        return Bill(most_s, note=str(error))
    if seconds is None and (required or waited_s < BILL_PATIENCE_S):
        raise NoAnswer(f"the bill of job {job} is not known yet")
    note = None
    if seconds is not None and most_s is not None and seconds > plausible_s(most_s):
        note = f"the service bills {seconds:g} s for job {job}, which it was to stop after {most_s:g} s"
    elif seconds == 0 and completed and most_s:
        if waited_s < BILL_PATIENCE_S:
            raise NoAnswer(f"the service bills nothing for job {job} yet")
        note = f"the service bills nothing for job {job}, which it completed"
    if note is not None:
        log.warning("batch %s is charged %.3g s: %s", open_batch.tag, most_s, note)
        return Bill(most_s, note=note)
    return Bill(seconds)

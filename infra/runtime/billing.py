"""What a finished job is charged: what the service bills within the job's limit, else that limit.

The limit is the time limit that the service was told, or what a job costs where the price is exact; reservations cover
it. A service may stop a job late, as IBM's says of itself
(https://qiskit.github.io/documentation/main/docs/ibm-quantum-compute/max-execution-time). What is billed beyond the
limit is not booked before a person has settled it, but stays reserved as far as a late stop explains it, so that no
later job is allowed with it. A service that takes no time limit has promised none: its bill is booked as far as it is
plausible.
"""

from __future__ import annotations

import logging

from infra.errors import BadAnswer, NoAnswer
from infra.runtime.backends.contract import Backend
from infra.runtime.ledger.batch import Bill, OpenBatch

log = logging.getLogger("ketcycle.queue")

BILL_PATIENCE_S = 10.0  # that results are held back for the bill of their job
_ROUNDING = 1e-9


def plausible_s(most_s: float) -> float:
    """Return the longest bill that is plausible for a job that should use so many seconds at most."""
    return 2 * most_s + 10.0


def _bookable_s(backend: Backend, most_s: float) -> float:
    """Return the longest bill that is booked without a person for a job that should use so many seconds at most."""
    bounded = backend.limits.step_s > 0 or backend.usd_per_s is not None
    return most_s if bounded else plausible_s(most_s)


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
    held_s = 0.0
    if seconds is not None and most_s is not None and seconds > _bookable_s(backend, most_s) * (1 + _ROUNDING):
        held_s = min(seconds, plausible_s(most_s)) - most_s
        note = f"the service bills {seconds:g} s for job {job}, beyond its limit of {most_s:g} s"
    elif seconds == 0 and completed and most_s:
        if waited_s < BILL_PATIENCE_S:
            raise NoAnswer(f"the service bills nothing for job {job} yet")
        note = f"the service bills nothing for job {job}, which it completed"
    if note is not None:
        log.warning("batch %s is charged %.3g s: %s", open_batch.tag, most_s, note)
        return Bill(most_s, note=note, held_s=held_s)
    return Bill(seconds)

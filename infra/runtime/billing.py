"""What a finished job is charged: what the service bills if that makes sense, else the most that the job may use.

A service may stop a job later than it was told
(https://qiskit.github.io/documentation/main/docs/ibm-quantum-compute/max-execution-time). What it bills then is
charged, because it will be on the invoice, and the batch is flagged, because the reservation was lower.
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


def _bound(backend: Backend) -> bool:
    """Whether a job's bill should stay within its maximum: the service takes a time limit, or the price is exact."""
    return backend.limits.step_s > 0 or backend.usd_per_s is not None


def charge(
    backend: Backend, open_batch: OpenBatch, waited_s: float, *, completed: bool = False, required: bool = False
) -> Bill:
    """Return what a finished job is charged; never a negative amount, and never more than is plausible.

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
    charged, note = seconds, None
    if seconds is not None and most_s is not None and seconds > most_s * (1 + _ROUNDING):
        if seconds > plausible_s(most_s):
            charged = most_s
        if charged == most_s or _bound(backend):
            note = f"the service bills {seconds:g} s for job {job}, which should use {most_s:g} s at most"
    elif seconds == 0 and completed and most_s:
        if waited_s < BILL_PATIENCE_S:
            raise NoAnswer(f"the service bills nothing for job {job} yet")
        charged, note = most_s, f"the service bills nothing for job {job}, which it completed"
    if note is not None:
        log.warning("batch %s is charged %.3g s: %s", open_batch.tag, charged, note)
    return Bill(charged, note=note)

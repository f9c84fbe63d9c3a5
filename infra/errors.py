"""All exceptions of the project.

KetcycleError
|- BadInput              the user's input cannot be used; the message says what to do
|  |- NoDocuments        a corpus without a usable document
|  |- NoLedger           a database without the tables of the runtime queue
|- LakeError             a data set is missing, incomplete or damaged
|- StageFailed           a stage stopped; the others are skipped
|  |- StageRefused       it could not use the user's input (a BadInput too)
|- RuntimeQueueError     any error of the quantum runtime queue
|  |- ReplayDiverged     a replayed call differs from the recorded one
|  |- ConcurrentCall     the sampler of one arm was used by two threads
|  |- BackendFailed      the backend answered with an error
|  |- NoAnswer           the service did not answer; the question may be repeated
|  |- BadAnswer          the service answered with something that makes no sense
|  |- TurnedAway         nothing was sent; the service may take it later
|  |- SubmissionUnclear  a job may or may not have been created
|  |- BudgetExceeded     the call would spend more than the budget allows
|  |- StillQueued        a remote result did not arrive before the deadline
|- ServerFailed          the completion server did not start, or answered with an error
|- FetchFailed           pages could not be fetched from the web
|- EventNotSent          the Prefect API did not take an event
|- MeterBusy             two metered blocks at once in one process
"""

from __future__ import annotations

from typing import Literal


class KetcycleError(Exception):
    """Base of all errors of the project."""


class BadInput(KetcycleError):
    """The user's input cannot be used; the message says what was expected, what was found and what to do."""


class NoDocuments(BadInput):
    """A corpus holds no usable document."""


class NoLedger(BadInput):
    """A database holds no ledger; the first quantum call makes it."""


class LakeError(KetcycleError):
    """A data set is missing, incomplete or damaged."""


class StageFailed(KetcycleError):
    """A stage stopped; the stages after it are skipped."""


class StageRefused(StageFailed, BadInput):
    """A stage could not use the user's input; the stages after it are skipped."""


class RuntimeQueueError(KetcycleError):
    """Base of the errors of the quantum runtime queue."""


class ReplayDiverged(RuntimeQueueError):
    """A replayed call has another fingerprint than the recorded one; the old counts are not served."""


class ConcurrentCall(RuntimeQueueError):
    """The sampler handed to one arm was used by two threads at once."""


class BackendFailed(RuntimeQueueError):
    """The backend answered with an error."""


class NoAnswer(RuntimeQueueError):
    """The service did not answer, or asked to come back later; asking again changes nothing there."""


class BadAnswer(RuntimeQueueError):
    """The service answered with something that makes no sense, or that belongs to another question."""


class TurnedAway(RuntimeQueueError):
    """Nothing was sent, and the service may take it later: it is in maintenance, busy, or cannot be reached."""


class SubmissionUnclear(RuntimeQueueError):
    """A request to make a job has left, and no job id came back: a job may exist, so its tag must be looked up.

    Attributes:
        verdict: what follows once no job is listed under the tag: `resend` it, let it `wait` its turn (the service was
            busy), `fail` (the service refused it), or `refuse` (it refused it and always will).
    """

    def __init__(self, text: str, verdict: Literal["resend", "wait", "fail", "refuse"] = "resend") -> None:
        super().__init__(text)
        self.verdict = verdict


class BudgetExceeded(RuntimeQueueError):
    """The call would spend more than the budget allows."""


class StillQueued(RuntimeQueueError):
    """A remote result is not there before the deadline; the call stays in the ledger."""


class ServerFailed(KetcycleError):
    """The completion server did not start, or answered with an error."""


class FetchFailed(KetcycleError):
    """A crawl stopped, or no page could be fetched."""


class EventNotSent(KetcycleError):
    """The Prefect API did not take an event; nothing that it should have started will start."""


class MeterBusy(KetcycleError):
    """A metered block was opened while another one of this process was open."""

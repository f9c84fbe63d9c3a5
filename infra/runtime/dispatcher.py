"""Sends what waits in the ledger and brings back what came of it, for every caller alike.

Whoever holds a lane's lease leads: takes the calls that wait, sends them in as few jobs as the limits allow, follows
all jobs that are out, stores each result with what it used, and closes the books. There is no dispatcher process; a
caller that waits leads in a thread of its own. What is to be done next stands in the ledger alone, so a leader may end
between any two steps and the next one goes on. Sending is done once; only questions are asked again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from infra.errors import BackendFailed, BadInput, KetcycleError, NoAnswer, RuntimeQueueError, SubmissionUnclear
from infra.runtime.backends.contract import Backend, JobState
from infra.runtime.backends.registry import open_backend
from infra.runtime.ledger.budget import usd_per_qpu_s
from infra.runtime.ledger.lane import Batch, Bill, Delivery, Lane, Standing, Tariff
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import (
    CANCELLED,
    DONE,
    FAILED,
    FINAL,
    OUT,
    PREPARED,
    SUBMITTED,
    SUBMITTING,
    UNKNOWN,
    Ledger,
)
from infra.runtime.overhead import OVERHEAD
from infra.runtime.parcels import CIRCUIT_CACHE, delivery_of, sentence, task_of

log = logging.getLogger("ketcycle.queue")

FLUSH_S = 0.5
LONGEST_PAUSE_S = 60.0  # between two questions that were not answered
BILL_PATIENCE_S = 10.0  # that results are held back for the bill of their job
CLOSING_S = 2.0  # that a leader whose own call is answered goes on to close the books
LETTING_GO_S = 10.0  # that a caller waits for its leader to end, which a slow machine or service may draw out
_PROMISING = (JobState.DONE, JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Manner:
    """How to lead.

    Attributes:
        lease_s: seconds without a sign of life after which another machine takes the leader over.
        linger_s: how long to let further callers join a job; None = the backend's own time.
        resend_after_s: seconds after which a batch of which no job is found is sent again; None = never.
    """

    lease_s: float = 60.0
    linger_s: float | None = None
    resend_after_s: float | None = None


def lead(
    lane: Lane,
    backend: Backend,
    wanted: Callable[[], bool],
    manner: Manner = Manner(),
    stop: threading.Event | None = None,
) -> int:
    """Dispatch until nothing is open or nobody here wants more, then hand the lease on.

    Args:
        lane: whose lease is held.
        backend: where the lane leads.
        wanted: asked between rounds whether to go on.
        manner: how to lead.
        stop: ends it after the current write.

    Returns:
        The jobs sent, and those of earlier leaders that were followed.

    Raises:
        BadInput: jobs would be sent again before the backend is sure to list them.
    """
    if manner.resend_after_s is not None and manner.resend_after_s <= backend.listing_delay_s:
        lane.release()
        raise BadInput(
            f"resend_after_s is {manner.resend_after_s:g}, but {backend.name} may list a job only after "
            f"{backend.listing_delay_s:g} s; a shorter wait could pay twice"
        )
    rounds = Rounds(lane, backend, manner, stop or threading.Event())
    try:
        with OVERHEAD.counted(), _kept_alive(lane):
            rounds.run(wanted)
    except LeaseLost as error:
        log.warning("%s; its batches are the new leader's now", error)
    finally:
        lane.release()
    return len(rounds.jobs)


@dataclass
class _Track:
    """What this leader remembers of a batch: when to ask again, and since when it has been asking."""

    not_before: float = 0.0
    pause_s: float = 0.0
    since: float = field(default_factory=time.monotonic)
    bill_since: float | None = None
    cancelled: bool = False


class Rounds:
    """The rounds of one leader: claim and send, then take every batch that is not over one step on."""

    def __init__(self, lane: Lane, backend: Backend, manner: Manner, stop: threading.Event) -> None:
        self.jobs: set[str] = set()
        self._lane, self._backend, self._manner, self._stop = lane, backend, manner, stop
        self._tracks: dict[str, _Track] = {}
        self._batches: dict[str, Batch] = {}

    def run(self, wanted: Callable[[], bool]) -> None:
        """Go on until nothing is open or nobody here wants more."""
        linger_s = self._backend.linger_s if self._manner.linger_s is None else self._manner.linger_s
        going, closing = True, inf
        while not self._stop.wait(linger_s):
            waits, standing = self._lane.look()
            sent = self.send_waiting() if waits and going else []
            for each in (*standing, *sent):
                self.advance(each)
                if self._stop.is_set():
                    return
            open_ = [each for each in (*standing, *sent) if self._is_open(each)]
            going = wanted()
            if not going:
                closing = min(closing, time.monotonic() + CLOSING_S)
                books = any(each.duplicate_of or each.state not in OUT for each in open_)
                if not books or time.monotonic() > closing:
                    return
            elif not sent and not open_:
                return
            if not sent:
                self._stop.wait(self._pause_s(open_))

    def send_waiting(self) -> list[Standing]:
        """Claim what waits and send it; return what may be out now."""
        backend, tariff = self._backend, _tariff(self._lane.ledger, self._backend)
        claimed = self._lane.claim(backend.name, backend.limits, tariff, sent=backend.local)
        self._batches |= {batch.tag: batch for batch in claimed}
        return [standing for batch in claimed if (standing := _send(self._lane, backend, batch)) is not None]

    def _is_open(self, standing: Standing) -> bool:
        """Whether there is something left to do soon; nobody waits for what is parked, nor long for a bill."""
        track = self._track(standing)
        if standing.state == UNKNOWN:
            return track.not_before < inf
        return standing.state in OUT or time.monotonic() - track.since < BILL_PATIENCE_S

    def _track(self, standing: Standing) -> _Track:
        return self._tracks.setdefault(standing.tag, _Track())

    def _pause_s(self, open_: list[Standing]) -> float:
        soonest = min((self._track(each).not_before for each in open_), default=0.0)
        return min(max(soonest - time.monotonic(), 0.0), max(self._backend.poll_s, 1.0))

    def advance(self, standing: Standing) -> None:
        """Take a batch one step on, unless it is too early to ask."""
        track = self._track(standing)
        if time.monotonic() < track.not_before:
            return
        try:
            if standing.state == SUBMITTED:
                self._follow(standing, track)
            elif standing.state in (SUBMITTING, UNKNOWN):
                self._search(standing, track)
            elif standing.state == PREPARED:
                self._lane.put_back(standing.tag, "its leader ended before it was sent")
            else:
                self._settle(standing)
            track.pause_s = 0.0
        except NoAnswer as error:
            track.pause_s = min(max(2 * track.pause_s, self._backend.poll_s), LONGEST_PAUSE_S)
            track.not_before = time.monotonic() + track.pause_s
            log.info("batch %s: %s; asked again in %.3g s", standing.tag, error, track.pause_s)

    def _search(self, standing: Standing, track: _Track) -> None:
        """Look for the job of a batch that may have been sent; it is never sent twice."""
        tag, backend = standing.tag, self._backend
        states = {job: backend.status(job) for job in backend.find(tag)}
        found = sorted((job for job in states if states[job] in _PROMISING), key=lambda j: _PROMISING.index(states[j]))
        if found:
            log.info("batch %s is followed further as job %s", tag, found[0])
            if not self._lane.submitted(tag, found[0], found[1:]):
                _cancel(backend, found)  # given up meanwhile, by hand
        elif standing.state == UNKNOWN:
            track.not_before = inf  # looked for once by each leader
        elif backend.local:
            self._lane.put_back(tag, "its leader died with the job")
        elif time.time() - standing.created < backend.listing_delay_s:
            raise NoAnswer("no job is listed under its tag yet")
        elif self._manner.resend_after_s is None:
            self._lane.close(tag, UNKNOWN, "it may or may not have been sent, and no job is found under its tag")
        elif time.monotonic() - track.since < self._manner.resend_after_s:  # by a clock that nobody sets
            raise NoAnswer("no job is listed under its tag yet; it is not sent again so soon")
        else:
            self._lane.put_back(tag, f"no job was listed under its tag for {self._manner.resend_after_s:g} s")

    def _follow(self, standing: Standing, track: _Track) -> None:
        """Poll a job; when it is over, store its results, or why there are none, with its bill."""
        tag, backend, job = standing.tag, self._backend, str(standing.job_id)
        self.jobs.add(job)
        if standing.unwanted and not track.cancelled and not self._lane.leave(tag):
            backend.cancel(job)
            track.cancelled = True
        state = backend.status(job)
        if state is JobState.QUEUED and standing.duplicate_of:
            backend.cancel(job)
        if state in (JobState.QUEUED, JobState.RUNNING):
            track.not_before = time.monotonic() + backend.poll_s
            return
        if state is JobState.LOST:
            if backend.local:
                self._lane.put_back(tag, "its leader died with the job")
            else:
                self._lane.close(tag, UNKNOWN, f"job {job} is lost")
            return
        bill = self._bill(standing, track)
        if state is JobState.DONE and not standing.duplicate_of:
            self._fetch(tag, job, bill)
        elif state is JobState.CANCELLED and (track.cancelled or standing.duplicate_of):
            self._lane.close(tag, CANCELLED, f"job {job} is cancelled", bill)
        else:
            end = DONE if state is JobState.DONE else FAILED
            self._lane.close(tag, end, f"job {job} is {state}", bill)

    def _bill(self, standing: Standing, track: _Track) -> Bill:
        """Ask for the bill, and for jobs that the service made of the same batch: its client posts again by itself."""
        backend, job = self._backend, str(standing.job_id)
        if not backend.priced:
            return Bill(free=True)
        seconds = backend.billed(job)
        track.bill_since = track.bill_since or time.monotonic()
        if seconds is None and time.monotonic() - track.bill_since < BILL_PATIENCE_S:
            raise NoAnswer(f"the bill of job {job} is not known yet")
        others = () if standing.duplicate_of else tuple(other for other in backend.find(standing.tag) if other != job)
        if others:
            log.warning("the service made jobs %s of batch %s besides %s", ", ".join(others), standing.tag, job)
        return Bill(seconds, others)

    def _settle(self, standing: Standing) -> None:
        """Book a bill that was not known when its job ended."""
        seconds = self._backend.billed(str(standing.job_id))
        if seconds is None:
            raise NoAnswer(f"the bill of job {standing.job_id} is not known yet")
        self._lane.settle(standing.tag, seconds)

    def _fetch(self, tag: str, job: str, bill: Bill) -> None:
        """Store the results of a job as they come."""
        lane = self._lane
        batch = self._batches.get(tag) or lane.load(tag)
        circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
        items = {item.slot: item for item in batch.items}
        waiting: list[Delivery] = []
        last = time.monotonic()
        try:
            for slot, outcome in self._backend.results(job) if items else ():
                if slot not in items:
                    continue  # an earlier leader stored it before it died
                item = items[slot]
                waiting.append(delivery_of(lane.ledger, item, circuits[item.part.circuit], outcome, batch.size))
                if time.monotonic() - last > FLUSH_S:
                    lane.deliver(waiting)
                    waiting, last = [], time.monotonic()
        except BackendFailed as error:  # the results are there and cannot be read
            log.warning("job %s: %s", job, error)
            lane.deliver(waiting)
            lane.close(tag, FAILED, sentence(error), bill)
            return
        lane.deliver(waiting, last_of=tag, bill=bill)
        self._batches.pop(tag, None)


def _tariff(ledger: Ledger, backend: Backend) -> Tariff | None:
    if not backend.priced:
        return None
    from infra.runtime.figures.calibration import correction  # only where something is billed

    return Tariff(correction(ledger, backend.name).factor, usd_per_qpu_s())


def _send(lane: Lane, backend: Backend, batch: Batch) -> Standing | None:
    """Send a batch, once; None if there is certainly no job."""
    standing = Standing(batch.tag, SUBMITTING, None, time.time(), None)
    try:
        circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
        tasks = [task_of(item, circuits[item.part.circuit]) for item in batch.items]
    except Exception as error:
        lane.close(batch.tag, FAILED, sentence(error))
        raise
    if backend.local:  # what it holds dies with this process, and the claim has said so
        return Standing(batch.tag, SUBMITTED, backend.submit(batch.tag, tasks), standing.created, None)
    # A leader that was paused longer than its lease stops here. Between this look and the socket it can still be
    # paused, and no lock of ours reaches into the service: then two leaders may hold the batch, but only one sends it.
    # The other finds nothing under the tag and parks it; it is adopted as soon as its job is listed. Only a configured
    # `resend_after_s` shorter than that pause would send it twice; `_recall` then cancels the late job.
    lane.leaving(batch.tag)
    try:
        job_id = backend.submit(batch.tag, tasks, max_qpu_s=batch.max_qpu_s)
    except SubmissionUnclear as error:
        log.warning("batch %s: %s; its job is looked for by its tag", batch.tag, error)
        return standing
    except KetcycleError as error:
        log.warning("batch %s was refused: %s", batch.tag, error)
        lane.close(batch.tag, FAILED, sentence(error))
        return None
    # Any other exception is a programming error and raises; whether a job was made is looked up by the next leader.
    try:
        known = lane.submitted(batch.tag, job_id)
    except LeaseLost:
        _recall(lane, backend, batch.tag, job_id)
        raise
    if not known:  # given up meanwhile, by hand
        _cancel(backend, (job_id,))
        return None
    return Standing(batch.tag, SUBMITTED, job_id, standing.created, None)


def _recall(lane: Lane, backend: Backend, tag: str, job_id: str) -> None:
    """Cancel a job that a leader sent after it was taken over, if its batch was given up meanwhile."""
    if lane.ledger.batch_state(tag) in (FAILED, CANCELLED):
        log.warning("job %s was sent late and its batch %s given up: it is cancelled", job_id, tag)
        _cancel(backend, (job_id,))


def _cancel(backend: Backend, jobs: Sequence[str]) -> None:
    for job in jobs:
        for pause_s in (0.0, 1.0, 5.0):
            time.sleep(pause_s)
            try:
                backend.cancel(job)
                break
            except NoAnswer as error:
                log.warning("job %s was not cancelled: %s", job, error)


class Leader(threading.Thread):
    """Leads for everybody until the call that started it is answered or wanted no more.

    Attributes:
        answer: final state and error of that call, once it is answered.
    """

    _lock = threading.Lock()
    _leading: set[tuple[str, str]] = set()  # noqa: RUF012  (one for the process)

    def __init__(self, lane: Lane, key: str, manner: Manner) -> None:
        super().__init__(name=f"ketcycle-dispatch-{lane.name}", daemon=True)
        self._lane, self._key, self._manner = lane, key, manner
        self._stop_leading, self._over = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self.answer: tuple[str, str | None] | None = None

    @classmethod
    def start_if_free(cls, ledger: Ledger, backend: str, key: str, manner: Manner) -> Leader | None:
        """Start leading unless another thread of this process, or another process, leads."""
        spot = (ledger.database.url, backend)
        with cls._lock:
            if spot in cls._leading:
                return None
            lane = Lane.acquire(ledger, backend, manner.lease_s)
            if lane is None:
                return None
            cls._leading.add(spot)
        leader = cls(lane, key, manner)
        leader.start()
        return leader

    def run(self) -> None:
        """Lead, and keep what went wrong for the caller."""
        try:
            lead(self._lane, open_backend(self._lane.name), self._unanswered, self._manner, self._stop_leading)
        except Exception as error:  # noqa: BLE001  (the caller that waits raises it)
            self._error = error
        finally:
            with self._lock:
                self._leading.discard((self._lane.ledger.database.url, self._lane.name))
            self._over.set()

    def wait(self, seconds: float) -> None:
        """Wait until the call that started it is answered, it ends, or the time is over."""
        self._over.wait(seconds)

    def let_go(self, *, answered: bool) -> None:
        """Let go of by its caller: jobs that are out run on for the next leader.

        Args:
            answered: whether the caller's own call is; then the books of its job may be closed before. Else leading
                ends after the current write.
        """
        if not answered:
            self._stop_leading.set()
        if not (answered and open_backend(self._lane.name).local):  # others' simulations are not waited for
            self.join(LETTING_GO_S)

    @classmethod
    def forget(cls) -> None:
        """Start anew: nobody leads in this process."""
        cls._lock, cls._leading = threading.Lock(), set()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def _unanswered(self) -> bool:
        state, error = self._lane.ledger.state(self._key)
        if state in FINAL:
            self.answer = state, error
            self._over.set()
        return not self._over.is_set()


# The threads of a parent do not exist in its child.
os.register_at_fork(after_in_child=Leader.forget)


@contextmanager
def _kept_alive(lane: Lane) -> Iterator[None]:
    """Renew the lease while the work of the block writes nothing for long."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(lane.ttl_s / 3):
            try:
                lane.renew()
            except LeaseLost:  # the leader finds out at its next write
                return
            except RuntimeQueueError as error:
                log.warning("the lease of %s was not renewed: %s", lane.name, error)

    keeper = threading.Thread(target=renew, name="ketcycle-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()

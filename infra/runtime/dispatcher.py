"""Sends the calls that wait in the ledger and fetches their results, for all callers alike.

The process that holds a lane's lease leads: it takes the calls that wait, sends them in as few jobs as the limits
allow, follows all jobs that are out, stores each result with what it used, and charges the bills. There is no
dispatcher process; a caller that waits leads in a thread of its own, or simulates a short call itself while no other
call waits. The next step of every batch is recorded in the ledger, so a leader may end between any two steps and the
next one goes on. A batch is sent once; only questions are asked again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from infra.errors import BadAnswer, BadInput, NoAnswer, RuntimeQueueError
from infra.runtime import billing
from infra.runtime.backends.contract import Backend, Forgetful, JobState, Status
from infra.runtime.keeper import KEEPER
from infra.runtime.ledger.batch import Batch, Bill, Delivery, OpenBatch
from infra.runtime.ledger.budget import limits
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import CANCELLED, DONE, FAILED, OUT, PREPARED, SUBMITTED, SUBMITTING, UNKNOWN
from infra.runtime.overhead import OVERHEAD
from infra.runtime.parcels import CIRCUIT_CACHE, Job, delivery_of, task_of
from infra.runtime.submission import Pause, cancel_jobs, send, tariff_of
from infra.runtime.sweep import sweep

log = logging.getLogger("ketcycle.queue")

FLUSH_S = 0.5
LONGEST_PAUSE_S = 60.0  # between two questions that were not answered
CLOSING_S = 2.0  # that a leader whose own call is answered goes on to charge bills, or to serve other callers
TURNED_AWAY_S = 180.0  # that a leader waits for a service that takes nothing
BAD_ANSWERS = 8  # senseless answers about one batch before it is parked
READ_TRIES = 3  # senseless results of one job, or leaders that did not survive reading it, before it is given up
RESENDS = 5  # times that a call is sent without a job being listed, before it is parked
_PROMISING = (JobState.DONE, JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Manner:
    """How to lead.

    Attributes:
        lease_s: seconds without a sign of life after which another machine takes the leader over.
        linger_s: how long to let further callers join a job; None = the backend's own time.
        resend_after_s: seconds after which a batch of which no job is listed is sent again; None = twice the
            backend's listing delay, infinity = never: it is parked, and a person looks for its job.
        send: whether calls that wait are sent; without, only cancellations are carried out.
        thorough: whether duplicates of all recent batches are looked for before the end.
    """

    lease_s: float = 60.0
    linger_s: float | None = None
    resend_after_s: float | None = None
    send: bool = True
    thorough: bool = False


def lead(
    lane: Lane,
    backend: Backend,
    wanted: Callable[[], bool],
    manner: Manner = Manner(),
    stop: threading.Event | None = None,
) -> int:
    """Dispatch until no call is open or no caller of this process waits, then hand the lease on.

    Args:
        lane: the backend's calls in the ledger; this process holds its lease.
        backend: where the calls are sent.
        wanted: called between rounds; False ends the dispatching.
        manner: pauses, limits and what is looked for.
        stop: when set, ends the dispatching after the current write.

    Returns:
        The number of jobs sent, and of earlier leaders' jobs that were fetched.

    Raises:
        BadInput: batches would be sent again before the backend is sure to list their jobs.
    """
    rounds = Rounds(lane, backend, manner, stop or threading.Event())
    with _leading(lane, backend, manner):
        rounds.run(wanted)
    return len(rounds.jobs)


def answer_alone(lane: Lane, backend: Backend, key: str, manner: Manner) -> list[Delivery] | None:
    """Simulate one call and hand the lease on; None if other calls wait or are out, and the lease is kept.

    Args:
        lane: the backend's calls in the ledger; this process holds its lease, or takes it with the first write.
        backend: a simulator.
        key: of the call.
        manner: how to lead.

    Returns:
        What came of the parts of the call that had no result, if it is DONE; else nothing.

    Raises:
        LeaseLost: another process leads now; nothing was written.
    """
    rounds = Rounds(lane, backend, manner, threading.Event())
    with OVERHEAD.counted():
        if manner.linger_s:
            time.sleep(manner.linger_s)
        batches = lane.claim(backend.name, backend.limits, sent=True, alone=key)
        if not batches:
            return None
        with _leading(lane, backend, manner):
            rounds.simulate(batches)
    return rounds.kept if key in rounds.done else []


@contextmanager
def _leading(lane: Lane, backend: Backend, manner: Manner) -> Iterator[None]:
    """Keep the lease during the block, count what it takes, and release the lease."""
    try:
        if manner.resend_after_s is not None and manner.resend_after_s <= backend.listing_delay_s:
            raise BadInput(
                f"resend_after_s is {manner.resend_after_s:g}, but {backend.name} may list a job only after "
                f"{backend.listing_delay_s:g} s; a shorter wait could pay twice"
            )
        with OVERHEAD.counted(), KEEPER.kept(lane):
            yield
    except LeaseLost as error:
        log.warning("%s; its batches belong to the new leader", error)
    finally:
        lane.release()


@dataclass
class _Track:
    """What this leader remembers of a batch: when to ask again, since when it has been asking, what went wrong."""

    not_before: float = 0.0
    pause_s: float = 0.0
    since: float = field(default_factory=time.monotonic)
    bill_since: float | None = None
    lost_since: float | None = None
    listed: float = -inf
    cancelled: bool = False
    senseless: int = 0
    misread: int = 0


class Rounds:
    """The rounds of one leader: claim and send, then take every batch that is not over one step on."""

    def __init__(self, lane: Lane, backend: Backend, manner: Manner, stop: threading.Event) -> None:
        self.jobs: set[str] = set()
        self._lane, self._backend, self._manner, self._stop = lane, backend, manner, stop
        self._tracks: dict[str, _Track] = {}
        self._batches: dict[str, Batch] = {}
        self._ends_with: str | None = None  # the batch with whose results the lease ends
        self.kept: list[Delivery] = []  # what was stored since there is such a batch
        self.done: set[str] = set()  # calls that are DONE with it
        self._pause = Pause(LONGEST_PAUSE_S)
        self._serves = (
            False  # several callers at once, on a simulator: changing the leader at each call would cost more
        )

    def run(self, wanted: Callable[[], bool]) -> None:
        """Repeat rounds until no call is open or no caller of this process waits."""
        linger_s = self._backend.linger_s if self._manner.linger_s is None else self._manner.linger_s
        going, closing, swept = True, inf, False
        while not self._stop.wait(linger_s):
            self._serves = False
            waits, open_batches = self._lane.look()
            given_up = TURNED_AWAY_S <= self._pause.since_s < inf  # else batches that wait in turn would never all end
            may_send = waits and (going or self._backend.local) and self._manner.send and not given_up
            sent = self.send_waiting() if may_send and not self._pause.holds else []
            for each in (*open_batches, *sent):
                self.advance(each)
                if self._stop.is_set():
                    return
            open_ = [each for each in (*open_batches, *sent) if self._is_open(each)]
            going = wanted()
            if not going:
                closing = min(closing, time.monotonic() + CLOSING_S)
                bills = any(each.duplicate_of or each.state not in OUT for each in open_)
                if not (bills or self._serves) or time.monotonic() > closing:
                    return
            elif not sent and not open_ and not (may_send and self._pause.since_s < inf):
                if swept or not self._found_more():
                    return
                swept = True
            if not sent:
                self._stop.wait(self._pause_s(open_))

    def simulate(self, batches: list[Batch]) -> None:
        """Simulate the batches of a call, keep what is stored, and release the lease with the last result."""
        self._batches = {batch.tag: batch for batch in batches}
        self._ends_with = batches[-1].tag
        for batch in batches:
            open_batch = send(self._lane, self._backend, batch, self._pause)
            if open_batch is not None:
                self.advance(open_batch)

    def send_waiting(self) -> list[OpenBatch]:
        """Claim what waits and send it; return what may be out now."""
        backend, lane = self._backend, self._lane
        if backend.priced and limits(lane.ledger):
            sweep(lane, backend)  # what a duplicate costs is charged before the next job is allowed
        claimed = lane.claim(backend.name, backend.limits, tariff_of(lane.ledger, backend), sent=backend.local)
        self._batches |= {batch.tag: batch for batch in claimed}
        self._serves = backend.local and len({item.part.call for batch in claimed for item in batch.items}) > 1
        return [open_batch for batch in claimed if (open_batch := send(lane, backend, batch, self._pause)) is not None]

    def _found_more(self) -> bool:
        """Look for duplicates before the end; say whether there are some to be followed."""
        return self._manner.send and sweep(self._lane, self._backend, thorough=self._manner.thorough) > 0

    def _is_open(self, open_batch: OpenBatch) -> bool:
        """Whether work is left to do soon; parked batches, and bills that take long, are not waited for."""
        track = self._track(open_batch)
        if not self._manner.send:
            return open_batch.unwanted and open_batch.state in OUT
        if open_batch.state == UNKNOWN:
            return track.not_before < inf
        return open_batch.state in OUT or time.monotonic() - track.since < billing.BILL_PATIENCE_S

    def _track(self, open_batch: OpenBatch) -> _Track:
        return self._tracks.setdefault(open_batch.tag, _Track())

    def _pause_s(self, open_: list[OpenBatch]) -> float:
        soonest = min((self._track(each).not_before for each in open_), default=self._pause.until)
        return min(max(soonest - time.monotonic(), 0.0), max(self._backend.poll_s, 1.0))

    def advance(self, open_batch: OpenBatch) -> None:
        """Advance a batch by one step, unless its next poll is not due; an error of one batch stops no other."""
        track = self._track(open_batch)
        if time.monotonic() < track.not_before:
            return
        try:
            self._step(open_batch, track)
            track.pause_s, track.senseless = 0.0, 0
        except NoAnswer as error:
            self._ask_later(open_batch, track, error)
        except BadAnswer as error:
            self._senseless(open_batch, track, error)
        except RuntimeQueueError:  # the ledger cannot be written: nothing goes on
            raise
        except Exception as error:  # one batch must not stop the others; it is parked after some tries
            if self._backend.local:  # nothing is out, and the caller is better told at once
                raise
            log.exception("batch %s could not be taken on", open_batch.tag)
            track.senseless += BAD_ANSWERS // READ_TRIES
            self._senseless(open_batch, track, error)

    def _ask_later(self, open_batch: OpenBatch, track: _Track, error: Exception) -> None:
        track.pause_s = min(max(2 * track.pause_s, self._backend.poll_s), LONGEST_PAUSE_S)
        track.not_before = time.monotonic() + track.pause_s
        log.info("batch %s: %s; asked again in %.3g s", open_batch.tag, error, track.pause_s)

    def _senseless(self, open_batch: OpenBatch, track: _Track, error: Exception) -> None:
        """Ask again after an answer that makes no sense, and park the batch after several."""
        track.senseless += 1
        if track.senseless < BAD_ANSWERS or open_batch.state not in (*OUT, UNKNOWN):
            self._ask_later(open_batch, track, error)
            return
        if open_batch.state in OUT:
            log.warning("batch %s is parked: %s", open_batch.tag, error)
            self._lane.close(open_batch.tag, UNKNOWN, f"{type(error).__name__}: {error}")
        track.not_before = inf  # the next leader looks for its job again

    def _step(self, open_batch: OpenBatch, track: _Track) -> None:
        if open_batch.state == SUBMITTED:
            self._follow(open_batch, track)
        elif open_batch.state in (SUBMITTING, UNKNOWN):
            self._search(open_batch, track)
        elif open_batch.state == PREPARED:
            self._lane.put_back(open_batch.tag, "its leader ended before it was sent")
        else:
            completed = open_batch.state == DONE
            self._lane.settle(open_batch.tag, self._bill(open_batch, track, completed=completed, required=True))

    def _search(self, open_batch: OpenBatch, track: _Track) -> None:
        """Look for the job of a batch that may have been sent; the batch is not sent again while one may exist."""
        tag, backend = open_batch.tag, self._backend
        if open_batch.state == UNKNOWN and open_batch.tries >= READ_TRIES:
            track.not_before = inf  # its job is known, and no leader survives its result
            return
        waited_s = time.monotonic() - track.since  # not affected by changes of the system time
        states = {job: backend.status(job).state for job in backend.find(tag)}
        found = sorted((job for job in states if states[job] in _PROMISING), key=lambda j: _PROMISING.index(states[j]))
        if found:
            log.info("batch %s is followed further as job %s", tag, found[0])
            if not self._lane.submitted(tag, found[0], found[1:]):
                cancel_jobs(backend, found)  # given up meanwhile, by hand
        elif open_batch.state == UNKNOWN:
            track.not_before = inf  # looked for once by each leader
        elif states and waited_s < 2 * backend.listing_delay_s:
            raise NoAnswer(f"job {next(iter(states))} is listed, and the service does not know it")
        elif states:
            self._lane.close(tag, UNKNOWN, f"job {next(iter(states))} is listed, and the service does not know it")
        elif backend.local:
            self._lane.put_back(tag, "its leader died with the job")
        else:
            self._decide(open_batch, track, waited_s)

    def _decide(self, open_batch: OpenBatch, track: _Track, waited_s: float) -> None:
        """Decide about a batch of which no job is listed, once it would be."""
        tag, delay_s, resend_after_s = open_batch.tag, self._backend.listing_delay_s, self._manner.resend_after_s
        verdict, text = json.loads(open_batch.refusal) if open_batch.refusal else ("resend", "its answer did not come")
        if not self._backend.finds:
            verdict, resend_after_s = "resend", inf
        if verdict == "resend" and resend_after_s != inf:
            delay_s = 2 * delay_s if resend_after_s is None else resend_after_s
        if waited_s < delay_s:
            track.pause_s = min(max(2 * track.pause_s, self._backend.poll_s), delay_s / 4, delay_s - waited_s)
            track.not_before = time.monotonic() + track.pause_s
        elif verdict in ("fail", "refuse"):
            self._lane.close(tag, FAILED, text, permanent=verdict == "refuse")
        elif verdict == "wait":
            self._pause.lengthen(self._backend.poll_s)
            self._lane.put_back(tag, text)
        elif resend_after_s == inf or self._lane.attempts(tag) >= RESENDS:
            self._lane.close(tag, UNKNOWN, f"it may have been sent, and no job is listed under its tag: {text}")
        else:
            self._lane.put_back(tag, f"no job was listed under its tag for {waited_s:.0f} s: {text}")

    def _follow(self, open_batch: OpenBatch, track: _Track) -> None:
        """Poll a job; when it is over, store its results, or why there are none, with its bill."""
        tag, backend, job = open_batch.tag, self._backend, str(open_batch.job_id)
        self.jobs.add(job)
        found = backend.status(job)
        if found.tags is not None and (open_batch.duplicate_of or tag) not in found.tags:
            self._disown(open_batch, f"job {job} has the tags {', '.join(found.tags) or 'none'}, not that of its batch")
            return
        if found.state is JobState.LOST:
            self._lost(open_batch, track, job)
            return
        track.lost_since = None
        if found.state in (JobState.QUEUED, JobState.RUNNING):
            self._while_out(open_batch, track, found)
        else:
            self._over(open_batch, track, found)

    def _while_out(self, open_batch: OpenBatch, track: _Track, found: Status) -> None:
        backend, job = self._backend, str(open_batch.job_id)
        if open_batch.unwanted and not track.cancelled and not self._lane.leave(open_batch.tag):
            backend.cancel(job)
            track.cancelled = True
            return  # looked at again at once
        if found.state is JobState.QUEUED and open_batch.duplicate_of:
            backend.cancel(job)
        if backend.priced and not open_batch.duplicate_of:
            now = time.monotonic()
            if now - track.listed > min(max(now - track.since, backend.poll_s), LONGEST_PAUSE_S):
                track.listed = now  # a duplicate that has not begun to run costs nothing if it is found now
                self._note_others(open_batch)
        track.not_before = time.monotonic() + backend.poll_s

    def _note_others(self, open_batch: OpenBatch) -> None:
        """Write down further jobs under a batch's tag; nothing waits for this answer, a sweep asks again."""
        try:
            others = self._lane.looked(open_batch.tag, self._backend.find(open_batch.tag))
        except (NoAnswer, BadAnswer) as error:
            log.info("duplicates of batch %s could not be looked for: %s", open_batch.tag, error)
            return
        if others:
            log.warning("the service made %d job(s) of batch %s besides %s", others, open_batch.tag, open_batch.job_id)

    def _disown(self, open_batch: OpenBatch, reason: str) -> None:
        log.warning("batch %s: %s", open_batch.tag, reason)
        if open_batch.duplicate_of:
            self._lane.close(open_batch.tag, FAILED, reason)
        else:
            self._lane.disown(open_batch.tag, reason)
            self._tracks.pop(open_batch.tag, None)

    def _lost(self, open_batch: OpenBatch, track: _Track, job: str) -> None:
        track.lost_since = track.lost_since or time.monotonic()
        if self._backend.local:
            self._lane.put_back(open_batch.tag, "its leader died with the job")
        elif time.monotonic() - track.lost_since < self._backend.listing_delay_s:
            raise NoAnswer(f"the service does not know job {job}, perhaps not everywhere")
        else:
            self._lane.close(open_batch.tag, UNKNOWN, f"job {job} is lost: the service does not know it any more")

    def _over(self, open_batch: OpenBatch, track: _Track, found: Status) -> None:
        tag, job = open_batch.tag, str(open_batch.job_id)
        if self._backend.priced and not open_batch.duplicate_of and track.bill_since is None:
            self._note_others(open_batch)
        bill = self._bill(open_batch, track, completed=found.state is JobState.DONE)
        reason = f"job {job} is {found.state}" + (f": {found.reason}" if found.reason else "")
        if not self._backend.local:
            log.info("%s on %s", reason, self._backend.name, extra={"count": ("queue jobs", 1, 0)})
        if found.state is JobState.DONE and not open_batch.duplicate_of:
            self._fetch(open_batch, track, bill)
        elif found.state is JobState.CANCELLED and (track.cancelled or open_batch.unwanted or open_batch.duplicate_of):
            self._lane.close(tag, CANCELLED, f"job {job} is cancelled", bill)
        else:
            end = DONE if found.state is JobState.DONE else FAILED
            self._lane.close(tag, end, reason, bill, permanent=found.permanent)

    def _bill(self, open_batch: OpenBatch, track: _Track, *, completed: bool, required: bool = False) -> Bill:
        if not self._backend.priced:
            return Bill(free=True)
        track.bill_since = track.bill_since or time.monotonic()
        waited_s = time.monotonic() - track.bill_since
        return billing.charge(self._backend, open_batch, waited_s, completed=completed, required=required)

    def _fetch(self, open_batch: OpenBatch, track: _Track, bill: Bill) -> None:
        """Store the results of a job as they come."""
        lane, tag, job = self._lane, open_batch.tag, str(open_batch.job_id)
        if not self._backend.local:
            if open_batch.tries >= READ_TRIES:
                lane.close(tag, UNKNOWN, f"{open_batch.tries} leaders ended while they read the result of job {job}")
                return
            lane.trying(tag)
        try:
            deliveries = self._read(tag, job, bill)
        except BadAnswer as error:
            track.misread += 1
            lane.survived(tag)
            if track.misread < READ_TRIES:
                raise NoAnswer(str(error)) from None
            lane.close(tag, FAILED, str(error), bill, permanent=True)
            return
        except Exception:  # raised again; a device keeps its job, and the batch is read again later
            if not self._backend.local:
                lane.survived(tag)
            raise
        self._deliver(deliveries, tag, bill)
        self._batches.pop(tag, None)

    def _deliver(self, deliveries: list[Delivery], last_of: str | None = None, bill: Bill | None = None) -> None:
        release = last_of is not None and last_of == self._ends_with
        done = self._lane.deliver(deliveries, last_of=last_of, bill=bill, release=release)
        if self._ends_with is not None:
            self.kept += deliveries
            self.done |= done

    def _read(self, tag: str, job: str, bill: Bill) -> list[Delivery]:
        """Return what a job brought for each part; results that take long to come are stored on the way."""
        lane = self._lane
        batch = self._batches.get(tag) or lane.load(tag)
        circuits = CIRCUIT_CACHE.get(lane.ledger, {item.part.circuit for item in batch.items})
        items = {item.slot: item for item in batch.items}
        facts = Job(tag, batch.size, bill.seconds, self._backend.usd_per_s)
        if isinstance(self._backend, Forgetful):
            sent = {slot: task_of(item, circuits[item.part.circuit]) for slot, item in items.items()}
            self._backend.remind(job, tag, sent)
        found: list[Delivery] = []
        last = time.monotonic()
        for slot, outcome in self._backend.results(job) if items else ():
            item = items.pop(slot, None)
            if item is None:
                continue  # an earlier leader stored it before it died
            found.append(delivery_of(lane.ledger, item, circuits[item.part.circuit], outcome, facts))
            if time.monotonic() - last > FLUSH_S:
                self._deliver(found)
                found, last = [], time.monotonic()
        missing = f"job {job} is over and brought no result for this part"
        return [*found, *(Delivery(item.part, error=missing, permanent=True) for item in items.values())]

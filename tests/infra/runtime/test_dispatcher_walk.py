"""Random walks of two dispatchers on one ledger and one budget, before a service that bills and that nobody trusts.

The real dispatcher is taken through its steps in any order; it is killed inside them, taken over while it is only
paused, and the service refuses, loses answers, answers with errors after it made a job, names another's job, makes
jobs twice, lists them late, bills late. No intent has two jobs that were sent knowingly, no result is lost or
another's, no claim overspends, and once listing has caught up the ledger charges what the service bills.
"""

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infra.errors import NoAnswer, SubmissionUnclear, TurnedAway
from infra.runtime import billing, dispatcher, submission
from infra.runtime.backends.contract import JobState, Status, nothing_left
from infra.runtime.dispatcher import Manner, Rounds
from infra.runtime.ledger import lease as leases
from infra.runtime.ledger.batch import Delivery, Tariff
from infra.runtime.ledger.budget import limits, set_limit, spending
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import CANCELLED, DONE, FAILED, OPEN, UNKNOWN, Call, Ledger, Part
from infra.runtime.ledger.schema import batches, charges, parts
from infra.runtime.limits import Limits
from infra.runtime.parcels import CIRCUIT_CACHE
from infra.runtime.sweep import sweep

LANES = ("ibm:left", "ibm:right")
USD_PER_S = 2.0
OVERHEAD_S = 2.0
ENDED = (JobState.FAILED, JobState.CANCELLED)


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Job:
    tag: str
    intents: tuple
    cap: float
    bill: float = 0.0
    state: JobState = JobState.QUEUED
    asked: int = 0
    hidden: bool = False  # not listed yet, however long that takes


@dataclass
class Post:
    tag: str
    intents: tuple
    jobs: list = field(default_factory=list)


class Service:
    """A queue that bills; the trouble of the next question is set from outside."""

    priced, local = True, False
    linger_s = poll_s = listing_delay_s = 0.0
    finds, usd_per_s = True, None

    def __init__(self, name):
        self.name, self.limits = name, Limits(parts=3)
        self.jobs, self.posts, self.trouble = {}, [], ""
        self.knowingly = []  # intents that were posted again although a listed job may still bring their result

    def _once(self, trouble):
        found = self.trouble == trouble
        if found:
            self.trouble = ""
        return found

    def _question(self, name):
        if self._once(f"killed before {name}"):
            raise Killed
        if self._once(f"no answer to {name}"):
            raise NoAnswer(name)

    def submit(self, tag, tasks, *, max_qpu_s=None, leaving=nothing_left):
        if self._once("turned away"):
            raise TurnedAway("in maintenance")
        leaving()
        self._question("submit")
        for verdict in ("fail", "wait", "refuse", "resend"):
            if self._once(f"{verdict}, never made"):
                raise SubmissionUnclear("was it sent?", verdict)
        post = Post(tag, tuple(tasks))
        self.knowingly += [intent for intent in post.intents if self.known_to_run(intent)]
        self.posts.append(post)
        twice = self.trouble.startswith("twice")
        for _ in range(2 if twice else 1):
            job_id = f"{self.name}{len(self.jobs)}"
            post.jobs.append(job_id)
            self.jobs[job_id] = Job(tag, tuple(tasks), max_qpu_s)
        self.jobs[post.jobs[-1]].hidden = "listed late" in self.trouble
        for verdict in ("fail", "wait", "refuse", "resend"):
            if self.trouble.startswith(f"{verdict}, made"):
                self.trouble = ""
                raise SubmissionUnclear("was it sent?", verdict)
        if self._once("answer lost") or self._once("twice, answer lost"):
            raise SubmissionUnclear("was it sent?")
        if self._once("another's id"):
            return next(iter(self.jobs))
        if self._once("killed after submit"):
            raise Killed
        self.trouble = ""
        return post.jobs[0]

    def status(self, job_id):
        self._question("status")
        return Status(self.jobs[job_id].state, tags=(self.jobs[job_id].tag,))

    def results(self, job_id):
        self._question("results")
        for slot, intent in enumerate(self.jobs[job_id].intents):
            if slot and self._once("killed between results"):
                raise Killed
            yield slot, intent

    def billed(self, job_id):
        self._question("billed")
        job = self.jobs[job_id]
        job.asked += 1
        if job.state in (JobState.QUEUED, JobState.RUNNING) or self._once("billed late"):
            return None
        return job.bill

    def cancel(self, job_id):
        self._question("cancel")
        job = self.jobs[job_id]
        if job.state in (JobState.QUEUED, JobState.RUNNING):
            job.bill = 0.0 if job.state is JobState.QUEUED else 0.25 * job.cap
            job.state = JobState.CANCELLED

    def find(self, tag):
        self._question("find")
        return tuple(job_id for job_id, job in self.jobs.items() if job.tag == tag and not job.hidden)

    def known_to_run(self, intent):
        """Whether a listed job may still bring a result for an intent."""
        made = (self.jobs[job] for post in self.posts if intent in post.intents for job in post.jobs)
        return any(not job.hidden and job.state not in ENDED for job in made)


TROUBLE = st.sampled_from(
    ["", "", "turned away", "answer lost", "twice", "twice, answer lost", "killed after submit", "another's id"]
    + [f"{verdict}, {what}" for verdict in ("fail", "wait", "refuse", "resend") for what in ("never made", "made")]
    + ["twice, listed late", "fail, made, listed late", "resend, made, listed late"]
    + ["killed between results", "billed late"]
    + [
        f"{what} {name}"
        for what in ("killed before", "no answer to")
        for name in ("status", "results", "billed", "find")
    ]
    + ["killed before submit", "killed before cancel", "no answer to cancel"]
)


class QueueWalk(RuleBasedStateMachine):
    """Callers, a person, two dispatchers, and those that were taken over but do not know it."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self._folder.name) / "ledger.db", durable=False)
        self.services = {lane: Service(lane) for lane in LANES}
        self.leaders, self.stale = {}, []
        self.sizes, self.results = {}, {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(leases, "_abandoned", lambda row, overdue_s: True)
        self.patch.setattr(billing, "BILL_PATIENCE_S", 0.0)
        self.patch.setattr(dispatcher, "FLUSH_S", 0.0)
        self.patch.setattr(dispatcher, "tariff_of", lambda ledger, backend: Tariff(1.0, USD_PER_S))
        self.patch.setattr(submission, "task_of", lambda item, circuit: (item.part.call, item.part.position))
        self.patch.setattr(CIRCUIT_CACHE, "get", lambda ledger, digests: dict.fromkeys(digests))
        self.patch.setattr(
            dispatcher,
            "delivery_of",
            lambda ledger, item, circuit, outcome, job: Delivery(item.part, f"{outcome}".encode()),
        )

    @initialize()
    def start(self):
        for lane in LANES:
            self.take_over(lane)

    def take_over(self, lane):
        held = Lane.acquire(self.ledger, lane, 60)
        self.leaders[lane] = Rounds(held, self.services[lane], Manner(), threading.Event())

    # Callers and a person

    @precondition(lambda self: len(self.sizes) < 6)
    @rule(
        lane=st.sampled_from(LANES),
        run=st.sampled_from(("r0", "r1")),
        stage=st.sampled_from(("inference", "curation")),
        costs=st.lists(st.integers(0, 6), max_size=5),
    )
    def call(self, lane, run, stage, costs):
        key = f"call{len(self.sizes)}"
        scope = {"run": run, "stage": stage, "subtask": "t", "problem": "p", "arm": "a", "repetition": 0}
        call = Call(key, scope, 0, "sampler", lane, "", key, key, 0, len(costs), "fake_torino", {})
        pieces = [
            Part(key, i, 0, 0, "digest", b"request", 1, 1, cost + OVERHEAD_S, OVERHEAD_S)
            for i, cost in enumerate(costs)
        ]
        assert self.ledger.prepare(call, pieces, {})
        assert not self.ledger.prepare(call, pieces, {})
        self.sizes[key] = len(costs)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def cancel(self, data):
        key = data.draw(st.sampled_from(sorted(self.sizes)))
        before = self.ledger.state(key)[0]
        assert self.ledger.request_cancel(key=key) == (before in OPEN)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def ask_again(self, data):
        key = data.draw(st.sampled_from(sorted(self.sizes)))
        found = self.ledger.find(key)
        assert found is not None
        if not found["permanent"]:
            self.ledger.prepare_again(key)

    @rule(
        scope=st.sampled_from(("run", "stage", "day", "month")),
        unit=st.sampled_from(("qpu_s", "usd")),
        value=st.sampled_from((None, None, 0.0, 6.0, 15.0, 40.0)),
    )
    def change_a_limit(self, scope, unit, value):
        set_limit(self.ledger, scope, unit, value)

    @rule(lane=st.sampled_from(LANES))
    def resolve(self, lane):
        """A person looks at the service's page, which shows all."""
        for tag, job_id in self._parked(lane):
            found = self.services[lane].jobs
            jobs = [job for job in found if found[job].tag == tag]
            self.ledger.resolve(tag, job_id or (jobs[0] if jobs else None))

    def _parked(self, lane):
        with self.ledger.database.read() as connection:
            parked = batches.c.state == UNKNOWN, batches.c.lane == lane
            return connection.execute(sa.select(batches.c.tag, batches.c.job_id).where(*parked)).all()

    # Dispatchers

    def _step(self, leader, step, trouble):
        """Let a leader take one step; it may die in it."""
        lane, service = leader._lane.name, leader._backend
        service.trouble = trouble
        posts = len(service.posts)
        try:
            step()
        except Killed:
            if leader is self.leaders[lane]:
                self.take_over(lane)
        except LeaseLost:
            assert leader is not self.leaders[lane], "a leader that was not taken over lost its lease"
            assert len(service.posts) == posts, "a leader that was taken over sent something"
        service.trouble = ""

    @rule(lane=st.sampled_from(LANES), trouble=TROUBLE)
    def claim_and_send(self, lane, trouble):
        before = self._tags()
        leader = self.leaders[lane]
        self._step(leader, leader.send_waiting, trouble)
        if new := self._tags() - before:
            self.within_the_limits(new)

    def _tags(self):
        with self.ledger.database.read() as connection:
            return set(connection.scalars(sa.select(charges.c.tag)))

    def within_the_limits(self, new):
        """What was billed and what jobs may still use, against every limit that the new batches touch."""
        with self.ledger.database.read() as connection:
            mine = sa.select(charges.c.run, charges.c.stage).where(charges.c.tag.in_(new)).distinct()
            spenders = connection.execute(mine).all()
        for (scope, unit), limit in limits(self.ledger).items():
            if scope == "run":
                spent = [spending(self.ledger, run=run) for run, _ in spenders]
            elif scope == "stage":
                spent = [spending(self.ledger, run=run, stage=stage) for run, stage in spenders]
            else:
                spent = [spending(self.ledger)]
            for each in spent:
                assert sum(each.of(unit)) <= limit + 1e-6, f"{scope} {unit} is overspent"

    @rule(lane=st.sampled_from(LANES), which=st.integers(0, 9), trouble=TROUBLE)
    def one_step_on(self, lane, which, trouble):
        leader = self.leaders[lane]
        if standing := leader._lane.look()[1]:
            self._step(leader, lambda: leader.advance(standing[which % len(standing)]), trouble)

    @rule(lane=st.sampled_from(LANES))
    def thought_dead(self, lane):
        """A leader is paused for longer than its lease; another one leads."""
        self.stale.append(self.leaders[lane])
        self.take_over(lane)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), which=st.integers(0, 9), trouble=TROUBLE)
    def wakes_late(self, data, which, trouble):
        leader = data.draw(st.sampled_from(self.stale))
        self._step(leader, leader.send_waiting, trouble)
        if standing := leader._lane.look()[1]:
            self._step(leader, lambda: leader.advance(standing[which % len(standing)]), trouble)
        leader._lane.release()

    # The service

    @precondition(lambda self: any(service.jobs for service in self.services.values()))
    @rule(data=st.data(), used=st.floats(0, 1), end=st.sampled_from((JobState.DONE, JobState.DONE, *ENDED)))
    def goes_on(self, data, used, end):
        service = data.draw(st.sampled_from([service for service in self.services.values() if service.jobs]))
        job = service.jobs[data.draw(st.sampled_from(sorted(service.jobs)))]
        if job.state is JobState.QUEUED:
            job.state = JobState.RUNNING
        elif job.state is JobState.RUNNING:
            job.state, job.bill = end, used * job.cap

    @rule(data=st.data())
    def listing_catches_up(self, data):
        for job in self.services[data.draw(st.sampled_from(LANES))].jobs.values():
            job.hidden = False

    @rule(lane=st.sampled_from(LANES))
    def looks_for_duplicates(self, lane):
        sweep(self.leaders[lane]._lane, self.services[lane], thorough=True)

    # What must hold

    @invariant()
    def nothing_is_out_twice(self):
        for service in self.services.values():
            assert service.knowingly == []

    @invariant()
    def results_stand_and_are_ones_own(self):
        for key, size in self.sizes.items():
            stored = {row["position"]: row["result"] for row in self.ledger.results(key) if row["result"] is not None}
            for position, value in stored.items():
                assert value == f"{(key, position)}".encode()
            assert self.results.setdefault(key, {}).items() <= stored.items(), "a result was lost"
            self.results[key] = stored
            if self.ledger.state(key)[0] == DONE:
                assert len(stored) == size

    @invariant()
    def reservations_and_bills_add_up(self):
        with self.ledger.database.read() as connection:
            rows = connection.execute(
                sa.select(batches.c.billed_s, batches.c.max_qpu_s, sa.func.sum(charges.c.reserved_s),
                          sa.func.sum(charges.c.billed_s), sa.func.sum(charges.c.share))
                .join(charges, charges.c.tag == batches.c.tag).group_by(batches.c.tag)
            ).all()  # fmt: skip
        for billed, cap, reserved, booked, share in rows:
            assert share == pytest.approx(1.0)
            if billed is None:
                assert booked == 0
                assert cap is None or reserved == pytest.approx(cap)
            else:
                assert (reserved, booked) == (0, pytest.approx(billed))

    def teardown(self):
        """The night is over: limits are lifted, the service is well, everything comes to its end."""
        try:
            self.quiesce()
        finally:
            self.patch.undo()
            self._folder.cleanup()

    def quiesce(self):
        for scope in ("run", "stage", "day", "month"):
            for unit in ("qpu_s", "usd"):
                set_limit(self.ledger, scope, unit, None)
        for lane, service in self.services.items():
            self.take_over(lane)
            for _ in range(40):
                for job in service.jobs.values():
                    job.hidden = False
                    if job.state in (JobState.QUEUED, JobState.RUNNING):
                        job.state, job.bill = JobState.DONE, 0.5 * job.cap
                leader = self.leaders[lane]
                leader._pause.end()
                leader.send_waiting()
                waits, standing = leader._lane.look()
                for each in standing:
                    leader.advance(each)
                self.resolve(lane)
                if not waits and not standing and not sweep(leader._lane, service, thorough=True):
                    break
            else:
                raise AssertionError("it does not come to an end")
        for key in self.sizes:
            assert self.ledger.state(key)[0] in (DONE, FAILED, CANCELLED)
        self.nothing_is_out_twice()
        self.results_stand_and_are_ones_own()
        spent = spending(self.ledger)
        billed = sum(job.bill for service in self.services.values() for job in service.jobs.values())
        assert spent.reserved_s == pytest.approx(0.0)
        assert spent.billed_s == pytest.approx(billed)
        assert spent.billed_usd == pytest.approx(USD_PER_S * billed)
        with self.ledger.database.read() as connection:
            loose = sa.select(parts.c.call).where(
                parts.c.batch.is_not(None), parts.c.batch.not_in(sa.select(batches.c.tag))
            )
            assert connection.execute(loose).all() == []


QueueWalk.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    phases=(Phase.generate,),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestQueueWalk = QueueWalk.TestCase

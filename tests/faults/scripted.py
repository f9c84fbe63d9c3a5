"""A service that bills, kept in a file so that its jobs outlive the processes that talk to it, with scripted faults.

Time passes by asking: all jobs go on by one step with each question about one. What a job holds is executed by Aer when
it is made, with the seeds of the tasks, so a caller's right result is known. Each job that ran is billed.
"""

import fcntl
import pickle
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import PROJECTION, Job, loop, scope

from infra.errors import BadAnswer, NoAnswer, SubmissionUnclear, TurnedAway
from infra.runtime.backends import registry as backends
from infra.runtime.backends.contract import JobState, Status, nothing_left
from infra.runtime.figures.calibration import recorded
from infra.runtime.ledger.budget import usd_per_qpu_s
from infra.runtime.limits import Limits
from infra.runtime.queue import Runtime

NAME = "scripted"
JOB_S, TASK_S = 1.0, 0.25  # billed for each job that ran, and for each task in it
ESTIMATE_S = 0.002  # by formula, for each execution

FAULTS = (
    "none",
    "unauthorised",
    "throttled",
    "error before creating",
    "error after creating",
    "created twice",
    "created twice, answer lost",
    "answers lost",
    "slow",
    "truncated result",
    "job failed",
    "job stuck",
    "cancelled by the vendor",
    "maintenance",
    "listed late",
    "billed late",
    "refused after creating",
    "created twice, listed late",
    "billed nonsense",
    "another's job",
)


@dataclass
class Held:
    """One job at the service."""

    tag: str
    tasks: int
    waits: int
    end: JobState = JobState.DONE
    bill: float = 0.0
    stuck: bool = False
    state: JobState = JobState.QUEUED
    bill_waits: int = 0
    hidden: bool = False  # from the list, until all else is over
    ended: float | None = None

    def tick(self):
        """Go on by one step: wait, run, be over and billed."""
        if self.stuck or self.state not in (JobState.QUEUED, JobState.RUNNING):
            return
        self.waits -= 1
        if self.waits <= 0:
            self.over(self.end, JOB_S + TASK_S * self.tasks)
        elif self.waits == 1:
            self.state = JobState.RUNNING

    def over(self, state, bill):
        """End, with a bill."""
        self.state, self.bill, self.ended = state, bill, time.time()


@dataclass
class State:
    """Everything the service knows, and what of its script is still to come."""

    fault: str
    polls: int
    parts: int
    jobs: dict[str, Held] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    def once(self, what, times=1):
        """Whether this trouble is still to come; each comes so many times."""
        self.left.setdefault(what, times)
        self.left[what] -= 1
        return self.left[what] >= 0


class Service:
    """The service's side: what tests script and look at."""

    def __init__(self, folder):
        self.path = Path(folder) / "service"

    @classmethod
    def start(cls, folder, fault="none", polls=1, parts=8):
        service = cls(folder)
        service._write(State(fault, polls, parts))
        return service

    def _write(self, state):
        draft = self.path.with_suffix(".draft")
        draft.write_bytes(pickle.dumps(state))
        draft.rename(self.path)

    def read(self):
        return pickle.loads(self.path.read_bytes())  # noqa: S301  (our own file)

    def results(self, job_id):
        """Where the results of a job lie: a question about its state need not carry them along."""
        return self.path.with_name(f"{job_id}.results")

    @contextmanager
    def state(self):
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            try:
                yield state
            finally:
                self._write(state)

    def free(self):
        """Let jobs that are stuck go on."""
        with self.state() as state:
            if state.fault == "job stuck":
                state.fault = "none"
            for job in state.jobs.values():
                job.stuck = job.hidden = False


class Scripted:
    """The client's side: a backend."""

    name, calibration = NAME, "scripted"
    local, priced = False, True
    linger_s = poll_s = 0.001
    listing_delay_s = 0.05
    finds = True
    usd_per_s: float | None = None

    def __init__(self, folder):
        self.service = Service(folder)
        self.limits = Limits(parts=self.service.read().parts)

    def effective(self, options):
        return dict(options)

    def expected_cpu_s(self, circuit, circuits, shots):
        return 0.0

    def estimate_qpu_s(self, circuit, digest, executions):
        return ESTIMATE_S * executions

    def submit(self, tag, tasks, *, max_qpu_s=None, leaving=nothing_left):
        aer = backends.open_backend("aer")
        outcomes = list(aer.results(aer.submit(tag, tasks)))
        with self.service.state() as state:
            if state.fault == "maintenance" and state.once("submit", 2):
                raise TurnedAway("the device is in maintenance")
        leaving()
        with self.service.state() as state:
            fault = state.fault
            if fault == "unauthorised" and state.once("submit"):
                raise SubmissionUnclear("401: the token is not valid", "fail")
            if fault == "throttled" and state.once("submit"):
                raise SubmissionUnclear("429: too many requests", "wait")
            if fault == "error before creating" and state.once("submit"):
                raise SubmissionUnclear("502: bad gateway")
            job_id = self._make(state, tag, outcomes)
            if fault.startswith("created twice") and state.once("twice"):
                self._make(state, tag, outcomes, hidden=fault.endswith("late"))
            if fault == "refused after creating" and state.once("submit"):
                raise SubmissionUnclear("403: the account has no right to this", "fail")
            if fault == "another's job" and state.once("submit") and len(state.jobs) > 1:
                return next(iter(state.jobs))
            losing = ("error after creating", "answers lost", "created twice, answer lost", "listed late")
            if fault in losing and state.once("submit"):
                raise SubmissionUnclear("the answer did not come")
        if fault == "slow":
            time.sleep(0.1)
        return job_id

    def _make(self, state, tag, outcomes, hidden=False):
        job_id = f"job{len(state.jobs)}"
        job = Held(tag, len(outcomes), state.polls, hidden=hidden)
        self.service.results(job_id).write_bytes(pickle.dumps(outcomes))
        first = not state.jobs
        if first and state.fault == "job failed":
            job.end = JobState.FAILED
        if first and state.fault == "cancelled by the vendor":
            job.end = JobState.CANCELLED
        job.stuck = first and state.fault == "job stuck"
        job.bill_waits = 3 if state.fault == "billed late" else 0
        if state.fault == "slow":
            job.waits += 10
        state.jobs[job_id] = job
        return job_id

    @contextmanager
    def _job(self, job_id, what):
        with self.service.state() as state:
            if state.fault in ("answers lost", "throttled", "maintenance") and state.once(what):
                raise NoAnswer(f"no answer about {what}")
            for job in state.jobs.values():
                job.tick()
            yield state, state.jobs[job_id]

    def status(self, job_id):
        with self.service.state() as state:
            if job_id not in state.jobs:
                return Status(JobState.LOST)
        with self._job(job_id, "status") as (_, job):
            return Status(job.state, tags=(job.tag,))

    def results(self, job_id):
        with self._job(job_id, "results") as (state, _):
            cut = state.fault == "truncated result" and state.once("truncated")
        yield from pickle.loads(self.service.results(job_id).read_bytes())[: 1 if cut else None]  # noqa: S301  (ours)
        if cut:
            raise NoAnswer("the result ends in the middle")

    def billed(self, job_id):
        with self._job(job_id, "bill") as (state, job):
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                return None
            if state.fault == "billed nonsense" and state.once("nonsense", 2):
                raise BadAnswer("the bill is 'much'")
            job.bill_waits -= 1
            return None if job.bill_waits >= 0 else job.bill

    def cancel(self, job_id):
        with self._job(job_id, "cancel") as (_, job):
            if job.state is JobState.QUEUED:
                job.over(JobState.CANCELLED, 0.0)
            elif job.state is JobState.RUNNING:
                job.over(JobState.CANCELLED, JOB_S / 2)

    def find(self, tag):
        with self.service.state() as state:
            if state.fault == "answers lost" and state.once("find"):
                raise NoAnswer("no answer about find")
            if state.fault == "listed late" and state.once("find"):
                return ()
            return tuple(job_id for job_id, job in state.jobs.items() if job.tag == tag and not job.hidden)


class World:
    """What the harness needs of a service."""

    backend = NAME

    def prepare(self, folder):
        """Return what callers get undisturbed: from Aer itself. It also warms what every child needs."""
        recorded(), usd_per_qpu_s()
        aer = Runtime(folder / "ledger.db", projection=PROJECTION)
        return {name: loop(aer.sampler(scope(name)), name) for name in "ab"}

    def start(self, folder, case):
        Service.start(folder, case.fault, case.polls, case.parts)

    def install(self, folder):
        """Make the service of this folder the backend of this process, and return it."""
        backends.FACTORIES[NAME] = lambda _: Scripted(folder)
        backends._open.pop(NAME, None)
        return backends.open_backend(NAME)

    def free(self, folder):
        Service(folder).free()

    def jobs(self, folder):
        over = {JobState.DONE: "done", JobState.FAILED: "failed", JobState.CANCELLED: "cancelled"}
        found = Service(folder).read().jobs
        return [Job(name, job.tag, over.get(job.state, "open"), job.bill, job.ended) for name, job in found.items()]

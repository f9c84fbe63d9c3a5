"""Jobs, sessions and bills of the platform, and the script by which it misbehaves."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = "Queued", "Running", "Completed", "Failed", "Cancelled"
FINAL = (COMPLETED, FAILED, CANCELLED)


@dataclass
class Fault:
    """What goes wrong, where, and how often.

    Attributes:
        route: which request: token, search, backends, configuration, properties, device, usage, submit, job, jobs,
            results, metrics, cancel, session; or `create` for what becomes of a job; `*` = any but those of control.
        kind: 401, 429, 500 ... (answered before anything is done), drop (the connection ends before), drop-after,
            401-after, 302-after ... (it is done, the answer is lost or an error), twice (two jobs are made), slow,
            truncate, echo (an error that repeats the caller's headers), page and empty (the answer is a proxy's page,
            or nothing), answer (it is `body`), oldest (it is that about the oldest job), untagged (a list of jobs
            without their tags); of `create`: failed, stuck, cancelled, hidden (not listed until the script says
            `shown`).
        times: how often; each time counts down.
        skip: how many requests pass unharmed before.
        seconds: of `slow` and of Retry-After.
        body: of `answer`.
    """

    route: str
    kind: str
    times: int = 1
    skip: int = 0
    seconds: float = 1.0
    body: str = ""


@dataclass
class Script:
    """How the platform behaves.

    Attributes:
        faults: see `Fault`.
        queued_polls: questions about a job that are answered Queued before it runs.
        running_polls: further ones that are answered Running, at the least.
        base_s: billed seconds of each job.
        execution_s: billed seconds of each execution, its repetition delay included.
        bill_factor: by which the bill is larger than that formula.
        bill_late: questions about a bill of a job that is over that are answered pending.
        listing_s: how long a new job is missing from the list.
        shown: whether hidden jobs are listed by now.
        page: jobs in one page of the list at the most.
        skew_s: by how much the platform's clock is ahead.
        maintenance: whether the device is in maintenance: its status says so, jobs are refused with 503.
        noisy: whether circuits run with the device's noise.
        halved: whether programs run with half of their shots.
        renamed: whether the classical registers come back under other names.
        seed: of the simulator, the same for every PUB; None = another one each time.
        limit_s: seconds that the plan holds.
        pending_limit: jobs that may wait or run at once; further ones are refused with code 3458.
        calibration: when the properties were updated last.
        api_key: the one that is let in.
    """

    faults: list = field(default_factory=list)
    queued_polls: int = 0
    running_polls: int = 0
    base_s: float = 2.0
    execution_s: float = 350e-6
    bill_factor: float = 1.7
    bill_late: int = 0
    listing_s: float = 0.0
    shown: bool = False
    page: int = 20
    skew_s: float = 0.0
    maintenance: bool = False
    noisy: bool = False
    halved: bool = False
    renamed: bool = False
    seed: int | None = 7
    limit_s: float = 600.0
    pending_limit: int = 1000
    calibration: str = "2026-11-22T06:00:00Z"
    api_key: str = "double-api-key-0123456789-0123456789-0123456"

    def __post_init__(self):
        self.faults = [fault if isinstance(fault, Fault) else Fault(**fault) for fault in self.faults]


@dataclass
class Job:
    """A job as the platform knows it."""

    id: str
    backend: str
    tags: list
    program_id: str
    params: dict
    max_s: float | None
    session_id: str | None
    created: float
    fate: str | None = None
    hidden: bool = False
    state: str = QUEUED
    reason: str | None = None
    reason_code: int | None = None
    polls: int = 0
    bill_asked: int = 0
    executions: int = 0
    billed_s: float = 0.0
    result: str | None = None
    work: object = None
    started: float | None = None
    ended: float | None = None

    def facts(self):
        """What a test may want to know."""
        plain = {name: value for name, value in vars(self).items() if name not in ("params", "result", "work")}
        return {**plain, "has_result": self.result is not None}


class Platform:
    """Everything behind the addresses. Calls are made under its lock, except the simulation itself."""

    def __init__(self, devices, script=None):
        self.devices = devices
        self.lock = threading.RLock()
        self._simulating = ThreadPoolExecutor(1)
        self.reset(script or Script())

    def reset(self, script):
        with self.lock:
            self.script, self.jobs, self.sessions, self.requests = script, {}, {}, []
            self.stuck_forever = True

    def now(self):
        return time.time() + self.script.skew_s

    def fault(self, route):
        """The next fault of a route, counted down."""
        with self.lock:
            for fault in self.script.faults:
                if fault.route not in (route, "*") or fault.times < 1:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
            return None

    def create(self, body, copies=1):
        """Make a job, or several of one request; return the first."""
        with self.lock:
            made = []
            for _ in range(copies):
                fate = self.fault("create")
                job = Job(
                    id="d" + uuid.uuid4().hex[:19],
                    backend=body["backend"],
                    tags=list(body.get("tags", ())),
                    program_id=body["program_id"],
                    params=body["params"],
                    max_s=body.get("cost"),
                    session_id=body.get("session_id"),
                    created=self.now(),
                    fate=fate.kind if fate and fate.kind != "hidden" else None,
                    hidden=fate is not None and fate.kind == "hidden",
                )
                self.jobs[job.id] = job
                made.append(job)
            return made[0]

    def poll(self, job):
        """Let a job go on by one question about it."""
        with self.lock:
            if job.state in FINAL:
                return
            job.polls += 1
            if job.state == QUEUED and job.polls > self.script.queued_polls:
                self._start(job)
            if job.state == RUNNING and job.polls > self.script.queued_polls + self.script.running_polls:
                self._finish(job)

    def _start(self, job):
        from ibm_programs import Program

        job.state, job.started = RUNNING, self.now()
        try:
            program = Program(job.params)
        except Exception as error:
            self._end(job, FAILED, 0.0, f"Invalid input: {type(error).__name__}: {error}", 8001)
            return
        job.executions = program.executions
        if job.fate is None:
            script = self.script
            device = job.backend.replace("mock_", "ibm_")
            changes = script.halved, script.renamed
            job.work = self._simulating.submit(program.run, device, script.noisy, script.seed, *changes)

    def _finish(self, job):
        bill = self.script.bill_factor * (self.script.base_s + self.script.execution_s * job.executions)
        if job.fate == "stuck" and self.stuck_forever:
            return
        if job.fate == "failed":
            self._end(job, FAILED, bill, "Internal error of the device", 9999)
        elif job.fate == "cancelled":
            self._end(job, CANCELLED, bill / 2, "Cancelled by the operator", 1000)
        elif job.max_s and bill > job.max_s:
            self._end(job, CANCELLED, float(job.max_s), "Ran too long", 1305)
        elif job.work is None:
            job.fate = None
            self._start(job)
        elif job.work.done():
            error = job.work.exception()
            if error is not None:
                self._end(job, FAILED, 0.0, f"{type(error).__name__}: {error}", 9998)
                return
            job.result = job.work.result()
            self._end(job, COMPLETED, 0.0 if job.backend.startswith("mock_") else bill)

    def _end(self, job, state, bill, reason=None, code=None):
        job.state, job.reason, job.reason_code = state, reason, code
        job.billed_s, job.ended = bill, self.now()

    def cancel(self, job):
        """Cancel a job; False if it is over. One that runs is billed half."""
        with self.lock:
            if job.state in FINAL:
                return False
            bill = self.script.bill_factor * (self.script.base_s + self.script.execution_s * job.executions)
            self._end(job, CANCELLED, bill / 2 if job.state == RUNNING else 0.0, "Cancelled by the user", 1001)
            return True

    def listed(self, tags, mocks):
        """Jobs under all these tags, oldest first, those left out that are too new."""
        with self.lock:
            return [
                job
                for job in self.jobs.values()
                if set(tags) <= set(job.tags)
                and self.now() - job.created >= self.script.listing_s
                and (self.script.shown or not job.hidden)
                and (mocks or not job.backend.startswith("mock_"))
            ]

    def describe(self, job, estimate=True):
        """A job as the API answers it."""
        state = {"status": job.state, "reason": job.reason, "reason_code": job.reason_code}
        return {
            "id": job.id,
            "backend": job.backend,
            "program": {"id": job.program_id},
            "created": stamp(job.created),
            "tags": job.tags,
            "state": state,
            "status": job.state,
            "cost": job.max_s,
            "session_id": job.session_id,
            "estimated_running_time_seconds": self.estimate(job) if estimate else None,
        }

    def estimate(self, job):
        """Seconds by the formula, once the program was read."""
        return self.script.base_s + self.script.execution_s * job.executions if job.executions else None

    def metrics(self, job):
        """Time stamps and usage of a job."""
        with self.lock:
            pending = job.state not in FINAL
            if not pending:
                job.bill_asked += 1
                pending = job.bill_asked <= self.script.bill_late
            billed = 0.0 if pending else job.billed_s
            usage = dict.fromkeys(("qpu_charge_time_seconds", "quantum_seconds", "seconds"), billed)
            usage["status"] = "pending" if pending else "completed"
            times = {"created": job.created, "running": job.started, "finished": job.ended}
            return {
                "timestamps": {name: stamp(value) if value else None for name, value in times.items()},
                "usage": usage,
                "executions": job.executions,
            }

    def pending(self):
        """Jobs that are not over; those of the mock devices do not count."""
        with self.lock:
            return sum(job.state not in FINAL and not job.backend.startswith("mock_") for job in self.jobs.values())

    def spent_s(self):
        """Seconds billed so far."""
        with self.lock:
            return sum(job.billed_s for job in self.jobs.values() if job.state in FINAL)

    def facts(self):
        """Everything a test may want to know."""
        with self.lock:
            return {
                "jobs": [job.facts() for job in self.jobs.values()],
                "requests": list(self.requests),
                "billed_s": self.spent_s(),
                "script": asdict(self.script) | {"api_key": "hidden"},
            }


def stamp(seconds):
    """Seconds since the epoch as the API writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

"""Chooses the arm of a decision, meters it and records it: the only bridge between arms and infrastructure."""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from infra import events
from infra.energy.arms import Measured, measure_arms
from infra.energy.meter import Span
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BackendFailed, BudgetExceeded, StillQueued
from infra.evidence import Evidence, EvidenceRow, Status, orchestration_row, stage_row
from infra.runtime.backends.registry import open_backend
from infra.runtime.queue import Runtime, Scope, dispatched_usage
from infra.settings import Objective, home_here
from infra.shared import open_evidence
from tasks import policy
from tasks.contract import Arm, Bench, Decision, Kind, Method, Outcome, Subtask, content_key
from tasks.stage import Context, State

log = logging.getLogger("ketcycle.settle")

SHARED = "shared"  # first word of who asks, in the ledger, where it is no arm but a value that arms share

P = TypeVar("P")
S = TypeVar("S")
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Workbench:
    """What `settle` works with. Picklable; opens its connections where it is used.

    Attributes:
        run_id: the run.
        home: the state folder; unpickled on another machine it may be that one's.
        ledger: URL of the runtime queue's ledger.
        backend: `aer`, `noisy:<fake device>`.
        seed: seed of the run.
        method: how the arm is picked.
        objective: what auto routing minimises.
        country: place that computes.
        projection_device: fake device on which QPU time is projected.
        simulation_limit_s: CPU seconds that one call may be expected to simulate; beyond it the arm is refused.
        repetition: number of this execution of the same problem.
        minimum_s: arms under half a second are looped to at least this many seconds; 0 = never.
        blocks: rounds in which the looped arms take turns.
        probe: whether the problem is a probe and not one of the run itself.
        data: fingerprint of the data that the run rests on; evidence from other data does not count.
        remote_deadline_s: seconds that an arm's execution waits for a remote queue.
    """

    run_id: str
    home: Path
    ledger: str
    backend: str = "aer"
    seed: int = 0
    method: Method = Method.SHADOW
    objective: Objective = "energy"
    country: str = "DEU"
    projection_device: str = "fake_torino"
    simulation_limit_s: float = 1200.0
    repetition: int = 0
    minimum_s: float = 1.0
    blocks: int = 5
    probe: bool = False
    data: str = ""
    remote_deadline_s: float = 600.0

    @property
    def evidence(self) -> Evidence:
        """The evidence of the installation."""
        return open_evidence(self.home)

    @cached_property
    def runtime(self) -> Runtime:
        """The quantum runtime queue."""
        return Runtime(
            self.ledger,
            self.backend,
            home=self.home,
            projection=self.projection_device,
            simulation_limit_s=self.simulation_limit_s,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "runtime"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, home=home_here(state["home"]))


@dataclass(frozen=True)
class Shadow:
    """Arms that are still to be run beside the chosen one. Picklable.

    Attributes:
        context: the stage.
        state: what the stage had when the decision was posed.
        subtask: the decision.
        problem: content key of its problem.
        arms: the arms.
        bench: what they work with.
        since: when the stage began, as rows are stamped; what an earlier attempt left does not count.
    """

    context: Context
    state: State
    subtask: str
    problem: str
    arms: tuple[str, ...]
    bench: Workbench
    since: str = ""

    def left(self) -> Shadow:
        """Return the arms that have left no evidence yet, those included whose row is pending."""
        where = {"stage": self.context.stage, "subtask": self.subtask, "problem": self.problem}
        rows = self.bench.evidence.read(run_id=self.context.run_id, **where)
        rows = [row for row in rows if row.created_at >= self.since]
        pending = [row.arm for row in rows if row.status == "pending"]
        seen = {row.arm for row in rows} - set(pending)
        return replace(self, arms=tuple(arm for arm in dict.fromkeys((*self.arms, *pending)) if arm not in seen))


@dataclass
class _Execution(Generic[S]):
    """One arm's execution: what it returned, what it used, how it ended."""

    measured: Measured[S]
    status: Status
    reason: str
    usage: Usage
    prepare: Usage
    total: Usage
    source: str
    reused: bool


def settle(subtask: Subtask[P, S], problem: P, bench: Workbench) -> tuple[Outcome[S], tuple[str, ...]]:
    """Run the arm that the method names and return its solution, with the names of the arms to run beside.

    A refused budget, a failed backend or a late remote result falls back to the incumbent with the reason;
    a programming error raises.
    """
    problem_id = content_key(problem)
    decision, beside = _decide(subtask, problem, problem_id, bench)
    executions = _execute(subtask, problem, problem_id, [decision.arm], bench)
    chosen = executions[decision.arm]
    if chosen.status != "done":
        if not isinstance(chosen.measured.error, BudgetExceeded | BackendFailed | StillQueued):
            raise _error(chosen)
        _record(subtask, problem, problem_id, executions, None, bench)
        if chosen.status == "refused":
            asked = f"{subtask.key}/{decision.arm}"
            told = {"what": asked, "reason": chosen.reason, "run_id": bench.run_id}
            events.emit("budget.exhausted", told, once=f"{bench.run_id} {asked}")
        decision = Decision(subtask.incumbent.name, "fallback", f"{decision.arm} {chosen.status}: {chosen.reason}")
        executions = _execute(subtask, problem, problem_id, [decision.arm], bench)
        chosen = executions[decision.arm]
        if chosen.status != "done":
            raise _error(chosen)
    _record(subtask, problem, problem_id, executions, decision, bench)
    log.info("%s: %s (%s)", subtask.key, decision.arm, decision.reason)
    left = tuple(name for name in beside if name != decision.arm)
    return Outcome(_value(chosen), decision, problem_id), left


def run_shadow(subtask: Subtask[P, S], problem: P, arms: Sequence[str], bench: Workbench) -> int:
    """Run arms beside the chosen one; a failure is recorded, never raised. Returns the number of arms run."""
    problem_id = content_key(problem)
    executions = _execute(subtask, problem, problem_id, list(arms), bench)
    where = {"stage": subtask.stage, "subtask": subtask.name, "problem": problem_id, "status": "pending"}
    for row in bench.evidence.read(run_id=bench.run_id, **where):
        if row.arm in executions:
            # What the execution that was late spent here; its finished calls are in the new row's books.
            own = Usage(row.total.cpu_s - row.total.simulation_cpu_s, row.total.wall_s, row.total.rss_gb_s)
            executions[row.arm].total = executions[row.arm].total + own
    _record(subtask, problem, problem_id, executions, None, bench)
    return len(executions)


def run_arms(subtask: Subtask[P, S], problem: P, arms: Sequence[str], bench: Workbench) -> dict[str, S]:
    """Run arms on a problem outside a run, record them, and return the solutions of those that finished."""
    problem_id = content_key(problem)
    executions = _execute(subtask, problem, problem_id, list(arms), bench)
    _record(subtask, problem, problem_id, executions, None, bench)
    return {name: _value(execution) for name, execution in executions.items() if execution.status == "done"}


def record_work(context: Context, part: str, usage: Usage, source: str, peak_rss_mb: float) -> None:
    """Record the work of a stage that belongs to no decision."""
    note = json.dumps({"peak_rss_mb": round(peak_rss_mb, 1)})
    row = stage_row(
        context.run_id, context.stage, usage, problem=part, energy_source=source, decision=note, **_provenance()
    )
    open_evidence(context.home).append([row])


def record_orchestration(home: Path, run_id: str, since: str, tree_cpu_s: float) -> None:
    """Record what of the CPU time of a run (or of its continuation) is booked to no row since it began.

    That is scheduling, tracking, the ledger, scoring. Each call adds a row for what came since the call before.
    """
    evidence = open_evidence(home)
    rows = evidence.read(run_id=run_id)
    booked = sum(row.total.cpu_s for row in rows if row.created_at >= since)
    before = sum(row.arm == "orchestration" for row in rows)
    usage = Usage(cpu_s=tree_cpu_s - booked)
    evidence.append([orchestration_row(run_id, usage, repetition=before, **_provenance())])


def _decide(subtask: Subtask[P, S], problem: P, problem_id: str, bench: Workbench) -> tuple[Decision, tuple[str, ...]]:
    everything = tuple(arm.name for arm in subtask.arms)
    match bench.method:
        case Method.CLASSICAL:
            return Decision(subtask.incumbent.name, "method", "the run asks for the classical method"), ()
        case Method.QUANTUM:
            return Decision(subtask.challenger.name, "method", "the run asks for the quantum method"), ()
        case Method.SHADOW:
            reason = "the incumbent decides; the other arms run beside it"
            return Decision(subtask.incumbent.name, "method", reason), everything
    setting = policy.Setting(
        backend=f"{bench.backend} {bench.runtime.calibration}",
        bucket=policy.size_bucket(subtask.size(problem)),
        data=bench.data,
        objective=bench.objective,
    )
    rows = bench.evidence.read(stage=subtask.stage, subtask=subtask.name, backend=bench.backend)
    # What an interrupted attempt of this run left must not change what it decides now.
    rows = [row for row in rows if (row.run_id, row.problem) != (bench.run_id, problem_id)]
    rng = _generator(bench, subtask.key, "reverse shadow")
    choice = policy.choose(subtask, setting, trials(rows, bench.objective), rng)
    return choice.decision, choice.explore


def trials(rows: Sequence[EvidenceRow], objective: Objective) -> list[policy.Trial]:
    """Return the evidence as the policy sees it: one trial for each instance, costs under shared draws.

    An execution that failed counts as one without quality on every instance that the other arms solved there; what
    a chosen arm spent was no shadow's spending.
    """
    coefficients = Coefficients.load()
    instances = {row.problem: len(row.qualities) for row in rows if row.qualities}
    found = []
    for row in rows:
        n = instances.get(row.problem, 0)
        if not n or row.status not in ("done", "failed"):
            continue
        about = (objective, row.backend, f"{row.subtask}/{row.arm}")
        cost = coefficients.cost_draws(row.usage + row.prepare, *about, source=row.energy_source) / n
        spent = 0.0
        if not row.chosen:
            spent = float(np.median(coefficients.cost_draws(row.total, *about, source=row.energy_source))) / n
        found += [
            policy.Trial(
                instance=f"{row.problem}/{position}",
                arm=row.arm,
                arm_version=row.arm_version,
                backend=f"{row.backend} {row.calibration}",
                bucket=policy.size_bucket(row.size),
                data=row.data,
                unit=row.unit or f"{row.problem}/{position}",
                quality=quality,
                cost=cost,
                spent=spent,
            )
            for position, quality in enumerate(row.qualities or (float("nan"),) * n)
        ]
    return found


def _execute(
    subtask: Subtask[P, S], problem: P, problem_id: str, names: Sequence[str], bench: Workbench
) -> dict[str, _Execution[S]]:
    """Run arms on one problem, each alone; the short ones take turns in further rounds."""
    with _scratch(bench.home, names) as scratch:
        shared = _Shared()
        handles = {
            name: _Handle(subtask, subtask.arm(name), problem, problem_id, bench, shared, scratch[name])
            for name in names
        }
        measured = measure_arms(
            {name: handle.solve for name, handle in handles.items()},
            rng=_generator(bench, subtask.key, problem_id, "order"),
            blocks=bench.blocks,
            minimum_s=bench.minimum_s,
            loopable={name for name, handle in handles.items() if handle.arm.kind is not Kind.QUANTUM},
            foreign=lambda: dispatched_usage() + shared.spent,
        )
    return {name: _finish(handle, measured[name]) for name, handle in handles.items()}


class _Shared:
    """Values that several arms derive from one problem, each made once, with what it cost."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, Usage]] = {}
        self.spent = Usage()  # by this process, to be taken out of the arm during whose time it was made
        self.late = False  # whether an arm's remote result was not there in time

    def get(self, key: str, make: Callable[[], T], queued: Callable[[], Usage]) -> tuple[T, Usage, bool]:
        """Return the value, its cost, and whether it was made just now."""
        if key in self.values:
            value, cost = self.values[key]
            return value, cost, False
        before, sent = dispatched_usage(), queued()
        with Span() as span:
            value = make()
        own = span.usage - (dispatched_usage() - before)
        self.spent = self.spent + own
        cost = own + (queued() - sent)
        self.values[key] = (value, cost)
        return value, cost, True


class _Handle(Generic[P, S]):
    """Runs one arm with a bench of its own and keeps the books of its first run."""

    def __init__(
        self,
        subtask: Subtask[P, S],
        arm: Arm[P, S],
        problem: P,
        problem_id: str,
        bench: Workbench,
        shared: _Shared,
        scratch: Path,
    ) -> None:
        self.arm, self._problem, self._bench, self._shared, self._scratch = arm, problem, bench, shared, scratch
        self._subtask, self._problem_id = subtask, problem_id
        self.queued, self.shared_cost, self.new_cost = Usage(), Usage(), Usage()
        self.shared_queued = Usage()
        self.reused = False
        self._runs = 0

    def solve(self) -> S:
        """Solve the problem once more, with the same random numbers as the first time."""
        bench, arm, scope = self._bench, self.arm, self._scope(self.arm.name, self.arm)
        deadline = self._deadline()
        sampler, estimator = bench.runtime.sampler(scope, deadline), bench.runtime.estimator(scope, deadline)
        first, asked = self._runs == 0, set[str]()
        self._runs += 1

        def queued() -> Usage:
            return sampler.usage + estimator.usage

        def once(key: str, make: Callable[[], T], /) -> T:
            before, shared = queued(), self._scope(f"{SHARED} {key}", *self._subtask.arms)
            with sampler.asking_as(shared), estimator.asking_as(shared):
                value, cost, new = self._shared.get(key, make, queued)
            if first and key not in asked:
                asked.add(key)
                self.shared_cost = self.shared_cost + cost
                if new:
                    self.new_cost = self.new_cost + cost
                    self.shared_queued = self.shared_queued + (queued() - before)
            return value

        rng = _generator(bench, self._subtask.key, self._problem_id, arm.name)
        try:
            solution = arm.solve(self._problem, Bench(rng, sampler, estimator, _serial, once, self._scratch, deadline))
        except StillQueued:
            self._shared.late = True
            raise
        if first:
            self.queued = queued() - self.shared_queued
            self.reused = sampler.reused or estimator.reused
        return solution

    def _scope(self, asks: str, *arms: Arm[P, S]) -> Scope:
        """Return who asks the queue: an arm, or what several arms share, which depends on the versions of all."""
        bench, subtask = self._bench, self._subtask
        # A run that goes on with another seed, backend or version of the arm is no replay of what it did before.
        variant = " ".join([str(bench.seed), bench.backend, *(str(arm.version) for arm in arms)])
        where = (bench.run_id, subtask.stage, subtask.name, self._problem_id)
        return Scope(*where, asks, bench.repetition, bench.seed, variant)

    def _deadline(self) -> float | None:
        """Return until when a remote result is waited for; None where it is made in this process."""
        if open_backend(self._bench.backend).local:
            return None
        # The arms beside a decision hold one worker after the other: once one was late, the next ones do not wait.
        return time.time() + (0.0 if self._shared.late else self._bench.remote_deadline_s)


def _finish(handle: _Handle[P, S], measured: Measured[S]) -> _Execution[S]:
    """Add up an arm's books: what one solution costs, what was shared, what was really spent."""
    status: Status = "done"
    reason = ""
    if measured.error is not None:
        status = _status(measured.error)
        reason = f"{type(measured.error).__name__}: {measured.error}"
        log.warning("%s %s: %s", handle.arm.name, status, reason)
    return _Execution(
        measured=measured,
        status=status,
        reason=reason,
        usage=measured.per_run + handle.queued,
        prepare=handle.shared_cost,
        total=measured.total + handle.queued + handle.new_cost,
        source=measured.source,
        reused=handle.reused,
    )


def _status(error: Exception) -> Status:
    match error:
        case BudgetExceeded():
            return "refused"
        case StillQueued():
            return "pending"
        case _:
            return "failed"


def _record(
    subtask: Subtask[P, S],
    problem: P,
    problem_id: str,
    executions: Mapping[str, _Execution[S]],
    decision: Decision | None,
    bench: Workbench,
) -> None:
    """Score the solutions (booked to nobody) and append one evidence row for each arm."""
    oracle = subtask.oracle(problem) if subtask.oracle else ()
    rows = [
        EvidenceRow(
            run_id=bench.run_id,
            stage=subtask.stage,
            subtask=subtask.name,
            problem=problem_id,
            probe=bench.probe,
            size=subtask.size(problem),
            arm=name,
            kind=str(subtask.arm(name).kind),
            role=_role(subtask, name),
            arm_version=subtask.arm(name).version,
            repetition=bench.repetition,
            backend=bench.backend,
            calibration=bench.runtime.calibration,
            quality_backend=bench.backend if execution.usage.circuits or execution.prepare.circuits else "cpu",
            status=execution.status,
            reason=execution.reason,
            metric=subtask.metric,
            tolerance=subtask.tolerance,
            qualities=tuple(subtask.quality(problem, _value(execution))) if execution.status == "done" else (),
            oracle=oracle,
            usage=execution.usage,
            prepare=execution.prepare,
            total=execution.total,
            loops=execution.measured.loops,
            energy_source=execution.source,
            reused=execution.reused,
            chosen=decision is not None and decision.arm == name,
            method=str(bench.method),
            data=bench.data,
            decision=json.dumps(asdict(decision)) if decision else "",
            **_provenance(),
        )
        for name, execution in executions.items()
    ]
    bench.evidence.append(rows)


def _role(subtask: Subtask[P, S], name: str) -> str:
    return {subtask.incumbent.name: "incumbent", subtask.challenger.name: "challenger"}.get(name, "")


def _value(execution: _Execution[S]) -> S:
    if execution.measured.error is not None:
        raise execution.measured.error
    return execution.measured.value  # type: ignore[return-value]  # an execution without error has a value


def _error(execution: _Execution[S]) -> BaseException:
    return execution.measured.error or RuntimeError(execution.reason)


def _serial(function: Callable[[T], U], items: Sequence[T], /) -> list[U]:
    return [function(item) for item in items]


def _generator(bench: Workbench, *names: str) -> np.random.Generator:
    """Return a generator that depends on the run's seed and on what it is for, not on who else ran."""
    text = json.dumps([bench.seed, bench.repetition, *names])
    return np.random.default_rng(int(content_key(text), 16))


@contextmanager
def _scratch(home: Path, arms: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Yield a folder for each arm; made once, as making one takes longer than the quickest arms."""
    base = home / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as folder:
        yield {arm: Path(tempfile.mkdtemp(dir=folder)) for arm in arms}


@cache
def _provenance() -> dict[str, Any]:
    versions = {name: version(name) for name in ("ketcycle", "qiskit", "qiskit-aer", "torch", "numpy")}
    return {"versions": json.dumps(versions), "host": platform.node()}

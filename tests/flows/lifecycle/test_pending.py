"""A remote queue slower than an arm may wait: the row is pending, and is completed when the results are in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from qiskit import QuantumCircuit

from flows.lifecycle import walk as stages
from flows.lifecycle.config import RunConfig
from flows.lifecycle.pending import complete_pending
from flows.lifecycle.walk import StageResult, bench_of, context_of
from flows.operations.dispatch import dispatch
from infra import completion, settings
from infra.evidence import EvidenceRow
from infra.lake import Ref
from infra.runtime.backends import registry as backends
from infra.runtime.backends.contract import JobState, Status
from infra.runtime.limits import Limits
from infra.settings import Settings
from tasks import steps
from tasks.contract import Arm, Bench, Instance, Kind, Subtask
from tasks.settle import run_shadow
from tasks.stage import Context, State


@dataclass(frozen=True)
class Coins:
    count: int


def flipped(rounds: int, problem: Coins, bench: Bench) -> int:
    """Count heads, asking the device once a round, as a variational loop would."""
    circuit = QuantumCircuit(problem.count)
    circuit.x(range(problem.count))
    circuit.measure_all()
    heads = 0
    for _ in range(rounds):
        counts = bench.sampler.run([circuit], shots=8).result()[0].data.meas.get_counts()
        heads = max(counts).count("1")
    return heads


def shared(problem: Coins, bench: Bench) -> int:
    return bench.once("flips", lambda: flipped(1, problem, bench))


def counted(problem: Coins, bench: Bench) -> int:
    return problem.count


SUBTASK: Subtask[Coins, int] = Subtask(
    stage="curation",
    name="coins",
    incumbent=Arm("count", Kind.CLASSICAL, counted),
    challenger=Arm("flip", Kind.QUANTUM, lambda p, b: flipped(1, p, b)),
    others=(
        Arm("flip twice", Kind.QUANTUM, lambda p, b: flipped(2, p, b)),
        Arm("share", Kind.QUANTUM, shared),
        Arm("share too", Kind.CONTROL, shared),
    ),
    quality=lambda problem, solution: (float(solution - problem.count),),
    metric="heads found",
    size=lambda problem: problem.count,
    tolerance=0.0,
    bank=lambda material, rng: [Instance("made up", "one", 3, lambda: Coins(3))],
    example=lambda rng: Coins(3),
    pose=lambda context, state, options: Coins(3),
    apply=lambda context, state, problem, solution: state,
)


class SlowDevice:
    """Jobs stay queued until the gate opens, then run on Aer; the server outlives its clients."""

    name, calibration = "slow", "slow"
    local = priced = False
    listing_delay_s = 0.0
    finds, usd_per_s = True, None
    linger_s = poll_s = 0.001
    limits = Limits()

    def __init__(self) -> None:
        self.gate, self.jobs = threading.Event(), dict[str, tuple[str, Sequence[Any]]]()

    def effective(self, options: Any) -> dict[str, Any]:
        return dict(options)

    def expected_cpu_s(self, circuit: Any, circuits: int, shots: int) -> float:
        return 0.0

    def estimate_qpu_s(self, circuit: Any, digest: str, executions: int) -> float:
        return 0.0

    def billed(self, job_id: str) -> float:
        return 0.0

    def submit(self, tag: str, tasks: Sequence[Any], *, max_qpu_s: float | None = None, leaving: Any = None) -> str:
        leaving()
        job_id = f"job{len(self.jobs)}"
        self.jobs[job_id] = (tag, tasks)
        return job_id

    def status(self, job_id: str) -> Status:
        return Status(JobState.DONE if self.gate.is_set() else JobState.QUEUED)

    def results(self, job_id: str) -> Iterator[Any]:
        aer = backends.open_backend("aer")
        yield from aer.results(aer.submit(job_id, self.jobs[job_id][1]))

    def cancel(self, job_id: str) -> None:
        raise AssertionError("nothing is cancelled here")

    def find(self, tag: str) -> tuple[str, ...]:
        return tuple(job for job, (of, _) in self.jobs.items() if of == tag)


@dataclass
class Home:
    """One stage of one run on the slow device."""

    loaded: Settings
    device: SlowDevice
    context: Context
    parts: dict[str, Any]
    product: Ref

    def rows(self) -> dict[str, EvidenceRow]:
        found = bench_of(self.loaded, "r1", self.parts, "d").evidence.read(run_id="r1")
        return {row.arm: row for row in found if row.subtask}

    def open_the_gate(self) -> None:
        """Let the device answer, and dispatch as the deployment does: again and again (the first caller may lead)."""
        self.device.gate.set()
        give_up = time.monotonic() + 60
        while any(row.status == "pending" for row in self.rows().values()):
            assert time.monotonic() < give_up
            dispatch.fn("slow")
            time.sleep(0.05)

    def walk(self, method: str) -> steps.Decided:
        """Decide, run the arms beside, and leave the records that a run leaves."""
        self.parts["method"] = method
        bench = bench_of(self.loaded, "r1", self.parts, "d")
        began_s = time.time()
        decided = steps.decide(self.context, State(), "coins", bench, "2026")
        assert decided.beside is not None
        assert decided.decision is not None
        if decided.beside.arms:
            run_shadow(SUBTASK, Coins(3), decided.beside.arms, bench)
        decisions = {"coins": {**vars(decided.decision), "problem": decided.beside.problem}}
        refs = {"curation/kept": str(self.product)}
        shadows = (decided.beside,)
        result = StageResult("curation", "done", began_s, 0.1, refs, {}, decisions, data="d", shadows=shadows)
        completion.record(self.loaded.home, "r1", "curation", self.parts, stages._plain(result))
        config = RunConfig(run_id="r1", method=method, backend="slow", stages=("curation",)).model_dump(mode="json")
        entry = {k: v for k, v in vars(result).items() if k != "shadows"}
        run = {"config": config, "status": "done", "began_s": began_s, "wall_s": 0.1, "stages": {"curation": entry}}
        folder = self.loaded.home / "runs" / "r1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps(run))
        return decided


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    device = SlowDevice()
    monkeypatch.setitem(backends.FACTORIES, "slow", lambda _: device)
    monkeypatch.setattr(backends, "_open", {})
    monkeypatch.setattr(steps, "load_decision", lambda stage, name: SUBTASK)
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    loaded = settings.load().model_copy(update={"remote_deadline_s": 0.2})
    settle = {"minimum_s": 0.0, "blocks": 1}
    parts = {"inputs": {}, "options": {}, "settle": settle, "seed": 0, "objective": "energy", "backend": "slow"}
    context = context_of(loaded, "r1", "curation", parts)
    product = context.lake.write("curation/kept", pa.table({"n": [1, 2]}))
    return Home(loaded, device, context, parts, product)


def test_a_late_result_falls_back_and_the_row_is_completed_later(home: Home) -> None:
    decided = home.walk("quantum")
    assert decided.decision is not None
    assert (decided.decision.arm, decided.decision.rule) == ("count", "fallback")
    assert "flip pending: StillQueued" in decided.decision.reason
    assert {arm: (row.status, row.chosen) for arm, row in home.rows().items()} == {
        "flip": ("pending", False),
        "count": ("done", True),
    }
    [still] = complete_pending(home.loaded)
    assert still.status == "pending", "its job is not over"
    home.open_the_gate()
    row = home.rows()["flip"]
    assert (row.status, row.qualities, row.chosen, row.usage.shots) == ("done", (0.0,), False, 8)
    assert len(home.device.jobs) == 1, "nothing is sent twice"
    folder = home.loaded.home / "runs" / "r1"
    report = json.loads((folder / "report.json").read_text())
    shown = {arm["arm"]: arm["status"] for arm in report["stages"][0]["subtasks"][0]["rows"]}
    assert shown == {"flip": "done", "count": "done"}
    assert report["stages"][0]["subtasks"][0]["chosen"] == "count", "what the run decided stays"
    assert (folder / "report.md").exists()
    assert (folder / "report.html").exists()
    assert home.context.lake.versions("curation/kept") == [home.product]
    assert complete_pending(home.loaded) == []


def test_shadow_arms_that_are_late_wait_in_the_queue_and_loops_go_on(home: Home) -> None:
    home.walk("shadow")
    assert {arm: row.status for arm, row in home.rows().items()} == {
        "count": "done",
        "flip": "pending",
        "flip twice": "pending",
        "share": "pending",
        "share too": "pending",
    }
    first = home.rows()["flip twice"].total.cpu_s
    home.open_the_gate()
    assert {row.status for row in home.rows().values()} == {"done"}
    assert home.rows()["flip twice"].usage.circuits == 2
    assert home.rows()["flip twice"].total.cpu_s >= first, "what the late execution spent stays booked"
    tasks = sum(len(tasks) for _, tasks in home.device.jobs.values())
    assert tasks == 4, "one circuit of the first arm, two of the second, one that two arms share, none twice"


def test_a_continued_run_takes_pending_rows_up(home: Home) -> None:
    home.walk("quantum")
    done = completion.find(home.loaded.home, "r1", "curation")
    assert done is not None
    patient = replace(bench_of(home.loaded, "r1", home.parts, "d"), remote_deadline_s=60.0)
    [shadow] = stages.shadows_of(done, home.context, patient)
    assert shadow.arms == ()
    assert shadow.left().arms == ("flip",)
    home.device.gate.set()
    assert steps.shadow(shadow) == 1
    assert home.rows()["flip"].status == "done"
    assert shadow.left().arms == ()
    assert steps.shadow(shadow) == 0, "a finished shadow that a cluster repeats does nothing"


def test_a_call_that_was_cancelled_meanwhile_is_not_sent_again(home: Home) -> None:
    home.walk("quantum")
    from infra.runtime.ledger.ledger import Ledger
    from infra.runtime.ledger.schema import calls

    with Ledger(home.loaded.ledger).database.write() as connection:
        connection.execute(calls.update().values(state="CANCELLED"))
    [ended] = complete_pending(home.loaded)
    assert ended.status == "failed"
    assert "CANCELLED" in home.rows()["flip"].reason
    sent = len(home.device.jobs)
    assert complete_pending(home.loaded) == []
    assert len(home.device.jobs) == sent <= 1
    home.device.gate.set()


def test_a_pending_row_of_a_decision_that_is_posed_otherwise_now_is_given_up(home: Home) -> None:
    home.walk("quantum")
    done = completion.find(home.loaded.home, "r1", "curation")
    assert done is not None
    result = {**done.result, "shadows": [{**item, "problem": "another"} for item in done.result["shadows"]]}
    completion.record(home.loaded.home, "r1", "curation", home.parts, result)
    [ended] = complete_pending(home.loaded)
    assert ended.status == "skipped"
    home.device.gate.set()


def test_rows_of_a_run_that_is_going_on_are_left_to_it(home: Home) -> None:
    home.walk("quantum")
    home.device.gate.set()
    with completion.claimed(home.loaded.home, "r1"):
        assert complete_pending(home.loaded) == []
    assert home.rows()["flip"].status == "pending"

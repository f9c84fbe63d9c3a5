"""The bridge between arms and infrastructure, on a small decision of its own: pick the largest of a few numbers."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from qiskit import QuantumCircuit

from infra.energy.usage import Usage
from infra.errors import BackendFailed
from infra.evidence import EvidenceRow
from infra.runtime.backends import registry
from infra.runtime.figures.inspect import list_calls
from infra.shared import open_evidence
from tasks.contract import Arm, Bench, Instance, Kind, Method, Subtask, content_key
from tasks.settle import run_shadow, settle
from tasks.workbench import Workbench

BURN_S = 0.25


@dataclass(frozen=True)
class Numbers:
    values: NDArray[np.float64]


def burn(seconds: float) -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = used.ru_utime + used.ru_stime + seconds
    while True:
        used = resource.getrusage(resource.RUSAGE_SELF)
        if used.ru_utime + used.ru_stime >= end:
            return seconds


def largest(problem: Numbers, bench: Bench) -> int:
    return int(problem.values.argmax())


def nothing(problem: Numbers, bench: Bench) -> int:
    return 0


def chance(problem: Numbers, bench: Bench) -> int:
    return int(bench.rng.integers(len(problem.values)))


def prepared(problem: Numbers, bench: Bench) -> int:
    bench.once("table", lambda: burn(BURN_S))
    return int(problem.values.argmax())


def prepared_too(problem: Numbers, bench: Bench) -> int:
    return prepared(problem, bench)


def measured(problem: Numbers, bench: Bench) -> int:
    bench.once("table", lambda: burn(BURN_S))
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.measure_all()
    counts = bench.sampler.run([circuit], shots=64).result()[0].data.meas.get_counts()
    return int(max(counts, key=lambda bits: counts[bits]), 2) % len(problem.values)


def tossed(problem: Numbers, bench: Bench) -> list[str]:
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.measure_all()
    return bench.once("tosses", lambda: bench.sampler.run([circuit], shots=8).result()[0].data.meas.get_bitstrings())


def first_toss(problem: Numbers, bench: Bench) -> int:
    return int(tossed(problem, bench)[0], 2) % len(problem.values)


def last_toss(problem: Numbers, bench: Bench) -> int:
    chosen = int(tossed(problem, bench)[-1], 2) % len(problem.values)
    circuit = QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    bench.sampler.run([circuit], shots=1).result()
    return chosen


def backend_down(problem: Numbers, bench: Bench) -> int:
    raise BackendFailed("the device is under maintenance")


def mistake(problem: Numbers, bench: Bench) -> int:
    raise ZeroDivisionError("a bug")


def quality(problem: Numbers, solution: int) -> tuple[float, ...]:
    return (float(problem.values[solution] - problem.values.max()),)


def example(rng: Generator) -> Numbers:
    return Numbers(rng.normal(size=6))


SUBTASK: Subtask[Numbers, int] = Subtask(
    stage="curation",
    name="largest",
    incumbent=Arm("argmax", Kind.CLASSICAL, largest),
    challenger=Arm("measured", Kind.QUANTUM, measured),
    others=(
        Arm("nothing", Kind.CONTROL, nothing, does_nothing=True),
        Arm("chance", Kind.CONTROL, chance),
        Arm("prepared", Kind.CLASSICAL, prepared),
        Arm("prepared too", Kind.CLASSICAL, prepared_too),
    ),
    quality=quality,
    metric="distance to the largest",
    size=lambda problem: len(problem.values),
    tolerance=0.01,
    bank=lambda material, rng: [Instance("made up", "one", 4, lambda: example(rng))],
    example=example,
    oracle=lambda problem: (0.0,),
)
PROBLEM = example(np.random.default_rng(0))


def bench(home: Path, method: Method = Method.SHADOW, **changes: object) -> Workbench:
    made = Workbench("r1", home, str(home / "ledger.db"), method=method, minimum_s=0.05, blocks=2, data="d")
    return replace(made, **changes)  # type: ignore[arg-type]


def rows(home: Path) -> dict[str, EvidenceRow]:
    return {row.arm: row for row in bench(home).evidence.read()}


def test_the_classical_method_runs_the_incumbent_alone(tmp_path: Path) -> None:
    outcome, left = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.CLASSICAL))
    assert outcome.solution == PROBLEM.values.argmax()
    assert outcome.problem == content_key(PROBLEM)
    assert left == ()
    [row] = bench(tmp_path).evidence.read()
    assert (row.arm, row.role, row.chosen, row.qualities, row.oracle) == ("argmax", "incumbent", True, (0.0,), (0.0,))
    assert row.loops > 0, "a short arm is looped"


def test_the_quantum_method_runs_the_challenger_through_the_queue(tmp_path: Path) -> None:
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.QUANTUM))
    assert outcome.decision.arm == "measured"
    row = rows(tmp_path)["measured"]
    assert (row.usage.circuits, row.usage.shots, row.quality_backend) == (1, 64, "aer")
    assert row.usage.qpu_s_projected > 2
    assert row.usage.qpu_s_billed == 0
    assert not row.reused
    again, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.QUANTUM))
    assert again.solution == outcome.solution
    replayed = rows(tmp_path)["measured"]
    assert replayed.reused
    assert replayed.usage.shots == row.usage.shots


def test_shadow_leaves_the_other_arms_for_later_and_their_failures_are_only_recorded(tmp_path: Path) -> None:
    broken = replace(SUBTASK, others=(*SUBTASK.others, Arm("broken", Kind.CLASSICAL, mistake)))
    outcome, left = settle(broken, PROBLEM, bench(tmp_path))
    assert outcome.decision.arm == "argmax"
    assert set(left) == {arm.name for arm in broken.arms} - {"argmax"}
    assert run_shadow(broken, PROBLEM, left, bench(tmp_path)) == len(left)
    found = rows(tmp_path)
    assert found["broken"].status == "failed"
    assert "a bug" in found["broken"].reason
    assert all(row.status == "done" for name, row in found.items() if name != "broken")
    assert [name for name, row in found.items() if row.chosen] == ["argmax"]


def test_what_arms_share_is_made_once_and_booked_in_full_to_each(tmp_path: Path) -> None:
    names = ["measured", "prepared", "prepared too", "chance"]
    before = resource.getrusage(resource.RUSAGE_SELF)
    run_shadow(SUBTASK, PROBLEM, names, bench(tmp_path))
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = rows(tmp_path)
    for name in ("measured", "prepared", "prepared too"):
        assert found[name].prepare.cpu_s == pytest.approx(BURN_S, abs=0.1), name
        assert found[name].usage.cpu_s < 0.1, name
    assert found["chance"].prepare.cpu_s == 0
    total = sum((row.total for row in found.values()), Usage())
    assert total.cpu_s < spent, "really spent is booked once"
    assert sum(row.prepare.cpu_s for row in found.values()) > 2.5 * BURN_S


@pytest.mark.parametrize("orders", [(["first", "last"], ["last"]), (["last"], ["first", "last"])])
def test_what_arms_share_is_one_call_whichever_of_them_asks_first(
    tmp_path: Path, orders: tuple[list[str], list[str]]
) -> None:
    first, last = Arm("first", Kind.QUANTUM, first_toss), Arm("last", Kind.CONTROL, last_toss)
    subtask = replace(SUBTASK, challenger=first, others=(last,))
    solutions = []
    for arms in orders:
        run_shadow(subtask, PROBLEM, arms, bench(tmp_path))
        solutions.append(rows(tmp_path)["last"].qualities)
    calls = list_calls(str(tmp_path / "ledger.db"), run="r1")
    assert sorted((call["arm"], call["ordinal"]) for call in calls) == [("last", 0), ("shared tosses", 0)]
    assert solutions[0] == solutions[1]
    used = rows(tmp_path)
    shots = {name: row.usage.shots + row.prepare.shots for name, row in used.items()}
    assert shots == {"first": 8, "last": 9}, "booked in full to each"


def test_a_backend_that_fails_falls_back_to_the_incumbent(tmp_path: Path) -> None:
    down = replace(SUBTASK, challenger=Arm("measured", Kind.QUANTUM, backend_down))
    outcome, _ = settle(down, PROBLEM, bench(tmp_path, Method.QUANTUM))
    assert outcome.decision.arm == "argmax"
    assert outcome.decision.rule == "fallback"
    assert "maintenance" in outcome.decision.reason
    found = rows(tmp_path)
    assert found["measured"].status == "failed"
    assert found["argmax"].chosen


def test_a_programming_error_in_the_chosen_arm_raises(tmp_path: Path) -> None:
    wrong = replace(SUBTASK, challenger=Arm("measured", Kind.QUANTUM, mistake))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        settle(wrong, PROBLEM, bench(tmp_path, Method.QUANTUM))


def test_auto_without_evidence_keeps_the_incumbent_and_says_why(tmp_path: Path) -> None:
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.AUTO))
    assert outcome.decision.arm == "argmax"
    assert "insufficient evidence" in outcome.decision.reason


def put_evidence(home: Path, n: int, arm: str, quality: float, cpu_s: float, loops: int = 1) -> None:
    kinds = {a.name: str(a.kind) for a in SUBTASK.arms}
    used = Usage(cpu_s=cpu_s, wall_s=cpu_s)
    bench(home).evidence.append(
        EvidenceRow(
            run_id="study", stage="curation", subtask="largest", problem=f"p{i}", arm=arm, arm_version="1", size=6,
            kind=kinds[arm], backend="aer", calibration=bench(home).runtime.calibration, qualities=(quality,),
            usage=used, total=used.scaled(loops), data="d", tolerance=0.0,
        )
        for i in range(n)
    )  # fmt: skip


def test_auto_switches_to_what_is_as_good_and_cheaper_even_if_it_does_nothing(tmp_path: Path) -> None:
    put_evidence(tmp_path, 130, "argmax", 0.0, 50.0)
    put_evidence(tmp_path, 130, "nothing", 0.0, 0.01)
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.AUTO))
    assert outcome.decision.arm == "nothing"
    assert outcome.decision.n >= 20


@pytest.mark.parametrize(("usd_per_shot", "chosen"), [(1e-6, "measured"), (1e-3, "argmax")])
def test_the_price_of_a_provider_decides_which_arm_is_cheaper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usd_per_shot: float, chosen: str
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(f"qiskit_aer:aer_simulator: {{usd_per_shot: {usd_per_shot:f}}}")
    monkeypatch.setenv("KETCYCLE_PROVIDER_PRICES", str(prices))
    monkeypatch.setattr(registry, "_open", {})
    rented: dict[str, object] = {"backend": "provider:qiskit_aer:aer_simulator", "objective": "cost"}
    run_shadow(SUBTASK, PROBLEM, ["measured", "argmax"], bench(tmp_path, **rented, data="another"))
    found = rows(tmp_path)
    assert (found["measured"].usage.shots, found["measured"].usage.qpu_s_billed) == (64, 0)
    assert found["measured"].total.usd_billed == pytest.approx(64 * usd_per_shot)
    assert found["argmax"].total.usd_billed == 0
    for name, cpu_s in (("argmax", 50.0), ("measured", 0.01)):  # .00057 USD of CPU time against 64 shots
        row = found[name]
        used = Usage(cpu_s=cpu_s, usd_billed=row.usage.usd_billed)
        fixed = {"run_id": "study", "data": "d", "prepare": Usage(), "usage": used, "total": used, "qualities": (0.0,)}
        bench(tmp_path).evidence.append(replace(row, problem=f"p{i}", **fixed) for i in range(130))
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.AUTO, run_id="r2", **rented))
    assert outcome.decision.arm == chosen, outcome.decision.reason


def test_auto_uses_evidence_that_ships_where_data_and_version_fit_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, home = tmp_path / "shipped", tmp_path / "home"
    put_evidence(shipped, 130, "argmax", 0.0, 50.0)
    put_evidence(shipped, 130, "nothing", 0.0, 0.01)
    monkeypatch.setattr("tasks.settle.shipped_evidence", lambda: open_evidence(shipped))
    outcome, _ = settle(SUBTASK, PROBLEM, bench(home, Method.AUTO))
    assert outcome.decision.arm == "nothing"
    assert outcome.decision.reason.endswith("; 260 executions of the evidence that ships were used")
    other, _ = settle(SUBTASK, PROBLEM, replace(bench(home, Method.AUTO), data="of somebody else"))
    assert other.decision.arm == "argmax"
    assert "ships" not in other.decision.reason
    put_evidence(home, 130, "nothing", 0.0, 0.01)  # the same executions at home do not count twice
    again, _ = settle(SUBTASK, PROBLEM, bench(home, Method.AUTO))
    assert again.decision.reason.endswith("; 130 executions of the evidence that ships were used")


def test_what_trials_cost_is_saved_again_by_those_who_paid_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, user = tmp_path / "payer", tmp_path / "user"
    put_evidence(payer, 130, "argmax", 0.0, 2.0)
    put_evidence(payer, 130, "nothing", 0.0, 0.01, loops=10_000)  # 13,000 s of trials, 1.99 s saved by a use
    paid, _ = settle(SUBTASK, PROBLEM, bench(payer, Method.AUTO))
    assert paid.decision.arm == "argmax"
    assert paid.decision.rule == "not certified: repaid"
    assert "trials repaid after 65" in paid.decision.reason
    monkeypatch.setattr("tasks.settle.shipped_evidence", lambda: open_evidence(payer))
    free, _ = settle(SUBTASK, PROBLEM, bench(user, Method.AUTO))
    assert free.decision.arm == "nothing"


def test_auto_never_takes_a_control_that_guesses(tmp_path: Path) -> None:
    put_evidence(tmp_path, 130, "argmax", 0.0, 50.0)
    put_evidence(tmp_path, 130, "chance", 0.0, 0.01)
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.AUTO))
    assert outcome.decision.arm == "argmax"


def test_auto_stays_with_what_holds_quality(tmp_path: Path) -> None:
    put_evidence(tmp_path, 130, "argmax", 0.0, 50.0)
    put_evidence(tmp_path, 130, "measured", -1.0, 0.01)
    outcome, _ = settle(SUBTASK, PROBLEM, bench(tmp_path, Method.AUTO))
    assert outcome.decision.arm == "argmax"


def test_an_arm_has_its_own_random_numbers_whoever_runs_beside(tmp_path: Path) -> None:
    alone = bench(tmp_path).generator(SUBTASK.key, "p", "chance").random(4)
    again = bench(tmp_path, Method.AUTO).generator(SUBTASK.key, "p", "chance").random(4)
    other = bench(tmp_path, seed=1).generator(SUBTASK.key, "p", "chance").random(4)
    assert (alone == again).all()
    assert (alone != other).any()

"""Studies: nested repeats, paired differences, verdicts, headroom, scored predictions; run without the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from typer.testing import CliRunner

from flows.cli import app
from flows.reports.conversion import Conversion
from flows.reports.figures import arms_of, decision_report
from flows.reports.study.cells import arm_cells, markdown, notes, title
from flows.reports.study.page import forest, quality_energy, study_page, write_study
from flows.study import config as banks
from flows.study import study as module
from flows.study.config import StudyConfig, arms_on, draw_instances, load_record, needed_units, units_reached
from flows.study.study import run_instance
from flows.study.table import build_study, energy_share, inverse_break_even, read_predictions, routing, study_pairs
from infra import runs, settings
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import Evidence, EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence
from tasks.contract import STAGES, Arm, Bench, Instance, Kind, Material, Subtask, in_turns
from tasks.evaluation.rules import Verdict, certified
from tasks.policy import judge
from tasks.registry import subtasks
from tasks.terms import terms
from tasks.workbench import Workbench

approx = pytest.approx


def row(arm: str, problem: int, quality: float, *, repetition: int = 0, cpu_s: float = 0.1, **more: Any) -> EvidenceRow:
    kind = {"greedy": "classical", "qaoa": "quantum", "exact": "classical", "random": "control"}[arm]
    circuits = {"circuits": 1, "shots": 100, "qpu_s_projected": 2.0, "two_qubit_gates": 10} if kind == "quantum" else {}
    used = Usage(cpu_s=cpu_s, wall_s=cpu_s, **circuits)
    values: dict[str, Any] = {
        "run_id": "s1", "stage": "curation", "subtask": "made-up", "problem": f"p{problem:02d}", "arm": arm,
        "kind": kind, "role": {"greedy": "incumbent", "qaoa": "challenger"}.get(arm, ""), "arm_version": "1",
        "repetition": repetition, "probe": True, "size": 5, "backend": "aer", "calibration": "1", "data": "d",
        "quality_backend": "aer", "metric": "share", "tolerance": 0.05, "qualities": (quality,), "oracle": (1.0,),
        "usage": used, "total": used,
    }  # fmt: skip
    return EvidenceRow(**{**values, **more})


def nothing(problem: float, bench: Bench) -> float:
    return 0.0


def half(problem: float, bench: Bench) -> float:
    return problem / 2


def whole(problem: float, bench: Bench) -> float:
    return problem


def broken(problem: float, bench: Bench) -> float:
    if problem >= 900:
        raise ValueError("too\n  large")
    return problem


def bank(material: Material, rng: Generator) -> list[Instance[float]]:
    sources = [
        [Instance(name, f"number {k}", len(texts), partial(float, 100 * len(texts) + k)) for k in range(5)]
        for name, texts in material.texts.items()
    ]
    return list(in_turns(sources))


SUBTASK: Subtask[float, float] = Subtask(
    stage="curation",
    name="made-up",
    incumbent=Arm("greedy", Kind.CLASSICAL, half),
    challenger=Arm("qaoa", Kind.QUANTUM, half),
    others=(Arm("exact", Kind.CLASSICAL, whole), Arm("random", Kind.CONTROL, nothing)),
    quality=lambda problem, solution: (solution / problem,),
    metric="share",
    size=lambda problem: int(problem // 100),
    tolerance=0.05,
    bank=bank,
    example=lambda rng: 1.0,
    oracle=lambda problem: (1.0,),
    measures=lambda problem, solution: {"twice": (2 * solution / problem,)},
)
MATERIAL = Material({"a": ["x"] * 4, "b": ["x"] * 6, "c": ["x"] * 9}, Path("nowhere"))


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(home=tmp_path)


def test_repetitions_are_nested_in_their_instance() -> None:
    rows = [
        row("greedy", p, q + r, repetition=k) for p, q in ((0, 0.2), (1, 0.8)) for k, r in enumerate((0.0, 0.1, 0.2))
    ]
    found = arms_of(rows, Coefficients.load())["greedy"]
    assert [(s.instance, s.quality) for s in found.figures.solved] == [("p00/0", approx(0.3)), ("p01/0", approx(0.9))]
    # .8, .9 and 1.0 against an optimum of 1 with a tolerance of .05: one execution in three hits
    assert [s.hit_rate for s in found.figures.solved] == [0.0, approx(1 / 3)]
    assert found.used.cpu_s == approx(0.1)  # of one solve


def test_a_reported_hit_rate_is_used_and_the_best_seen_value_where_nothing_is_proven() -> None:
    reported = arms_of([row("qaoa", 0, 1.0, hit_rates=(0.25,))], Coefficients.load())["qaoa"].figures
    assert reported.solved[0].hit_rate == 0.25
    seen = [row("greedy", 0, 0.6, oracle=()), row("exact", 0, 0.9, oracle=())]
    arms = arms_of(seen, Coefficients.load())
    assert [arms[name].figures.solved[0].hit_rate for name in ("greedy", "exact")] == [0.0, 1.0]


def judged(rows: list[EvidenceRow]) -> dict[str, Verdict]:
    return judge(study_pairs(SUBTASK, rows, "energy"), certified(1000))


def test_a_failed_execution_counts_as_a_loss_and_no_arm_is_judged_on_repetitions() -> None:
    rows = [row("greedy", p, 0.9, cpu_s=1.0) for p in range(130)]
    rows += [row("exact", p, 0.9, cpu_s=0.01) for p in range(130)]
    assert judged(rows)["exact"].holds
    repeated = [replace(r, problem="p00", repetition=k) for k, r in enumerate(rows)]
    assert "insufficient" in judged(repeated)["exact"].reason
    broken = [replace(r, status="failed", qualities=()) if r.arm == "exact" and r.problem < "p20" else r for r in rows]
    assert not judged(broken)["exact"].holds


def test_instances_of_one_source_are_one_unit() -> None:
    rows = [
        row(a, p, 0.9, cpu_s=c, unit=f"s{p % 4}") for p in range(130) for a, c in (("greedy", 1.0), ("exact", 0.01))
    ]
    assert judged(rows)["exact"].reason == "insufficient evidence (n=4 independent units among 130 instances, need 122)"


def test_predictions_are_read_by_decision() -> None:
    stored = {"verdict": "exact wins", "arms": {"exact": {"certified": 0.8, "difference": 0.1}}}
    verdict, arms = read_predictions(stored) or ("", {})
    assert (verdict, arms["exact"].certified, arms["exact"].difference) == ("exact wins", 0.8, 0.1)
    assert read_predictions({}) is None


def test_every_prediction_is_of_a_decision_and_an_arm_that_exist() -> None:
    known = subtasks()
    for key in known:
        entry = terms(key).predictions
        assert set(entry["arms"]) == {arm.name for arm in known[key].arms[1:]}
        for arm, said in entry["arms"].items():
            chosen = known[key].arm(arm)
            assert ("certified" in said) == (chosen.kind is not Kind.CONTROL or chosen.does_nothing)
            assert 0 <= said.get("certified", 0) <= 1


def test_the_share_of_a_decision_is_that_of_the_newest_complete_run(tmp_path: Path) -> None:
    def energy(joules: float) -> dict[str, Any]:
        return {"narrow": [joules / 2, joules, joules * 2]}

    stages: list[dict[str, Any]] = [{"stage": name, "energy": energy(10.0), "subtasks": []} for name in STAGES]
    arms = [{"arm": a, "energy": {"spent": energy(j)}} for a, j in (("greedy", 20.0), ("exact", 500.0))]
    stages[0]["subtasks"] = [{"name": "made-up", "chosen": "greedy", "rows": arms}]
    report = {"run_id": "r1", "status": "done", "profile": "demo", "orchestration": {"energy": energy(10.0)}}
    runs.write_report(tmp_path, "r1", {**report, "stages": stages}, "", "")
    share = energy_share(tmp_path, SUBTASK.key)
    assert share is not None
    assert share.share == approx(20 / (70 + 10 + 20))  # arms that ran beside are no part of the lifecycle
    assert energy_share(tmp_path / "empty", SUBTASK.key) is None


def even(own: float) -> dict[str, Any]:
    """Return the break-even of an arm with 2.5 s on a device against 5 J."""
    power = (5.0 - own) / 2.5
    narrow = {"at": [power] * 3 if power > 0 else None, "own": own, "best": 5.0, "to_save": max(0.0, own - 5.0)}
    return {"narrow": {**narrow, "without_own": [2.0] * 3}, "price": {"at": None}, "time": {"at": None}}


def test_inverse_break_even_is_where_both_cost_the_same() -> None:
    energy = {"best_classical": {"arm": "exact"}, "break_even": even(1.0)}
    challenger = {"energy": energy, "circuits": 4, "shots": 1000, "qpu_s_projected": 2.5, "two_qubit_gates": 40}
    found = inverse_break_even(challenger)
    assert found is not None
    assert found["system_power_w"] == approx(1.6)
    # at 25 kW what is left of five joules lasts for 160 us
    assert found["shots_per_s"] * 4.0 / 25_000 == approx(1000)
    none = inverse_break_even({**challenger, "energy": {**energy, "break_even": even(6.0)}})
    assert none is not None
    assert (none["system_power_w"], none["shots_per_s"], none["own_j_to_save"]) == (None, None, 1.0)


def study_of(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch, repeats: int = 1, subtask: Subtask[float, float] = SUBTASK
) -> tuple[dict[str, Any], int]:
    """Run the made-up study as the flow does, without the engine."""
    for place in (module, banks):
        monkeypatch.setattr(place, "find_subtask", lambda key: subtask)
    config = StudyConfig(study_id="s1", subtask="curation/made-up", repeats=repeats)
    bench = Workbench("s1", loaded.home, loaded.ledger, minimum_s=0.0, probe=True, data="d")
    done = frozenset((r.problem, r.arm, r.repetition) for r in bench.evidence.read(run_id="s1"))
    record: dict[str, Any] = {"config": config.model_dump(), "wall_s": 1.0, "sources": {}, "instances": []}
    executed = 0
    for instance in draw_instances(config, MATERIAL):
        arms = tuple(arm.name for arm in subtask.arms)
        result = run_instance(config.subtask, instance, arms, repeats, done, bench)
        executed += result.pop("executed")
        record["instances"].append(result)
    return record, executed


def test_a_study_runs_every_arm_once_and_a_resumed_one_none_again(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, executed = study_of(loaded, monkeypatch, repeats=2)
    assert executed == 15 * 4 * 2
    rows = Evidence(loaded.home / "evidence").read(run_id="s1")
    assert len(rows) == executed
    assert all(r.probe and r.backend == "aer" and r.data == "d" and r.size for r in rows)
    again, executed = study_of(loaded, monkeypatch, repeats=2)
    assert executed == 0
    assert again["instances"] == record["instances"]


def test_trials_that_never_pay_here_are_free_elsewhere(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    study_of(loaded, monkeypatch)
    read = open_evidence(loaded.home).read
    rows, sizes = [], [{"size": 5}]
    for arm, cpu_s in (("greedy", 0.02), ("exact", 0.01)):
        like = replace(read(arm=arm, status="done")[0], size=5, prepare=Usage(), qualities=(1.0,), hit_rates=())
        once, all_s = Usage(cpu_s=cpu_s), Usage(cpu_s=100.0)  # what was spent on trials, such as loops
        rows += [replace(like, problem=f"p{i}", unit=f"u{i}", usage=once, total=all_s) for i in range(200)]
    [found] = routing(rows, SUBTASK, rows[0], sizes, "energy")
    assert (found["arm"], found["elsewhere"]) == ("greedy", "exact")
    assert "trials repaid after" in found["reason"]


def test_the_table_of_a_study(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = study_of(loaded, monkeypatch)
    found = build_study(loaded, SUBTASK, record)
    arms = {row["arm"]: row for row in found["arms"]}
    assert found["instances"] == 15
    assert found["sources"] == {"a": 5, "b": 5, "c": 5}
    assert found["buckets"] == {"4-7": 10, "8-15": 5}
    assert {row["n"] for row in arms.values()} == {15}
    assert arms["exact"]["difference"] == approx(0.5)
    assert arms["exact"]["wins"] == 15
    assert arms["random"]["hit_rate"] == 0.0
    assert arms["random"]["verdict"] == "control, never chosen"
    said = "insufficient evidence (n=3 independent units among 15 instances, need 144)"
    assert said in arms["exact"]["verdict"]
    assert all("insufficient evidence" in r["reason"] for r in found["routing"])
    assert all(r["arm"] == r["elsewhere"] == "greedy" for r in found["routing"])
    assert found["headroom"]["gap"] == approx(0.5)
    for text in (markdown(found), study_page(found, [forest(found) or "", quality_energy(found) or ""])):
        assert "exact" in text
        assert "headroom" in text
    assert [cells[0] for cells in arm_cells(found)] == ["oracle", "greedy", "qaoa", "exact", "random"]
    assert found["oracle"]["difference"] == approx(0.5)
    (beside,) = found["against"]
    assert (beside["other"], beside["difference"]) == ("random", approx(0.5))
    assert title(found).startswith("study s1: curation/made-up on aer, 15 instances")
    assert any("headroom" in line for line in notes(found))
    assert found["measures"]["twice"] == approx({"greedy": 1.0, "qaoa": 1.0, "exact": 2.0, "random": 0.0})
    assert "twice: greedy 1, qaoa 1, exact 2, random 0" in notes(found)
    folder = loaded.home / "studies" / "s1"
    write_study(folder, found)
    assert {p.name for p in folder.iterdir()} == {
        "study.json", "study.md", "study.html", "differences.svg", "quality-energy.svg",
    }  # fmt: skip
    assert json.loads((folder / "study.json").read_text())["arms"][0]["arm"] in arms


def test_what_ended_without_a_solution_is_said(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    subtask = replace(SUBTASK, others=(Arm("broken", Kind.CLASSICAL, broken), *SUBTASK.others))
    record, executed = study_of(loaded, monkeypatch, subtask=subtask)
    found = build_study(loaded, subtask, record)
    assert executed == 15 * 5
    assert {row["arm"]: row["n"] for row in found["arms"]}["broken"] == 10
    assert "failed on 5 of 15 instances: broken (ValueError: too large)" in notes(found)


def test_sizes_and_number_of_instances_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, banks):
        monkeypatch.setattr(place, "find_subtask", lambda key: SUBTASK)
    config = StudyConfig(study_id="s1", subtask="curation/made-up", sizes=(5, 20), instances=4)
    assert [i.source for i in draw_instances(config, MATERIAL)] == ["b", "c", "b", "c"]
    with pytest.raises(BadInput, match="--list"):
        draw_instances(config.model_copy(update={"sizes": (90, 99)}), MATERIAL)


def test_a_study_draws_as_many_instances_as_certification_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (module, banks):
        monkeypatch.setattr(place, "find_subtask", lambda key: SUBTASK)

    def copies(material: Material, rng: Generator) -> Iterator[Instance[float]]:  # two of each unit
        yield from (Instance("a", f"{k}", k, partial(float, k), unit=f"{k // 2}") for k in range(1000))

    config = StudyConfig(study_id="s1", subtask="curation/made-up")
    # two arms may replace the incumbent: no loss in n units excludes 3 % at alpha .0125 from n = 144 on
    assert needed_units(config) == 144
    assert needed_units(config.model_copy(update={"arms": ("exact",)})) == 122
    found = list(copies(MATERIAL, np.random.default_rng(0)))
    assert units_reached(found, 144) == 287  # the first instance of the 144th unit
    assert units_reached(found, 501) == 1000
    assert len(draw_instances(config, MATERIAL)) == 15, "a bank that holds fewer is taken whole"


def test_quantum_arms_run_on_the_first_instances_and_are_compared_there(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (module, banks):
        monkeypatch.setattr(place, "find_subtask", lambda key: SUBTASK)
    config = StudyConfig(study_id="s1", subtask="curation/made-up", quantum_instances=6)
    assert [arms_on(config, number) for number in (5, 6)] == [
        ("greedy", "qaoa", "exact", "random"), ("greedy", "exact", "random")
    ]  # fmt: skip
    rows = [row("greedy", p, 0.9, cpu_s=1.0 if p < 6 else 100.0) for p in range(15)]
    rows += [row("qaoa", p, 0.9, cpu_s=0.5) for p in range(6)]
    conversion = Conversion.of_rows(loaded, Coefficients.load(), rows)
    arms = arms_of(rows, conversion.coefficients)
    report = {r["arm"]: r for r in decision_report(arms, {}, conversion)["rows"]}
    assert (report["greedy"]["n"], report["qaoa"]["n"]) == (15, 6)
    spent, beside = report["greedy"]["energy"]["spent"]["narrow"][1], report["qaoa"]["energy"]["best_classical"]
    assert spent / beside["narrow"][1] == approx((6 * 1 + 9 * 100) / 15), "the mean over the six that both solved"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a decision"),
        (("curation/nonsense",), "inference/pruning"),
        (("nowhere",), "there are curation/representatives"),
        (("inference/pruning", "--arms", "greedy,magic"), "no arm 'magic'"),
        (("inference/pruning", "--sizes", "few"), "MIN-MAX"),
        (("--resume", "gone"), "no study gone"),
        (("--show", "gone"), "no study gone"),
        (("inference/pruning", "--objective", "beauty"), "objective"),
    ],
)
def test_what_cannot_be_studied_is_said_with_code_two(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["study", *arguments, "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_study_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert load_record(tmp_path, "s1") is None

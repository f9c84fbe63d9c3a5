"""The outlook of evidence whose laws are known: where it crosses, what it depends on, and what it says without any."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scaled import DECISION, SIZES, evidence, row

from flows.reports.outlook.build import Outlook, build_outlook
from flows.reports.outlook.evidence import Gathered, grouped
from flows.reports.outlook.page import outlook_page
from flows.reports.outlook.tables import tables
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.settings import Settings
from tasks.outlook.assumptions import Assumptions, load_assumptions

KEY = "/".join(DECISION)
BASE = f"{KEY}/qaoa"
DEVICE = f"{BASE}/superconducting"
LOADED = Settings(home=Path("nowhere"))


@lru_cache
def assumptions(n: int = 400) -> Assumptions:
    return load_assumptions(n=n)


def fixed(assumed: Assumptions, **values: float) -> Assumptions:
    for name, value in values.items():
        assumed = assumed.replaced(name.replace("__", "."), value)
    return assumed


def built(rows, assumed: Assumptions | None = None, stages=("curation",)) -> Outlook:
    return build_outlook(LOADED, assumed or assumptions(), stages, evidence=grouped(rows, "a test"))


@pytest.fixture(scope="module")
def plain() -> Outlook:
    return built(evidence())


def test_what_a_decision_was_billed_is_shown_where_it_was_billed(plain: Outlook):
    assert "bills" not in {table.name for table in tables(plain)}
    rows = [replace(r, usage=replace(r.usage, usd_billed=0.25)) if r.arm == "qaoa" else r for r in evidence()]
    found = built(rows)
    assert found.cells[f"{BASE}/bill/usd"].value == pytest.approx(0.25)
    assert found.cells[f"{BASE}/bill/cheaper"].value == 0.0, "greedy takes a second of CPU time"
    table = next(table for table in tables(found) if table.name == "bills")
    assert [cell.text for cell in table.rows[0][:4]] == [KEY, "qaoa", "32", "0.25 [0.25, 0.25]"]
    seconds = built([replace(r, usage=replace(r.usage, qpu_s_billed=2.0 * (r.arm == "qaoa"))) for r in evidence()])
    assert seconds.cells[f"{BASE}/bill/usd"].value == pytest.approx(2 * assumptions().value("qpu.price"))


def test_two_arms_with_known_lines_cross_at_the_known_size():
    # qaoa: .002 n CPU s + 100 W x (1 s x .01 + no shots); greedy .001 n^2 CPU s; 1 J per CPU second: n^2 - 2 n = 1000
    assumed = fixed(
        assumptions(50), cpu__w_core=1.0, cpu__workload_residual=1.0, hardware__superconducting__power=100.0,
        hardware__superconducting__job=0.01, qpu__execution_ratio=1e-12, shots__failed=1e-12,
        hardware__superconducting__two_qubit_error=1e-12,
    )  # fmt: skip
    cell = built(evidence(), assumed).cells[f"{DEVICE}/energy/narrow/best classical"]
    assert cell.value == pytest.approx(1 + np.sqrt(1001), rel=0.01)
    assert cell.band == pytest.approx((cell.value,) * 3)


def test_the_classical_arm_that_is_cheapest_at_larger_sizes_counts():
    # dearer than greedy at all sizes seen, but it grows as the quantum arm does, so that none is left to be undercut
    linear = [
        row("lloyd", "classical", size, instance, Usage(cpu_s=0.05 * size, wall_s=0.05 * size))
        for size in SIZES for instance in range(4)
    ]  # fmt: skip
    assumed = fixed(assumptions(), hardware__superconducting__two_qubit_error=1e-12, shots__equal_quality=1.0)
    alone = built(evidence(own_s=0.1), assumed).cells[f"{DEVICE}/energy/narrow/best classical"]
    assert alone.value is not None
    both = built([*evidence(own_s=0.1), *linear], assumed)
    assert both.cells[f"{DEVICE}/energy/narrow/best classical"].text.startswith("none at any size")
    assert both.decisions[0]["best_classical"] == "greedy"


def test_an_arm_of_less_quality_is_compared_with_classical_arms_of_that_quality_too():
    worse = [replace(r, qualities=(0.7,)) if r.arm == "qaoa" else r for r in evidence(own_s=0.1)]
    quick = [
        row("quick", "classical", size, instance, Usage(cpu_s=0.05 * size, wall_s=0.05 * size), qualities=(0.7,))
        for size in SIZES for instance in range(4)
    ]  # fmt: skip
    assumed = fixed(assumptions(), hardware__superconducting__two_qubit_error=1e-12, shots__equal_quality=1.0)
    assert built(worse, assumed).cells[f"{DEVICE}/energy/narrow/best classical"].value is not None
    both = built([*worse, *quick], assumed)
    assert both.cells[f"{DEVICE}/energy/narrow/best classical"].text.startswith("none at any size")
    assert both.decisions[0]["best_classical"] == "greedy"


def test_a_device_of_no_watts_never_breaks_even_beside_a_dearer_classical_part():
    assumed = fixed(assumptions(), hardware__superconducting__power=1e-300)
    cells = built(evidence(own_s=5.0, power=1.0), assumed).cells
    assert cells[f"{DEVICE}/energy/narrow/best classical"].text.startswith("none at any size")
    for name in ("power", "shot", "gate", "error", "price"):
        assert cells[f"{BASE}/needs/{name}"].text.startswith("no device: on ordinary processors alone the arm takes")
    assert cells[f"{DEVICE}/saves energy/narrow"].value == 0.0


@pytest.mark.filterwarnings("error")
def test_a_rival_that_takes_nothing_is_never_undercut():
    found = built(evidence(classical_s=0.0))
    assert found.cells[f"{DEVICE}/energy/narrow/best classical"].text.startswith("none at any size")
    assert found.cells[f"{DEVICE}/saves energy/narrow"].value == 0.0
    assert found.cells[f"{DEVICE}/energy/ratio"].asdict()["value"] is None  # infinite
    assert outlook_page(found).count("<svg") >= 1


def test_a_device_of_the_needed_power_breaks_even():
    assumed = fixed(assumptions(), shots__equal_quality=1.0, hardware__superconducting__two_qubit_error=1e-12)
    rows = evidence(classical_s=10.0)
    needed = built(rows, assumed).cells[f"{BASE}/needs/power"]
    assert needed.value
    for factor, saves in ((0.05, 1.0), (20.0, 0.0)):
        there = fixed(assumed, hardware__superconducting__power=factor * needed.value)
        found = built(rows, there).cells[f"{DEVICE}/saves energy/narrow"].value
        assert found == pytest.approx(saves, abs=0.1)


def test_gate_errors_are_paid_for_in_shots(plain):
    quiet = built(evidence(), fixed(assumptions(), hardware__superconducting__two_qubit_error=1e-12))
    noisy = built(evidence(), fixed(assumptions(), hardware__superconducting__two_qubit_error=0.05))
    key = f"{DEVICE}/energy/device"
    assert quiet.cells[key].value < plain.cells[key].value < noisy.cells[key].value
    assert noisy.cells[f"{DEVICE}/survival"].value == pytest.approx(0.95 ** (2 * SIZES[-1]), rel=0.01)


def test_draws_reproduce(plain):
    assert [cell.asdict() for cell in built(evidence()).cells] == [cell.asdict() for cell in plain.cells]


@pytest.mark.parametrize(
    "name",
    ["cpu.w_core", "qpu.trapped_ion_power", "qpu.superconducting_power", "hardware.neutral_atom.price_shot",
     "site.day_rate", "site.carbon_spread", "fault_tolerant.logical_power"],
)  # fmt: skip
def test_a_changed_coefficient_changes_exactly_the_cells_that_depend_on_it(name, plain):
    assumed = assumptions()
    changed = built(evidence(), assumed.replaced(name, 3.3 * assumed.value(name)))
    before = {cell.key: cell for cell in plain.cells}
    after = {cell.key: cell for cell in changed.cells if cell.key in before}
    differing = {key for key, cell in after.items() if replace(cell, depends=()) != replace(before[key], depends=())}
    depending = {key for key, cell in before.items() if name in cell.depends}
    assert differing <= depending
    assert depending, name
    # a number that depends on it moves, unless it is a probability or an answer that was certain before and after
    numbers = {key for key in depending & after.keys() if before[key].value and "/P(" not in key and before[key].band}
    numbers = {key for key in numbers if "tornado" not in key and "information" not in key}
    assert numbers <= differing


def test_every_figure_of_a_decision_refers_to_its_rows(plain):
    sets = plain.gathered.row_sets
    for cell in plain.cells.below(KEY):
        assert sets[cell.rows], cell.key
    ids = {row.row_id for row in evidence() if row.arm == "qaoa"}
    assert set(sets[BASE]) == ids
    assert plain.cells[f"{BASE}/at largest/shots"].rows == BASE


def test_fewer_than_five_sizes_give_no_break_even_size():
    rows = [row for row in evidence() if row.size in SIZES[:4]]
    assert built(rows).cells[f"{DEVICE}/energy/narrow/best classical"].text == "undecidable: 4 sizes, 5 are needed"


def test_simulation_is_that_of_this_arm(plain):
    # its own simulated circuits take a tenth of its twin's
    arm = plain.decisions[0]["arms"][0]
    assert arm["rivals"] == {"best classical": "greedy", "simulation": "simulator"}
    assert arm["standing"] == "equal"


def test_rows_that_do_not_count_are_named():
    rows = evidence()
    old = [replace(row, run_id="old", arm_version="0") for row in rows[:4]]
    found = grouped([*old, *rows, replace(rows[0], run_id="x", status="failed", usage=Usage())], "a test")
    assert found.left_out[KEY] == {"not done": 1, "an earlier version of the arm": 4}
    assert len(found.decisions[KEY]) == len(rows)


def test_a_decision_that_nobody_knows_appears_by_itself():
    found = built(evidence(decision=("training", "something_new")), stages=("training",))
    assert [d["decision"] for d in found.decisions] == ["training/something_new"]
    assert "training/something_new" not in found.missing
    assert next(r for r in found.roadmap if r["stage"] == "training")["evidence"] == "96 rows, 1 decision"


def test_without_evidence_nothing_is_decided():
    found = build_outlook(LOADED, assumptions(50), evidence=Gathered("no evidence", {}, {}))
    assert {row["verdict"] for row in found.roadmap} == {"undecidable today"}
    assert KEY in found.missing
    assert found.cells["published break-even/third column"].text.startswith("none at any size")


def test_an_unknown_stage_is_refused():
    with pytest.raises(BadInput, match="no stage 'brewing'"):
        build_outlook(LOADED, load_assumptions(n=1), ("brewing",))

"""Computes the outlook from stored evidence and assumptions, for pages and exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import flows
from flows.reports.outlook.arms import decision_cells
from flows.reports.outlook.decision import Decision
from flows.reports.outlook.evidence import Gathered, gather
from flows.reports.text import number
from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.settings import Settings
from tasks import registry
from tasks.contract import STAGES
from tasks.outlook import published_break_even as published
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.cells import Cells, Figure, banded
from tasks.outlook.fault_tolerant import SUBROUTINES, Physical, estimate, with_factories
from tasks.outlook.risks import load_risks
from tasks.outlook.roadmap import RULE, Roadmap, Seen, Stage, judge, load_roadmap

Array = NDArray[np.float64]

ROOT = Path(str(flows.__file__)).parents[1]
VERSION = 1  # of the stored outlook's shape
HEAD = "finetuning/head"  # the decision that the published break-even is about


@dataclass(frozen=True)
class Outlook:
    """The outlook.

    Attributes:
        cells: every figure.
        decisions: arms, sizes and curves of each decision.
        missing: decisions without evidence.
        stages: the stages looked at.
        gathered: the evidence.
        roadmap: rows of the roadmap with their verdicts.
        energy: the energy sentence with its verdict.
    """

    cells: Cells
    decisions: list[dict[str, Any]]
    missing: list[str]
    stages: tuple[str, ...]
    gathered: Gathered
    roadmap: list[dict[str, str]]
    energy: dict[str, str]

    @property
    def assumptions(self) -> Assumptions:
        """All assumptions."""
        return self.cells.assumptions

    def asdict(self) -> dict[str, Any]:
        """Return the outlook in its stored form."""
        assumed = self.assumptions
        return {
            "version": VERSION,
            "evidence": self.gathered.place,
            "assumptions": {
                name: {"value": e.value, "band": list(e.band), "unit": e.unit, "source": e.source, "year": e.year}
                for name, e in sorted(assumed.entries().items())
            },
            "digest": assumed.hash,
            "draws": assumed.n,
            "decisions": [{k: v for k, v in found.items() if k != "arms"} for found in self.decisions],
            "without_evidence": self.missing,
            "left_out": self.gathered.left_out,
            "cells": [cell.asdict() for cell in self.cells],
            "row_sets": self.gathered.row_sets,
            "roadmap": self.roadmap,
            "roadmap_rule": RULE,
            "energy_sentence": self.energy,
            "risks": [risk.model_dump() for risk in load_risks()],
        }


def build_outlook(
    loaded: Settings,
    assumptions: Assumptions,
    stages: Sequence[str] = (),
    root: Path = ROOT,
    evidence: Gathered | None = None,
) -> Outlook:
    """Compute the outlook.

    Args:
        loaded: the settings: state folder and countries.
        assumptions: devices, site and model parameters.
        stages: only these stages; empty = all.
        root: the repository, for the evidence that ships.
        evidence: the evidence, if it has been gathered.

    Raises:
        BadInput: a stage is unknown.
    """
    for stage in stages:
        if stage not in STAGES:
            raise BadInput(f"no stage {stage!r}; the stages are {', '.join(STAGES)}")
    wanted = tuple(stage for stage in STAGES if not stages or stage in stages)
    gathered = evidence or gather(loaded, root)
    cells = Cells(assumptions)
    found = [
        decision_cells(cells, Decision.of(key, rows, assumptions), loaded)
        for stage in wanted
        for key, rows in gathered.decisions.items()
        if key.partition("/")[0] == stage
    ]
    roadmap = load_roadmap()
    _estimate_cells(cells, roadmap, wanted)
    _published_cells(cells)
    missing = [key for key in registry.names() if key.partition("/")[0] in wanted and key not in gathered.decisions]
    rows = [_roadmap_row(cells, stage, found) for stage in roadmap.stages if stage.stage in wanted]
    return Outlook(cells, found, missing, wanted, gathered, rows, _energy_row(cells, roadmap, found))


def _estimate_cells(cells: Cells, roadmap: Roadmap, stages: Sequence[str]) -> None:
    wanted = {name for stage in roadmap.stages if stage.stage in stages for name in stage.subroutines}
    for name in [name for name in SUBROUTINES if name in wanted]:
        counts = SUBROUTINES[name]()
        for field in ("qubits", "toffoli", "rotations", "qram_cells"):
            figure = Figure(float(getattr(counts, field)), text=counts.about if field == "qubits" else "")
            cells.add(f"fault tolerant/{name}/{field}", field, "modelled", "", partial(lambda f: f, figure))
        for preset in cells.assumptions.hardware.presets:
            _machine_cells(cells, name, preset)


def _machine_cells(cells: Cells, name: str, preset: str) -> None:
    counts, assumed, base = SUBROUTINES[name](), cells.assumptions, f"fault tolerant/{name}/{preset}"
    machine = assumed.hardware.presets[preset]

    def physical() -> Physical:
        budget = assumed.value("fault_tolerant.error_budget")
        return estimate(counts, machine.error, machine.two_qubit_gate_s, machine.measurement_s, budget)

    def joules() -> Array:
        found = physical()
        return assumed.draws("fault_tolerant.logical_power") * found.logical_qubits * found.runtime_s

    def classical() -> Array:
        return counts.flops / assumed.draws("fault_tolerant.flops") * assumed.draws("cpu.w_core")

    for field, unit in (
        ("logical_qubits", "logical qubits after layout"),
        ("t_states", "T states"),
        ("distance", "code distance"),
        ("physical_qubits", "physical qubits, factories left out"),
        ("runtime_s", "s"),
    ):
        make = partial(lambda field: Figure(float(getattr(physical(), field))), field)
        cells.add(f"{base}/{field}", unit, "projected", "", make)
    cells.add(f"{base}/joules", "J", "projected", "", lambda: banded(joules()))
    cells.add(f"{base}/classical", "J", "modelled", "", lambda: banded(classical()))
    cells.add(
        f"{base}/dearer", "P(more J than the classical method)", "projected", "",
        lambda: Figure(float(np.mean(joules() > classical()))),
    )  # fmt: skip
    made = with_factories(counts, preset, assumed.value("fault_tolerant.error_budget"))
    if made is not None:
        qubits = float(made["physicalCounts"]["physicalQubits"])
        cells.add(f"{base}/with_factories", "physical qubits by qdk", "projected", "", lambda: Figure(qubits))


def _published_cells(cells: Cells) -> None:
    assumed, base = cells.assumptions, "published break-even"
    cells.add(
        f"{base}/shape", "J of simulation over J of the device at 30 and 40 qubits", "projected", "",
        lambda: Figure(
            text=f"{published.simulation_over_device(30):.2g} and {published.simulation_over_device(40):.2g}"
        ),
    )  # fmt: skip

    def device() -> Array:
        name = "hardware.trapped_ion"
        return published.device_j(
            assumed.draws(f"{name}.power"), assumed.draws(f"{name}.job"), assumed.draws(f"{name}.shot")
        )

    def crossing() -> Figure:
        return banded(
            published.crossing_qubits(
                device(), assumed.draws("cpu.w_core"), assumed.draws("fault_tolerant.amplitude_updates")
            )
        )

    def simulation() -> Array:
        return published.simulation_j(
            published.QUBITS, assumed.draws("cpu.w_core"), assumed.draws("fault_tolerant.amplitude_updates")
        )

    def classical() -> Figure:
        return banded(published.LOGISTIC_FLOPS / assumed.draws("fault_tolerant.flops") * assumed.draws("cpu.w_core"))

    cells.add(f"{base}/ours", "qubits n* by our coefficients", "projected", "", crossing)
    cells.add(f"{base}/device", "J of one circuit on a trapped-ion device", "projected", "", lambda: banded(device()))
    cells.add(f"{base}/simulation", "J of simulating it at 34 qubits", "modelled", "", lambda: banded(simulation()))
    best = next((cell for cell in cells.below(f"{HEAD}/") if cell.key.endswith("/energy/best classical")), None)
    if best is not None:
        cells.add(
            f"{base}/best classical", "J of the best classical head, from the evidence", "modelled", best.rows,
            lambda: _again(cells, best.key),
        )  # fmt: skip
    else:
        cells.add(f"{base}/best classical", "J of a logistic regression, assumed", "modelled", "", classical)
    cells.add(
        f"{base}/third column", "qubits n* against the best classical head", "projected", best.rows if best else "",
        lambda: _third(cells, base),
    )  # fmt: skip


def _again(cells: Cells, key: str) -> Figure:
    cell = cells[key]
    cells.assumptions.note(cell.depends)
    return Figure(cell.value, cell.band, cell.text)


def _third(cells: Cells, base: str) -> Figure:
    device, best = _again(cells, f"{base}/device"), _again(cells, f"{base}/best classical")
    times = (device.value or 0.0) / (best.value or 1.0)
    if times > 1:
        return Figure(
            text=f"none at any size: one circuit takes {times:.2g} times all of the classical head, at any width"
        )
    return Figure(text=f"one circuit takes {times:.2g} of the classical head")


def _seen(cells: Cells, found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Seen]]:
    """Return decision, arm and its result on the device where it saves energy with the highest probability."""
    seen = []
    for decision in found:
        for arm in decision["arms"]:
            base = f"{decision['decision']}/{arm['arm']}"
            shares = [cells.get(f"{base}/{d}/saves energy/narrow") for d in cells.assumptions.hardware.devices]
            known = [cell.value for cell in shares if cell is not None and cell.value is not None]
            if known:
                seen.append((decision["decision"], arm["arm"], Seen(arm["standing"], max(known))))
    return seen


def _roadmap_row(cells: Cells, stage: Stage, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    here = [decision for decision in found if decision["decision"].partition("/")[0] == stage.stage]
    seen = _seen(cells, here)
    dearer = {
        f"{name}/{preset}": cells[f"fault tolerant/{name}/{preset}/dearer"].value or 0.0
        for name in stage.subroutines
        for preset in cells.assumptions.hardware.presets
    }
    verdict = judge([entry for _, _, entry in seen], list(dearer.values()), stage.open)
    parts = [_seen_sentence(cells, seen), _estimate_sentence(cells, stage)]
    if stage.open and verdict == "undecidable today":
        parts.append(f"open: {stage.open}")
    return {
        "stage": stage.stage,
        "idea": stage.idea,
        "window": stage.window,
        "potential": stage.potential,
        "evidence": _counted(here),
        "rows": ", ".join(d["decision"] for d in here),
        "verdict": verdict,
        "reason": "; ".join(part for part in parts if part),
        "change": stage.change,
    }


def _counted(decisions: Sequence[Mapping[str, Any]]) -> str:
    if not decisions:
        return "none"
    rows, n = sum(found["rows"] for found in decisions), len(decisions)
    return f"{rows:,} rows, {n} decision{'s' if n > 1 else ''}"


def _seen_sentence(cells: Cells, seen: Sequence[tuple[str, str, Seen]]) -> str:
    if not seen:
        return "no quantum arm of this stage has evidence"
    device = cells.assumptions.hardware.default
    nearest = min(seen, key=lambda s: (cells[f"{s[0]}/{s[1]}/{device}/energy/ratio"].band or (0.0, np.inf, 0.0))[1])
    ratio = cells[f"{nearest[0]}/{nearest[1]}/{device}/energy/ratio"].value or 0.0
    good = sum(entry.standing in ("equal", "better") for _, _, entry in seen)
    return (
        f"{good} of {len(seen)} quantum arms are as good as the best classical arm; the nearest, {nearest[1]}, would "
        f"take {_power(ratio)} times its energy on a {device} device"
    )


def _estimate_sentence(cells: Cells, stage: Stage) -> str:
    """Return the cheapest of the stage's fault-tolerant subroutines, compared with its classical method."""
    ratios = {}
    for name in stage.subroutines:
        for preset in cells.assumptions.hardware.presets:
            base = f"fault tolerant/{name}/{preset}"
            ratios[name, preset] = (cells[f"{base}/joules"].value or 0.0) / (cells[f"{base}/classical"].value or 1.0)
    if not ratios:
        return ""
    (name, preset), least = min(ratios.items(), key=lambda item: item[1])
    seconds = cells[f"fault tolerant/{name}/{preset}/runtime_s"].value or 0.0
    said = f"fault-tolerant {name.replace('_', ' ')} takes {number(seconds, 2)} s"
    return f"{said} and {_power(least)} times the classical joules"


def _energy_row(cells: Cells, roadmap: Roadmap, found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the verdict on "tens of kilowatts against megawatts", by the energy of a solved decision."""
    seen = _seen(cells, found)
    device = cells.assumptions.hardware.default
    power, job = (cells.assumptions.value(f"hardware.{device}.{name}") for name in ("power", "job"))
    held = f"one job holds {power / 1000:.0f} kW for {job:.1f} s before its first shot, {power * job / 1000:.0f} kJ"
    if not seen:
        return {"claim": roadmap.energy.claim, "verdict": "undecidable today", "reason": f"no evidence; {held}",
                "change": roadmap.energy.change}  # fmt: skip
    ratios = sorted(cells[f"{d}/{a}/{device}/energy/ratio"].value or 0.0 for d, a, _ in seen)
    verdict = judge([entry for _, _, entry in seen], [], "")
    return {
        "claim": roadmap.energy.claim,
        "verdict": verdict,
        "reason": f"the power is right and decides nothing: {held}; a mean decision takes {_power(ratios[0])} to "
        f"{_power(ratios[-1])} times the joules of the best classical arm",
        "change": roadmap.energy.change,
    }


def _power(value: float) -> str:
    """Return a factor in one significant digit, e.g. 4e7."""
    if not np.isfinite(value):
        return "infinitely many"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}" if abs(int(exponent)) > 2 else number(value, 2)


def cost_sentence() -> str:
    """Return what one QPU-second must replace, by price and by energy."""
    return str(Coefficients.load().break_even())


def assumption_rows(assumptions: Assumptions) -> list[tuple[str, ...]]:
    """Return name, value, band, unit and source of every assumption."""
    return [
        (name, f"{e.value:g}", f"{e.band[0]:.3g} to {e.band[1]:.3g}", e.unit, f"{e.source} ({e.year})")
        for name, e in sorted(assumptions.entries().items())
    ]

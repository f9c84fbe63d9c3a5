"""Computes the figures of `tasks.evaluation` from stored evidence, and from those the values of stored reports.

Run report and study both use this module, so each figure has one definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flows.reports.conversion import Conversion, points
from infra.energy.model import Band, Boundary, Coefficients, Device
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from tasks.evaluation.classical import BestClassical, best_classical, matches, saturated_by
from tasks.evaluation.energy import BreakEven, break_even, cheapest_simulation, energy_to_solution
from tasks.evaluation.figures import CONTROL, QUANTUM, TWIN, ArmFigures, Solved, Spending
from tasks.evaluation.headroom import best_values
from tasks.evaluation.paired import quality_interval

BOUNDARIES: tuple[Boundary, ...] = ("narrow", "wide", "marginal")
SHOWN: tuple[Boundary, ...] = ("narrow", "wide")
CLASSES: tuple[Device, ...] = ("superconducting", "trapped_ion", "neutral_atom", "annealer")
WEAKEST = ("measured", "attributed", "modelled")


@dataclass(frozen=True)
class Arm:
    """One arm of a decision: its figures and their evidence.

    Attributes:
        figures: the pure figures.
        rows: its evidence.
        used: usage of a mean solve, values shared with other arms included.
        source: source of its joules: the weakest source of its rows.
    """

    figures: ArmFigures
    rows: tuple[EvidenceRow, ...]
    used: Usage
    source: str


def arms_of(rows: Sequence[EvidenceRow], coefficients: Coefficients) -> dict[str, Arm]:
    """Return the arms of one decision from all its rows: any number of problems and of executions of each."""
    by_arm: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_arm[row.arm].append(row)
    arms = {name: _arm(its, coefficients) for name, its in by_arm.items()}
    best = best_values({name: arm.figures for name, arm in arms.items()})
    tolerance = rows[0].tolerance if rows else 0.0
    return {name: replace(arm, figures=_with_hits(arm.figures, best, tolerance)) for name, arm in arms.items()}


def _arm(rows: Sequence[EvidenceRow], coefficients: Coefficients) -> Arm:
    done = [row for row in rows if row.status == "done"]
    counted, first = done or list(rows), rows[0]
    used = sum((row.usage + row.prepare for row in counted), Usage()).scaled(1 / len(counted))
    source = max((row.energy_source for row in rows), key=WEAKEST.index)
    figures = ArmFigures(
        arm=first.arm,
        kind=first.kind,
        role=first.role,
        status="done" if done else first.status,
        solved=_solved(done, coefficients),
        energy={b: _joules(used, b, source, coefficients) for b in BOUNDARIES},
        price=_price(used, coefficients),
        time=_time(used, coefficients),
        twin=first.twin,
        noiseless=first.backend == "aer",
        circuits=used.circuits,
        shots=used.shots,
        two_qubit_gates=used.two_qubit_gates,
    )
    return Arm(figures, tuple(rows), used, source)


def _solved(rows: Sequence[EvidenceRow], coefficients: Coefficients) -> tuple[Solved, ...]:
    """Return each instance once, averaged over repetitions; a missing hit rate is filled in later."""
    found: dict[str, list[Solved]] = defaultdict(list)
    for row in rows:
        n = len(row.qualities)
        used = (row.usage + row.prepare).scaled(1 / n) if n else Usage()
        joules = coefficients.cpu_energy_j(used, "narrow", row.energy_source).p50
        for position, quality in enumerate(row.qualities):
            name = f"{row.problem}/{position}"
            best = row.oracle[position] if len(row.oracle) == n else None
            rate = row.hit_rates[position] if len(row.hit_rates) == n else None
            found[name].append(Solved(name, quality, row.unit or name, best, rate, joules))
    return tuple(_mean(same, rows[0].tolerance) for same in found.values())


def _mean(same: Sequence[Solved], tolerance: float) -> Solved:
    """Return the mean over the repetitions of an instance; each counts as a hit or not, unless it reported a rate."""
    best, rates = same[0].best, [s.hit_rate for s in same]
    hits = [
        rate if rate is not None else None if best is None else float(s.quality >= best - tolerance)
        for s, rate in zip(same, rates, strict=True)
    ]
    return replace(
        same[0],
        quality=float(np.mean([s.quality for s in same])),
        energy_j=float(np.mean([s.energy_j for s in same])),
        hit_rate=None if None in hits else float(np.mean([h for h in hits if h is not None])),
    )


def _with_hits(arm: ArmFigures, best: Mapping[str, float], tolerance: float) -> ArmFigures:
    """Fill in hits where no optimum is proven; the best value of any arm on the instance counts as the optimum."""
    solved = tuple(
        s if s.hit_rate is not None else replace(s, hit_rate=float(s.quality >= best[s.instance] - tolerance))
        for s in arm.solved
    )
    return replace(arm, solved=solved)


def _joules(used: Usage, boundary: Boundary, source: str, coefficients: Coefficients) -> Spending:
    here = coefficients.cpu_energy_draws(used, boundary, source=source)
    share = min(1.0, used.simulation_cpu_s / used.cpu_s) if used.cpu_s > 0 else 0.0
    seconds, fixed = coefficients.device_draws(used, boundary)
    return Spending(here * (1 - share), here * share, fixed, seconds)


def _price(used: Usage, coefficients: Coefficients) -> Spending:
    usd_per_s, flat = coefficients.value("cpu.price") / 3600, np.ones(coefficients.n)
    simulation = min(used.simulation_cpu_s, used.cpu_s) * usd_per_s
    own = used.cpu_s * usd_per_s - simulation
    return Spending(own * flat, simulation * flat, 0 * flat, coefficients.locked_draws(used))


def _time(used: Usage, coefficients: Coefficients) -> Spending:
    flat, simulation = np.ones(coefficients.n), min(used.simulation_cpu_s, used.wall_s)
    return Spending((used.wall_s - simulation) * flat, simulation * flat, 0 * flat, coefficients.locked_draws(used))


def decision_report(arms: Mapping[str, Arm], decision: Mapping[str, Any], conversion: Conversion) -> dict[str, Any]:
    """Return the values of one decision in a run's report.

    Args:
        arms: the arms of the decision, with all its rows.
        decision: the decision record.
        conversion: coefficients and carbon intensities.
    """
    rows = [row for arm in arms.values() for row in arm.rows]
    first = rows[0]
    figures = [arm.figures for arm in arms.values()]
    best = best_classical(figures, first.tolerance)
    optimum = best_values({name: arm.figures for name, arm in arms.items()})
    return {
        "name": first.subtask,
        "metric": first.metric,
        "size": first.size,
        "tolerance": first.tolerance,
        "chosen": decision.get("arm"),
        "rule": decision.get("rule"),
        "reason": decision.get("reason", ""),
        "n": decision.get("n", 0),
        "difference": decision.get("difference"),
        "interval": decision.get("interval"),
        "oracle": float(np.mean(list(optimum.values()))) if optimum else None,
        "sources": sorted({row.energy_source for row in rows}),
        "best_classical": best and {"arm": best.arm.arm, "control": best.is_control, "reference": best.reference.arm},
        "saturated_by": list(saturated_by(figures, first.tolerance)),
        "rows": [arm_report(arm, *_beside(arm, arms, conversion.coefficients), conversion) for arm in arms.values()],
    }


def _beside(
    arm: Arm, arms: Mapping[str, Arm], coefficients: Coefficients
) -> tuple[list[ArmFigures], BestClassical | None]:
    """Return all arms, and the best classical one, on the problems that an arm solved: others cost other joules."""
    problems = {row.problem for row in arm.rows if row.status == "done"}
    rows = [row for other in arms.values() for row in other.rows]
    if problems and problems < {row.problem for row in rows}:
        arms = arms_of([row for row in rows if row.problem in problems], coefficients)
    figures = [other.figures for other in arms.values()]
    return figures, best_classical(figures, arm.rows[0].tolerance)


def arm_report(
    arm: Arm, everything: Sequence[ArmFigures], best: BestClassical | None, conversion: Conversion
) -> dict[str, Any]:
    """Return the values of one arm: quality, usage, and its energies compared with those of other arms."""
    found, used, first = arm.figures, arm.used, arm.rows[0]
    interval = quality_interval(found) or (None, None)
    is_quantum = found.kind == QUANTUM
    narrow = Band.of(found.energy["narrow"].here)
    gco2, solution = conversion.gco2(arm.rows, narrow), energy_to_solution(found.solved)
    counted = [row for row in arm.rows if row.status == "done"] or list(arm.rows)
    share = 1 / len(counted)
    return {
        "arm": found.arm,
        "kind": found.kind,
        "role": found.role,
        "backend": first.backend if is_quantum else "cpu",
        "n": len(found.solved),
        "units": len({s.unit for s in found.solved}),
        "quality": found.quality,
        "quality_lo": interval[0],
        "quality_hi": interval[1],
        "quality_backend": first.quality_backend if is_quantum else "cpu",
        "energy_to_solution_j": solution.energy_j,
        "solved": solution.solved,
        "unsolved": solution.unsolved,
        "hit_rate": solution.hit_rate,
        "cpu_s": share * sum(row.usage.cpu_s for row in counted),
        "wall_s": share * sum(row.usage.wall_s for row in counted),
        "prepare_cpu_s": share * sum(row.prepare.cpu_s for row in counted),
        "loops": sum(row.loops for row in counted),
        "circuits": used.circuits,
        "shots": used.shots,
        "two_qubit_gates": used.two_qubit_gates,
        "qpu_s_billed": used.qpu_s_billed,
        "qpu_s_projected": used.qpu_s_projected,
        "energy": _energies(arm, everything, best, conversion.coefficients),
        "cost_usd": conversion.coefficients.cost_usd(used, first.backend),
        "gco2": gco2.p50,
        "gco2_band": points(gco2),
        "gco2_wide_band": points(
            conversion.coefficients.footprint_gco2(
                replace(used, qpu_s_projected=0.0), conversion.grid.country, conversion.grid.qpu_country
            )
        ),
        "reused": any(row.reused for row in arm.rows),
        "status": found.status,
        "reason": "" if found.status == "done" and len(arm.rows) > 1 else first.reason,
    }


def _energies(
    arm: Arm, everything: Sequence[ArmFigures], best: BestClassical | None, coefficients: Coefficients
) -> dict[str, Any]:
    found, used = arm.figures, arm.used
    compared = best if best and found.kind in (QUANTUM, TWIN) and matches(best, found, arm.rows[0].tolerance) else None
    simulation = cheapest_simulation(found, everything) if used.circuits else None
    even = _break_evens(found, compared.arm) if compared and used.circuits else None
    power = even["narrow"]["at"] if even else None
    return {
        "spent": {**{b: points(Band.of(found.energy[b].here)) for b in SHOWN}, "source": arm.source},
        "simulation": {
            **{b: points(Band.of(simulation.spending[b])) for b in SHOWN},
            "source": arm.source,
            "by": arm.rows[0].backend if simulation.by == "simulator" else simulation.by,
        }
        if simulation
        else None,
        "qpu": _qpu(used, coefficients) if used.circuits else None,
        "break_even_power_w": power,
        "break_even": even,
        "best_classical": {
            **{b: points(Band.of(compared.arm.energy[b].here)) for b in SHOWN},
            "source": arm.source,
            "arm": compared.arm.arm,
            "control": compared.arm.kind == CONTROL,
        }
        if compared
        else None,
    }


def _break_evens(arm: ArmFigures, best: ArmFigures) -> dict[str, Any]:
    """Return the break-even within each boundary, by price and by time; a rate in W, USD/s and s per projected s."""
    pairs = {str(b): (arm.energy[b], best.energy[b]) for b in BOUNDARIES}
    pairs |= {"price": (arm.price, best.price), "time": (arm.time, best.time)}
    return {name: _as_stored(found) for name, two in pairs.items() if (found := break_even(*two))}


def _as_stored(found: BreakEven) -> dict[str, Any]:
    def clipped(draws: Any) -> list[float]:
        return points(Band.of(np.maximum(draws, 0.0)))

    return {
        "at": clipped(found.at) if found.exists else None,
        "without_own": clipped(found.without_own),
        "to_save": max(0.0, float(np.median(found.to_save))),
        "own": float(np.median(found.own)),
        "best": float(np.median(found.best)),
    }


def _qpu(used: Usage, coefficients: Coefficients) -> dict[str, Any]:
    survives, share = coefficients.surviving_fidelity(used), coefficients.qubit_share(used)
    arrives = survives is None or survives * used.shots >= 1
    bands: dict[str, Any] = {b: points(coefficients.qpu_energy_j(used, b)) for b in BOUNDARIES}
    return {
        **bands,
        "projected": used.qpu_s_billed <= 0,
        "source": "modelled",
        "locked_s": points(Band.of(coefficients.locked_draws(used))),
        "surviving_fidelity": survives,
        "arrives": arrives,
        "narrow_over_fidelity": [j / survives for j in bands["narrow"]] if survives and arrives else None,
        "qubit_share": share,
        "classes": {name: points(coefficients.device_energy_j(used, name)) for name in CLASSES},
    }

"""Scaling of arms with size, the size from which a quantum arm is cheaper, and the curves of its chart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from flows.reports.outlook.decision import MEDIAN_DRAWS, Decision, Rival
from infra.energy.model import Boundary, Coefficients, quantiles
from tasks.outlook.cells import Cells, Figure
from tasks.outlook.crossing import Crossing, crossing, grid
from tasks.outlook.scaling import Scaling, trend
from tasks.outlook.spending import ArmModel, Currency

LEAST_SIZES = 5
FLAT = 1e-9  # a slope below is rounding
FAR = 4.0  # times the largest size, up to which pictures go
QUALITY = "quality"
GROWTH = {
    "own_cpu_s": "CPU s",
    "simulation_cpu_s": "CPU s of simulation",
    "own_wall_s": "s",
    "circuits": "circuits",
    "shots": "shots",
    "gates": "two-qubit gates of a circuit",
    "depth": "two-qubit depth of a circuit",
    "qubits": "qubits of a circuit",
    "circuit_us": "us of a circuit",
    "executing_s": "QPU s of executions, projected",
}


def grown(decision: Decision) -> list[str]:
    """Return the arms whose scaling is shown: best classical, quantum, and their simulations."""
    best = [decision.best.arm.arm] if decision.best else []
    twins = [rival.name for arm in decision.quantum for rival in decision.rivals(arm) if rival.name in decision.models]
    return list(dict.fromkeys([*best, *decision.quantum, *twins]))


def growth_cells(cells: Cells, decision: Decision, arm: str) -> None:
    """Add the scaling of an arm's raw quantities."""
    for name, unit in GROWTH.items():
        fit = decision.models[arm].fits[name]
        if fit.lines[0].form != "zero":
            key = f"{decision.key}/{arm}/growth/{name}"
            cells.add(key, unit, "modelled", f"{decision.key}/{arm}", partial(_growth, fit))
    rows = [row for row in decision.rows if row.arm == arm and row.qualities]
    sizes, values = [float(max(1, row.size)) for row in rows], [float(np.mean(row.qualities)) for row in rows]
    found = trend(sizes, values, [row.unit or row.problem for row in rows]) if rows else None
    if found is not None:
        key = f"{decision.key}/{arm}/growth/{QUALITY}"
        band = (found.interval[0], found.doubling, found.interval[1]) if found.interval else None
        figure = Figure(found.doubling, band)
        cells.add(key, "quality", "measured", f"{decision.key}/{arm}", lambda: figure)


def _growth(fit: Scaling) -> Figure:
    line = fit.lines[0]
    said = {"power": "n^", "exponential": "e^(n x ", "constant": "constant"}[line.form]
    if line.form == "constant" or abs(line.slope) < FLAT:
        return Figure(0.0, text=f"constant, {fit.sizes} sizes")
    interval, close = line.interval(), ")" if line.form == "exponential" else ""
    spread = f" [{interval[0]:.2g}, {interval[1]:.2g}]" if interval else ""
    band = (interval[0], line.slope, interval[1]) if interval else None
    other = f"; other form {1 - fit.weight:.0%}" if len(fit.lines) > 1 and fit.weight < 0.95 else ""
    return Figure(line.slope, band, f"{said}{line.slope:.2g}{close}{spread}, {fit.sizes} sizes{other}")


def break_even_size(
    decision: Decision,
    model: ArmModel,
    rival: Rival,
    device: str,
    currency: Currency,
    boundary: Boundary,
    *,
    noise: bool = True,
) -> Figure:
    """Return the size from which an arm on a device costs less than its rival."""
    count = len(set(decision.sizes) & {max(1, row.size) for row in decision.rows if row.arm == model.arm})
    if count < LEAST_SIZES:
        return Figure(text=f"undecidable: {count} size{'s' if count != 1 else ''}, {LEAST_SIZES} are needed")
    horizon = float(model.assumptions.value("site.horizon"))
    sizes = grid(float(decision.sizes[0]), horizon * decision.sizes[-1])
    own = model.here(sizes, currency, boundary, "own")
    whole = own + model.on_device(sizes, device, currency, boundary, noise=noise)
    found = crossing(sizes, whole, rival.least(sizes, currency, boundary), own)
    return _said(found, decision.sizes[-1])


def _said(found: Crossing, largest: int) -> Figure:
    low, middle, high = found.band
    if found.answer == "none":
        return Figure(text=f"none at any size (P = {found.impossible:.2f})")
    if found.answer == "not below":
        some = f" (P = {1 - found.reached:.2f})" if found.reached > 0 else ""
        return Figure(text=f"not below {_size_text(found.largest)}{some}")
    end = _size_text(high) if math.isfinite(high) else f"beyond {_size_text(found.largest)}"
    to = f", dearer again from {_size_text(found.end)}" if math.isfinite(found.end) else ""
    far = ", extrapolated" if middle > largest else ""
    return Figure(middle, found.band, f"{_size_text(middle)} [{_size_text(low)}, {end}]{to}{far}")


def _size_text(size: float) -> str:
    """Return a size in two significant digits or as a whole number, whichever is finer below a thousand."""
    return f"{size:,.0f}" if size < 1000 else f"{round(size, 1 - math.floor(math.log10(size))):,.0f}"


def curves_of(decision: Decision, model: ArmModel, rivals: Sequence[Rival], device: str) -> dict[str, Any]:
    """Return joules over size, narrow boundary, with bands, and the evidence at each size."""
    sizes = grid(float(decision.sizes[0]), FAR * decision.sizes[-1], 24)
    own = model.here(sizes, "energy", "narrow", "own")
    lines = {"on the device": own + model.on_device(sizes, device, "energy", "narrow"), "own CPU alone": own}
    lines |= {rival.key: rival.least(sizes, "energy", "narrow") for rival in rivals}
    return {
        "sizes": sizes.tolist(),
        "largest": decision.sizes[-1],
        "lines": {
            name: quantiles(draws, (0.05, 0.5, 0.95)).tolist()
            for name, draws in lines.items()
            if np.isfinite(draws).all() and (draws > 0).all()
        },
        "seen": {"own CPU alone": list(_seen(decision, model.arm, simulated=False))}
        | {r.key: list(_seen(decision, r.model.arm, simulated=True)) for r in rivals},
    }


def _seen(decision: Decision, arm: str, *, simulated: bool) -> Iterator[tuple[int, float]]:
    coefficients = Coefficients.load(n=MEDIAN_DRAWS)
    rows = [row for row in decision.rows if row.arm == arm]
    for size in sorted({max(1, row.size) for row in rows}):
        joules = []
        for row in rows:
            if max(1, row.size) == size:
                used = row.usage + row.prepare
                share = min(1.0, used.simulation_cpu_s / used.cpu_s) if used.cpu_s > 0 and not simulated else 0.0
                spent = coefficients.cpu_energy_j(used, "narrow", row.energy_source).p50
                joules.append(spent * (1 - share) / max(1, len(row.qualities)))
        if (mean := float(np.mean(joules))) > 0:
            yield size, mean

"""Which assumptions decide the energy ratio of a quantum arm."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flows.reports.outlook.decision import Decision, Rival
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.cells import Cells, Figure
from tasks.outlook.sensitivity import one_at_a_time, tornado, value_of_information
from tasks.outlook.spending import ArmModel

Array = NDArray[np.float64]

SHOWN_BARS = 8


def _log_ratio(decision: Decision, arm: str, rival: Rival, device: str) -> Array:
    """Return log10 of the joules of the quantum arm over those of its rival at the largest size of the evidence."""
    model = decision.models[arm]
    at = np.array([model.largest])
    mine = model.here(at, "energy", "narrow", "own") + model.on_device(at, device, "energy", "narrow")
    with np.errstate(divide="ignore"):  # a rival that takes nothing at all
        return np.asarray(np.log10(mine[0]) - np.log10(rival.takes(at, "energy", "narrow")[0]))


def sensitivity_cells(cells: Cells, decision: Decision, arm: str, rival: Rival, device: str) -> None:
    """Add the tornado and the value of information of an arm."""
    base, assumed = f"{decision.key}/{arm}", decision.models[arm].assumptions
    with assumed.reading() as read:
        log_ratio = _log_ratio(decision, arm, rival, device)
    names = sorted(name for name in read if name != "cpu.workload_residual")
    workloads = [f"cpu.workload_residual/{decision.key}/{name}" for name in (arm, rival.model.arm)]
    names += [name for name in dict.fromkeys(workloads) if "cpu.workload_residual" in read]
    quantiles, n = one_at_a_time(names)
    fixed = assumed.at(quantiles, n)
    moved = Decision(decision.key, decision.rows, decision.arms, _models(decision, fixed), decision.best)
    its = Rival(rival.key, rival.name, moved.models[rival.model.arm])
    ratio = 10 ** _log_ratio(moved, arm, its, device)
    for bar in tornado(names, ratio)[:SHOWN_BARS]:
        figure = Figure(bar.swing, (bar.low, float(ratio[0]), bar.high))
        cells.add(
            f"{base}/tornado/{_plain(bar.name, decision.key)}", "times best classical", "projected", decision.key,
            partial(_same, assumed, read, figure),
        )  # fmt: skip
    known = {name: _draws_of(assumed, name) for name in names}
    for entry in value_of_information(log_ratio, known)[:SHOWN_BARS]:
        figure = Figure(entry.flips, text=f"{entry.gain:.2g} orders of magnitude")
        cells.add(
            f"{base}/information/{_plain(entry.name, decision.key)}", "P(the answer changes)", "projected",
            decision.key, partial(_same, assumed, read, figure),
        )  # fmt: skip


def _same(assumed: Assumptions, names: set[str], figure: Figure) -> Figure:
    assumed.note(names)
    return figure


def _models(decision: Decision, assumed: Assumptions) -> dict[str, ArmModel]:
    return {
        name: ArmModel(model.decision, name, model.fits, model.source, assumed)
        for name, model in decision.models.items()
    }


def _draws_of(assumed: Assumptions, name: str) -> Array:
    if name.startswith("cpu.workload_residual/"):
        return assumed.residual(name.removeprefix("cpu.workload_residual/"))
    return assumed.spread(name)


def _plain(name: str, decision: str) -> str:
    """Return an assumption's name without the decision that it belongs to, as part of a key."""
    return name.replace(f"{decision}/", "").replace(f"{decision} ", "").replace("/", " ")

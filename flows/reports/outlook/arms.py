"""All cells of one decision in the outlook."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.reports.outlook.chances import (
    BOUNDARIES,
    CURRENCIES,
    bill_cells,
    chance_cells,
    need_cells,
    ownership_cells,
)
from flows.reports.outlook.decision import Decision
from flows.reports.outlook.growth import GROWTH, break_even_size, curves_of, grown, growth_cells
from flows.reports.outlook.sensitivity import sensitivity_cells
from infra.settings import Settings
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.cells import Cells, Figure, banded
from tasks.outlook.spending import ArmModel

Array = NDArray[np.float64]


def decision_cells(cells: Cells, decision: Decision, loaded: Settings) -> dict[str, Any]:
    """Compute the cells of a decision; return its arms, sizes and curves for the pages."""
    about = [_arm_cells(cells, decision, arm, loaded) for arm in decision.quantum]
    first = decision.rows[0]
    found = {
        "decision": decision.key,
        "metric": first.metric,
        "tolerance": first.tolerance,
        "rows": len(decision.rows),
        "sizes": decision.sizes,
        "best_classical": decision.best.arm.arm if decision.best else None,
        "control": bool(decision.best and decision.best.is_control),
        "sources": sorted({arm.source for arm in decision.arms.values()}),
        "arms": about,
    }
    for arm in grown(decision):
        growth_cells(cells, decision, arm)
    cells.assumptions.forget(decision.key)
    return found


def _arm_cells(cells: Cells, decision: Decision, arm: str, loaded: Settings) -> dict[str, Any]:
    model, base = decision.models[arm], f"{decision.key}/{arm}"
    rivals, difference = decision.rivals(arm), decision.difference(arm)
    against = f"{decision.key}" if rivals else base
    if difference is not None:
        cells.add(f"{base}/quality", decision.rows[0].metric, "measured", against, lambda: Figure(difference))
    at = np.array([model.largest])
    _circuit_cells(cells, model, base, at)
    assumed = cells.assumptions
    for device in _devices(decision, arm, assumed):
        default = device == assumed.hardware.default
        for rival in rivals if default else rivals[:1]:
            for currency in CURRENCIES:
                for boundary in BOUNDARIES if default else BOUNDARIES[:1]:
                    key = f"{base}/{device}/{currency}/{boundary}/{rival.key}"
                    make = partial(break_even_size, decision, model, rival, device, currency, boundary)
                    cells.add(key, f"size n* ({currency})", "projected", against, make)
        for rival in rivals[:1] if decision.best else []:
            chance_cells(cells, model, rival, device, f"{base}/{device}", loaded)
    device = assumed.hardware.default
    curves = None
    if decision.best and rivals:
        key = f"{base}/{device}/energy/narrow/hypothetical"
        make = partial(break_even_size, decision, model, rivals[0], device, "energy", "narrow", noise=False)
        cells.add(key, "size n* (energy, no gate errors)", "projected", against, make)
        need_cells(cells, model, rivals[0], device, base, at)
        sensitivity_cells(cells, decision, arm, rivals[0], device)
        ownership_cells(cells, model, rivals[0], device, base, at)
        if model.billed:
            bill_cells(cells, model, rivals[0], base, at)
        curves = curves_of(decision, model, rivals, device)
    assumed.forget(decision.key, arm)
    return {
        "arm": arm,
        "standing": decision.standing(arm),
        "difference": difference,
        "largest": model.largest,
        "rivals": {rival.key: rival.name for rival in rivals},
        "curves": curves,
    }


def _devices(decision: Decision, arm: str, assumed: Assumptions) -> list[str]:
    """Return every class of devices for the challenger, only the default for other arms."""
    challenger = arm == decision.quantum[0]
    return [name for name in assumed.hardware.devices if challenger or name == assumed.hardware.default]


def _circuit_cells(cells: Cells, model: ArmModel, base: str, at: Array) -> None:
    for name in ("circuits", "shots", "gates", "depth", "qubits", "circuit_us"):
        make = partial(lambda name: banded(model.quantity(name, at)[0]), name)
        cells.add(f"{base}/at largest/{name}", GROWTH[name], "modelled", base, make)
    for device in cells.assumptions.hardware.devices:
        make = partial(lambda device: banded(model.survival(at, device)[0]), device)
        cells.add(f"{base}/{device}/survival", "share of shots without a gate error", "modelled", base, make)

"""Probabilities that a quantum arm is cheaper, greener and faster; device requirements; cost of ownership."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.reports.outlook.decision import Rival
from flows.reports.text import number
from infra.energy.model import Boundary
from infra.settings import Settings
from tasks.outlook import needs, ownership
from tasks.outlook.cells import Cells, Figure, banded
from tasks.outlook.spending import ArmModel, Currency, adoption, grams, upkeep

Array = NDArray[np.float64]

CURRENCIES: tuple[Currency, ...] = ("energy", "money", "time")
BOUNDARIES: tuple[Boundary, ...] = ("narrow", "wide")


def chance_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, loaded: Settings) -> None:
    """Add the probabilities of an arm on a device, at the largest size of its evidence."""
    at, rows = np.array([model.largest]), model.decision

    def pair(currency: Currency, boundary: Boundary) -> tuple[Array, Array]:
        mine = model.here(at, currency, boundary, "own") + model.on_device(at, device, currency, boundary)
        return mine[0], rival.takes(at, currency, boundary)[0]

    def ratio(currency: Currency) -> Array:
        with np.errstate(divide="ignore"):  # a rival that takes nothing at all
            return np.asarray(np.divide(*pair(currency, "narrow")))

    def share(currency: Currency, boundary: Boundary) -> Figure:
        mine, its = pair(currency, boundary)
        return Figure(float(np.mean(mine < its)))

    def greener() -> Figure:
        mine, its = _grams(model, rival, at, device, loaded)
        return Figure(float(np.mean(mine < its)))

    cells.add(f"{base}/cheaper", "P(USD below best classical)", "projected", rows, partial(share, "money", "narrow"))
    cells.add(f"{base}/greener", "P(g CO2e below best classical)", "projected", rows, greener)
    cells.add(f"{base}/faster", "P(s below best classical)", "projected", rows, partial(share, "time", "wide"))
    for boundary in BOUNDARIES:
        cells.add(
            f"{base}/saves energy/{boundary}", "P(J below best classical)", "projected", rows,
            partial(share, "energy", boundary),
        )  # fmt: skip
    for currency, unit in zip(CURRENCIES, ("J", "USD", "s"), strict=True):
        cells.add(
            f"{base}/{currency}/device", unit, "projected", f"{rows}/{model.arm}",
            partial(lambda c: banded(model.on_device(at, device, c, "narrow")[0]), currency),
        )  # fmt: skip
        cells.add(
            f"{base}/{currency}/ratio", "times best classical", "projected", rows,
            partial(lambda c: banded(ratio(c)), currency),
        )  # fmt: skip
    if device == model.assumptions.hardware.default:
        for currency, unit in zip(CURRENCIES, ("J", "USD", "s"), strict=True):
            mine = partial(lambda c: banded(model.here(at, c, "narrow", "own")[0]), currency)
            cells.add(f"{rows}/{model.arm}/{currency}/own", unit, "modelled", f"{rows}/{model.arm}", mine)
            its = partial(lambda c: banded(rival.takes(at, c, "narrow")[0]), currency)
            cells.add(f"{rows}/{model.arm}/{currency}/best classical", unit, "modelled", rows, its)


def bill_cells(cells: Cells, model: ArmModel, rival: Rival, base: str, at: Array) -> None:
    """Add what a solve was billed where the evidence ran, beside the price of the best classical arm."""

    def pair() -> tuple[Array, Array]:
        mine = model.here(at, "money", "narrow", "own") + model.bill(at)
        return mine[0], rival.takes(at, "money", "narrow")[0]

    def ratio() -> Figure:
        with np.errstate(divide="ignore"):  # a rival that takes nothing at all
            return banded(np.divide(*pair()))

    cells.add(f"{base}/bill/usd", "USD", "measured", base, lambda: banded(model.bill(at)[0]))
    cells.add(f"{base}/bill/all", "USD", "modelled", base, lambda: banded(pair()[0]))
    cells.add(f"{base}/bill/best classical", "USD", "modelled", model.decision, lambda: banded(pair()[1]))
    cells.add(f"{base}/bill/ratio", "times best classical", "modelled", model.decision, ratio)
    cells.add(
        f"{base}/bill/cheaper", "P(USD below best classical)", "modelled", model.decision,
        lambda: Figure(float(np.mean(np.less(*pair())))),
    )  # fmt: skip


def _grams(model: ArmModel, rival: Rival, at: Array, device: str, loaded: Settings) -> tuple[Array, Array]:
    assumed = model.assumptions
    server = assumed.embodied_g_per_s("cpu") / assumed.value("cpu.vcpus")
    own = grams(assumed, model.here(at, "energy", "wide", "own")[0], loaded.country)
    own = own + model.quantity("own_priced_s", at)[0] * server
    held = model.device_s(at, device)[0] * assumed.embodied_g_per_s("qpu")
    there = grams(assumed, model.on_device(at, device, "energy", "wide")[0], loaded.qpu_country)
    its = grams(assumed, rival.takes(at, "energy", "wide")[0], loaded.country)
    parts = rival.model.quantity("own_priced_s", at)[0] + rival.model.quantity("simulation_priced_s", at)[0]
    return own + there + held, its + parts * server


def _work(model: ArmModel, rival: Rival, device: str, at: Array, currency: Currency, *, rated: bool) -> needs.Work:
    assumed = model.assumptions
    own = model.here(at, currency, "narrow", "own")[0]
    return needs.Work(
        left=rival.takes(at, currency, "narrow")[0] - own,
        jobs=model.quantity("jobs", at)[0],
        shots=model.quantity("shots", at)[0] * assumed.draws("shots.equal_quality"),
        gates=model.quantity("gates", at)[0],
        job_s=assumed.draws(f"hardware.{device}.job"),
        shot_s=model.shot_s(at, device)[0],
        rate=assumed.draws(f"hardware.{device}.power") if rated else np.ones(assumed.n),
        failed=model.failed,
    )


def need_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, at: Array) -> None:
    """Add the device figures at which the arm breaks even."""
    wanted = (
        ("power", "W of the system", needs.needed_rate, "energy"),
        ("price", "USD per second", needs.needed_rate, "money"),
        ("shot", "s of a shot, at the assumed power", needs.needed_shot_s, "energy"),
        ("job", "s of a job without shots, at the assumed power", needs.needed_job_s, "energy"),
        ("gate", "s of a two-qubit gate, at the assumed power", needs.needed_gate_s, "energy"),
        ("error", "error of a two-qubit gate", needs.needed_error, "energy"),
    )
    for name, unit, function, currency in wanted:

        def make(function: Any = function, currency: Any = currency) -> Figure:
            work = _work(model, rival, device, at, currency, rated=function is not needs.needed_rate)
            if not needs.possible(work):
                own, its = (float(np.median(x)) for x in (model.here(at, currency, "narrow", "own"), work.left))
                unit = "J" if currency == "energy" else "USD"
                return Figure(
                    text=f"no device: on ordinary processors alone the arm takes {number(own)} {unit}, "
                    f"all of {rival.name} {number(own + its)} {unit}"
                )
            return banded(function(work))

        cells.add(f"{base}/needs/{name}", unit, "projected", model.decision, make)


def ownership_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, at: Array) -> None:
    """Add the total cost of ownership of the classical and the quantum method."""
    assumed = model.assumptions

    known: dict[ownership.Name, Callable[[], Array]] = {
        "volume": lambda: assumed.draws("site.decisions"),
        "years": lambda: assumed.draws("site.years"),
        "adoption": lambda: adoption(assumed),
        "upkeep": lambda: upkeep(assumed),
        "classical": lambda: rival.takes(at, "money", "narrow")[0],
        "own": lambda: model.here(at, "money", "narrow", "own")[0],
        "device": lambda: model.on_device(at, device, "money", "narrow")[0],
        "device_s": lambda: model.device_s(at, device)[0],
        "subscription": lambda: assumed.draws("site.subscription"),
        "subscription_s": lambda: assumed.draws("site.subscription_seconds"),
    }
    plan = ownership.Plan(lambda name: known[name]())

    for name, field in (
        ("classical", "total_classical"),
        ("pay as you go", "total_as_you_go"),
        ("subscription", "total_subscribed"),
    ):
        make = partial(lambda field: banded(getattr(plan, field)), field)
        cells.add(f"{base}/ownership/{name}", "USD over the plan", "projected", model.decision, make)
    cells.add(
        f"{base}/ownership/volume", "decisions a year", "projected", model.decision,
        lambda: _volume(banded(plan.break_even_volume)),
    )  # fmt: skip


def _volume(found: Figure) -> Figure:
    if found.value is None or math.isfinite(found.value):
        return found
    return Figure(text="none: a decision costs more than it saves")

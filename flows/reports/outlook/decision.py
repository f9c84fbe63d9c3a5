"""The cells of one decision: growth, break-even sizes, chances, needs, sensitivity and cost of ownership."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.reports.figures import Arm, arms_of
from flows.reports.text import number
from infra.energy.model import Boundary, Coefficients
from infra.evidence import EvidenceRow
from infra.settings import Settings
from tasks.evaluation.classical import BestClassical, best_classical
from tasks.evaluation.energy import cheapest_simulation
from tasks.evaluation.figures import QUANTUM
from tasks.evaluation.paired import paired
from tasks.outlook import needs, ownership
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.cells import Cells, Figure, banded
from tasks.outlook.crossing import Crossing, crossing, grid
from tasks.outlook.scaling import Scaling
from tasks.outlook.sensitivity import one_at_a_time, tornado, value_of_information
from tasks.outlook.spending import ArmModel, Currency, adoption, fits_of, grams, upkeep

Array = NDArray[np.float64]

LEAST_SIZES = 5
CURRENCIES: tuple[Currency, ...] = ("energy", "money", "time")
BOUNDARIES: tuple[Boundary, ...] = ("narrow", "wide")
SHOWN_BARS = 8
MEDIAN_DRAWS = 101
FLAT = 1e-9  # a slope below is rounding
FAR = 4.0  # times the largest size, up to which pictures go
GROWTH = {
    "own_cpu_s": "CPU s",
    "simulation_cpu_s": "CPU s of simulation",
    "own_wall_s": "s",
    "circuits": "circuits",
    "shots": "shots",
    "gates": "two-qubit gates of a circuit",
    "qubits": "qubits of a circuit",
    "circuit_us": "us of a circuit",
    "executing_s": "QPU s of executions, projected",
}


@dataclass(frozen=True)
class Rival:
    """What a quantum arm is compared with.

    Attributes:
        key: `best classical` or `simulation`.
        name: the arm, or `simulator`.
        model: the arm's model; that of the quantum arm itself for `simulator`.
    """

    key: str
    name: str
    model: ArmModel

    def takes(self, sizes: Array, currency: Currency, boundary: Boundary) -> Array:
        """Return draws of what the rival takes."""
        return self.model.all_here(sizes, currency, boundary)


@dataclass(frozen=True)
class Decision:
    """A decision with the models of its arms.

    Attributes:
        key: `stage/name`.
        rows: the evidence.
        arms: the arms with their figures.
        models: the arms at any size.
        best: the best classical arm at matched quality, None where no classical arm was scored.
    """

    key: str
    rows: tuple[EvidenceRow, ...]
    arms: dict[str, Arm]
    models: dict[str, ArmModel]
    best: BestClassical | None

    @classmethod
    def of(cls, key: str, rows: Sequence[EvidenceRow], assumptions: Assumptions) -> Decision:
        """Return a decision from its rows."""
        arms = arms_of(rows, Coefficients.load(n=MEDIAN_DRAWS))  # only medians are used
        by_arm = {name: [row for row in rows if row.arm == name] for name in arms}
        models = {
            name: ArmModel(key, name, fits_of(its), arms[name].source, assumptions) for name, its in by_arm.items()
        }
        best = best_classical([arm.figures for arm in arms.values()], rows[0].tolerance)
        return cls(key, tuple(rows), arms, models, best)

    @property
    def quantum(self) -> list[str]:
        """Names of the arms that run circuits, the challenger first."""
        found = [arm.figures for arm in self.arms.values() if arm.figures.kind == QUANTUM and arm.figures.circuits]
        return [a.arm for a in sorted(found, key=lambda a: (a.role != "challenger", a.arm))]

    @property
    def sizes(self) -> list[int]:
        """The different sizes in the evidence."""
        return sorted({max(1, row.size) for row in self.rows})

    def difference(self, arm: str) -> float | None:
        """Return the mean paired difference in quality of an arm to the best classical arm."""
        if self.best is None:
            return None
        return paired(self.arms[arm].figures, self.best.arm).mean

    def standing(self, arm: str) -> str:
        """Return whether an arm's quality is `equal`, `better` or `worse` than the best classical, by the tolerance."""
        difference = self.difference(arm)
        if difference is None:
            return "unknown"
        tolerance = self.rows[0].tolerance
        return "worse" if difference < -tolerance - 1e-12 else "better" if difference > tolerance else "equal"

    def rivals(self, arm: str) -> list[Rival]:
        """Return the best classical arm and the cheapest simulation, as far as there are any."""
        found = []
        if self.best is not None:
            found.append(Rival("best classical", self.best.arm.arm, self.models[self.best.arm.arm]))
        figures = [a.figures for a in self.arms.values()]
        simulation = cheapest_simulation(self.arms[arm].figures, figures)
        if simulation is not None:
            mine = simulation.by == "simulator"
            found.append(Rival("simulation", simulation.by, self.models[arm if mine else simulation.by]))
        return found


def decision_cells(cells: Cells, decision: Decision, loaded: Settings) -> dict[str, Any]:
    """Compute the cells of a decision; return what else the pages show of it: its arms, sizes and curves."""
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
    for arm in _grown(decision):
        _growth_cells(cells, decision, arm)
    cells.assumptions.forget()
    return found


def _grown(decision: Decision) -> list[str]:
    best = [decision.best.arm.arm] if decision.best else []
    twins = [rival.name for arm in decision.quantum for rival in decision.rivals(arm) if rival.name in decision.models]
    return list(dict.fromkeys([*best, *decision.quantum, *twins]))


def _growth_cells(cells: Cells, decision: Decision, arm: str) -> None:
    for name, unit in GROWTH.items():
        fit = decision.models[arm].fits[name]
        if fit.lines[0].form != "zero":
            key = f"{decision.key}/{arm}/growth/{name}"
            cells.add(key, unit, "modelled", f"{decision.key}/{arm}", partial(_growth, fit))


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
        for rival in rivals:
            for currency in CURRENCIES:
                for boundary in BOUNDARIES:
                    key = f"{base}/{device}/{currency}/{boundary}/{rival.key}"
                    make = partial(_size, decision, model, rival, device, currency, boundary)
                    cells.add(key, f"size n* ({currency})", "projected", against, make)
        for rival in rivals[:1] if decision.best else []:
            _chance_cells(cells, model, rival, device, f"{base}/{device}", loaded)
    device = assumed.hardware.default
    curves = None
    if decision.best and rivals:
        key = f"{base}/{device}/energy/narrow/hypothetical"
        make = partial(_size, decision, model, rivals[0], device, "energy", "narrow", noise=False)
        cells.add(key, "size n* (energy, no gate errors)", "projected", against, make)
        _need_cells(cells, model, rivals[0], device, base, at)
        _sensitivity_cells(cells, decision, arm, rivals[0], device)
        _ownership_cells(cells, model, rivals[0], device, base, at)
        curves = _curves(decision, model, rivals, device)
    return {
        "arm": arm,
        "standing": decision.standing(arm),
        "difference": difference,
        "largest": model.largest,
        "rivals": {rival.key: rival.name for rival in rivals},
        "curves": curves,
    }


def _devices(decision: Decision, arm: str, assumed: Assumptions) -> list[str]:
    """Return every class of devices for the challenger, the default alone for other arms."""
    challenger = arm == decision.quantum[0]
    return [name for name in assumed.hardware.devices if challenger or name == assumed.hardware.default]


def _circuit_cells(cells: Cells, model: ArmModel, base: str, at: Array) -> None:
    for name in ("circuits", "shots", "gates", "qubits", "circuit_us"):
        make = partial(lambda name: banded(model.quantity(name, at)[0]), name)
        cells.add(f"{base}/at largest/{name}", GROWTH[name], "modelled", base, make)
    for device in cells.assumptions.hardware.devices:
        make = partial(lambda device: banded(model.survival(at, device)[0]), device)
        cells.add(f"{base}/{device}/survival", "share of shots without a gate error", "modelled", base, make)


def _size(
    decision: Decision,
    model: ArmModel,
    rival: Rival,
    device: str,
    currency: Currency,
    boundary: Boundary,
    *,
    noise: bool = True,
) -> Figure:
    count = len(set(decision.sizes) & {max(1, row.size) for row in decision.rows if row.arm == model.arm})
    if count < LEAST_SIZES:
        return Figure(text=f"undecidable: {count} sizes, {LEAST_SIZES} are needed")
    horizon = float(model.assumptions.value("site.horizon"))
    sizes = grid(float(decision.sizes[0]), horizon * decision.sizes[-1])
    own = model.here(sizes, currency, boundary, "own")
    whole = own + model.on_device(sizes, device, currency, boundary, noise=noise)
    found = crossing(sizes, whole, rival.takes(sizes, currency, boundary), own)
    return _said(found, decision.sizes[-1])


def _said(found: Crossing, largest: int) -> Figure:
    low, middle, high = found.band
    if found.answer == "none":
        return Figure(text=f"none at any size (P = {found.impossible:.2f})")
    if found.answer == "not below":
        some = f" (P = {1 - found.reached:.2f})" if found.reached > 0 else ""
        return Figure(text=f"not below {_size_text(found.largest)}{some}")
    end = _size_text(high) if math.isfinite(high) else f"beyond {_size_text(found.largest)}"
    far = ", extrapolated" if middle > largest else ""
    return Figure(middle, found.band, f"{_size_text(middle)} [{_size_text(low)}, {end}]{far}")


def _size_text(size: float) -> str:
    """Return a size in two significant digits or as a whole number, whichever is finer below a thousand."""
    return f"{size:,.0f}" if size < 1000 else f"{round(size, 1 - math.floor(math.log10(size))):,.0f}"


def _chance_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, loaded: Settings) -> None:
    at, rows = np.array([model.largest]), model.decision

    def pair(currency: Currency, boundary: Boundary) -> tuple[Array, Array]:
        mine = model.here(at, currency, boundary, "own") + model.on_device(at, device, currency, boundary)
        return mine[0], rival.takes(at, currency, boundary)[0]

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
            partial(lambda c: banded(np.divide(*pair(c, "narrow"))), currency),
        )  # fmt: skip
    if device == model.assumptions.hardware.default:
        for currency, unit in zip(CURRENCIES, ("J", "USD", "s"), strict=True):
            mine = partial(lambda c: banded(model.here(at, c, "narrow", "own")[0]), currency)
            cells.add(f"{rows}/{model.arm}/{currency}/own", unit, "modelled", f"{rows}/{model.arm}", mine)
            its = partial(lambda c: banded(rival.takes(at, c, "narrow")[0]), currency)
            cells.add(f"{rows}/{model.arm}/{currency}/best classical", unit, "modelled", rows, its)


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


def _need_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, at: Array) -> None:
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
                    text=f"no device: the classical part alone takes {number(own)} {unit}, "
                    f"{rival.name} {number(own + its)} {unit}"
                )
            return banded(function(work))

        cells.add(f"{base}/needs/{name}", unit, "projected", model.decision, make)


def _log_ratio(decision: Decision, arm: str, rival: Rival, device: str) -> Array:
    """Return log10 of the joules of the quantum arm over those of its rival at the largest size of the evidence."""
    model = decision.models[arm]
    at = np.array([model.largest])
    mine = model.here(at, "energy", "narrow", "own") + model.on_device(at, device, "energy", "narrow")
    return np.asarray(np.log10(mine[0]) - np.log10(rival.takes(at, "energy", "narrow")[0]))


def _sensitivity_cells(cells: Cells, decision: Decision, arm: str, rival: Rival, device: str) -> None:
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


def _ownership_cells(cells: Cells, model: ArmModel, rival: Rival, device: str, base: str, at: Array) -> None:
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


def _curves(decision: Decision, model: ArmModel, rivals: Sequence[Rival], device: str) -> dict[str, Any]:
    """Return joules over size, narrow boundary, with bands, and what was seen at each size."""
    sizes = grid(float(decision.sizes[0]), FAR * decision.sizes[-1], 24)
    own = model.here(sizes, "energy", "narrow", "own")
    lines = {"on the device": own + model.on_device(sizes, device, "energy", "narrow"), "own CPU alone": own}
    lines |= {rival.key: rival.takes(sizes, "energy", "narrow") for rival in rivals}
    return {
        "sizes": sizes.tolist(),
        "largest": decision.sizes[-1],
        "lines": {
            name: np.quantile(draws, (0.05, 0.5, 0.95), axis=1).T.tolist()
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

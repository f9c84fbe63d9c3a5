"""What each arm of a decision reached and took, from its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.energy.carbon import Grid, read_series
from infra.energy.derive import derive, working_times
from infra.energy.model import J_PER_KWH, Boundary, Coefficients, repeats_to_solution
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.settings import Settings

BOUNDARIES: tuple[Boundary, ...] = ("narrow", "wide")


RESAMPLES = 2000


@dataclass(frozen=True)
class _Books:
    """What figures are derived with: coefficients, electricity, and when each row's work ran."""

    coefficients: Coefficients
    grid: Grid
    spans: Mapping[str, tuple[float, float]]

    def spent(self, rows: Sequence[EvidenceRow]) -> dict[str, Any]:
        """Return what executions really spent, all loops included."""
        found = derive(rows, self.coefficients, self.grid, self.spans)
        return {"narrow": _band(found.energy_j), "wide": _band(found.energy_wide_j), "source": found.source}

    def used(self, row: EvidenceRow) -> dict[str, Any]:
        """Return what one solution of an arm takes, what it shares with others included."""
        used = row.usage + row.prepare
        bands = {str(b): _band(self.coefficients.cpu_energy_j(used, b, row.energy_source)) for b in BOUNDARIES}
        return {**bands, "source": row.energy_source}


def decision_report(loaded: Settings, rows: Sequence[EvidenceRow], decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of one decision from one row of evidence for each arm, as it stands in a run's report."""
    coefficients = Coefficients.load()
    books = _Books(coefficients, _grid(loaded, coefficients, rows)[0], working_times(rows))
    return _subtask_report(rows[0].subtask, rows, decision, books)


def _grid(loaded: Settings, coefficients: Coefficients, rows: Sequence[EvidenceRow]) -> tuple[Grid, str]:
    """Return the electricity; the yearly mean and the reason where the series cannot tell."""
    try:
        grid = open_grid(loaded, coefficients)
        for span in working_times(rows).values():
            grid.intensity(*span)
    except BadInput as error:
        if not loaded.carbon_series:
            raise
        return open_grid(loaded.model_copy(update={"carbon_series": None}), coefficients), str(error)
    return grid, ""


def open_grid(loaded: Settings, coefficients: Coefficients) -> Grid:
    """Return the electricity of the settings.

    Raises:
        BadInput: the carbon series or a country cannot be used.
    """
    table = coefficients.file.carbon
    path = loaded.carbon_series
    series = read_series(path, table, loaded.country, loaded.carbon_timezone) if path else None
    return Grid(table, loaded.country, loaded.qpu_country, series)


def _subtask_report(
    name: str, rows: Sequence[EvidenceRow], decision: Mapping[str, Any], books: _Books
) -> dict[str, Any]:
    first = rows[0]
    oracle = _oracle(rows)
    return {
        "name": name,
        "metric": first.metric,
        "size": first.size,
        "tolerance": first.tolerance,
        "chosen": decision.get("arm"),
        "rule": decision.get("rule"),
        "reason": decision.get("reason", ""),
        "n": decision.get("n", 0),
        "difference": decision.get("difference"),
        "interval": decision.get("interval"),
        "oracle": float(np.mean(oracle)) if oracle else None,
        "sources": sorted({row.energy_source for row in rows}),
        "rows": [_arm_report(row, rows, oracle, books) for row in rows],
    }


def _oracle(rows: Iterable[EvidenceRow]) -> tuple[float, ...]:
    """Return the proven optimum for each instance, or the best that any arm reached."""
    done = [row for row in rows if row.status == "done" and row.qualities]
    proven = next((row.oracle for row in done if row.oracle), ())
    if proven or not done:
        return tuple(proven)
    return tuple(max(values) for values in zip(*(row.qualities for row in done), strict=False))


def _arm_report(
    row: EvidenceRow, rows: Sequence[EvidenceRow], oracle: Sequence[float], books: _Books
) -> dict[str, Any]:
    coefficients = books.coefficients
    used = row.usage + row.prepare
    mean, low, high = _interval(row.qualities)
    is_quantum = row.kind == "quantum"
    best = _best_classical(row, rows, coefficients) if row.kind in ("quantum", "twin") else None
    narrow = coefficients.cpu_energy_j(used, "narrow", row.energy_source)
    gco2 = narrow.scaled(books.grid.intensity(*books.spans[row.row_id]) / J_PER_KWH)
    return {
        "arm": row.arm,
        "kind": row.kind,
        "role": row.role,
        "backend": row.backend if is_quantum else "cpu",
        "n": len(row.qualities),
        "quality": mean,
        "quality_lo": low,
        "quality_hi": high,
        "quality_backend": row.quality_backend if is_quantum else "cpu",
        "energy_to_solution_j": _to_solution(narrow.p50, row, oracle),
        "cpu_s": row.usage.cpu_s,
        "wall_s": row.usage.wall_s,
        "prepare_cpu_s": row.prepare.cpu_s,
        "loops": row.loops,
        "circuits": used.circuits,
        "shots": used.shots,
        "two_qubit_gates": used.two_qubit_gates,
        "qpu_s_billed": used.qpu_s_billed,
        "qpu_s_projected": used.qpu_s_projected,
        "energy": {
            "spent": books.used(row),
            "simulation": _simulation(row, rows, coefficients) if used.circuits else None,
            "qpu": _qpu(used, coefficients) if used.circuits else None,
            "break_even_power_w": _break_even(used, best, coefficients),
            "best_classical": books.used(best) | {"arm": best.arm} if best else None,
        },
        "cost_usd": coefficients.cost_usd(used, row.backend),
        "gco2": gco2.p50,
        "gco2_band": _band(gco2),
        "reused": row.reused,
        "status": row.status,
        "reason": row.reason,
    }


def _interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return mean and a 95 % bootstrap interval over the instances; no interval for fewer than three."""
    if not values:
        return None, None, None
    array = np.asarray(values, dtype=float)
    if len(array) < 3:
        return float(array.mean()), None, None
    rng = np.random.default_rng(0)
    means = array[rng.integers(0, len(array), (RESAMPLES, len(array)))].mean(axis=1)
    return float(array.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _to_solution(energy_j: float, row: EvidenceRow, oracle: Sequence[float]) -> float | None:
    """Return joules until the tolerance is met with 99 % certainty, P_hit over the instances; None if never met."""
    if not row.qualities or len(oracle) != len(row.qualities):
        return None
    hits = [q >= best - row.tolerance for q, best in zip(row.qualities, oracle, strict=True)]
    return energy_j * repeats_to_solution(float(np.mean(hits))) if any(hits) else None


def _best_classical(row: EvidenceRow, rows: Sequence[EvidenceRow], coefficients: Coefficients) -> EvidenceRow | None:
    """Return the classical arm of least energy that is as good as the row within the tolerance."""
    mean = float(np.mean(row.qualities)) if row.qualities else None
    matched = [
        other
        for other in rows
        if other.kind in ("classical", "dequantised")
        and other.status == "done"
        and (mean is None or (other.qualities and float(np.mean(other.qualities)) >= mean - row.tolerance))
    ]

    def energy_j(other: EvidenceRow) -> float:
        return coefficients.cpu_energy_j(other.usage + other.prepare, "narrow", other.energy_source).p50

    return min(matched, key=energy_j, default=None)


def _band(band: Any) -> list[float]:
    return [band.p5, band.p50, band.p95]


def _simulation(row: EvidenceRow, rows: Sequence[EvidenceRow], coefficients: Coefficients) -> dict[str, Any] | None:
    """Return the cheapest noiseless simulation of the circuits that was run: the simulator's, or an exact twin's.

    None where there was none: hardware simulates nothing. A twin computes the very probabilities that the circuits
    sample, so drawing from them gives the same samples.
    """
    used = row.usage + row.prepare
    found = []
    if used.simulation_cpu_s > 0:
        found.append(
            (row.backend, {b: coefficients.simulation_energy_j(used, b, row.energy_source) for b in BOUNDARIES})
        )
    for other in rows:
        if other.kind == "twin" and other.status == "done":
            spent = other.usage + other.prepare
            found.append((other.arm, {b: coefficients.cpu_energy_j(spent, b, other.energy_source) for b in BOUNDARIES}))
    if not found:
        return None
    by, bands = min(found, key=lambda item: item[1]["narrow"].p50)
    return {**{b: _band(band) for b, band in bands.items()}, "source": row.energy_source, "by": by}


def _qpu(usage: Usage, coefficients: Coefficients) -> dict[str, Any]:
    billed = usage.qpu_s_billed > 0
    seconds = usage.qpu_s_billed if billed else usage.qpu_s_projected
    bands: dict[str, Any] = {b: _band(coefficients.qpu_energy_j(seconds, billed, b)) for b in BOUNDARIES}
    return {**bands, "projected": not billed, "source": "modelled"}


def _break_even(used: Usage, best: EvidenceRow | None, coefficients: Coefficients) -> list[float] | None:
    """Return the QPU system power at which the circuits would cost as little as the best classical arm."""
    if best is None or not used.circuits:
        return None
    power = coefficients.break_even_power_w(best.usage + best.prepare, used.qpu_s_projected)
    return _band(power) if power else None

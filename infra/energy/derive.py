"""Joules, money and carbon of stored evidence, derived on request from its raw quantities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.energy.carbon import Grid
from infra.energy.model import J_PER_KWH, Band, Boundary, Coefficients
from infra.energy.usage import Usage
from infra.evidence import EvidenceRow

Array = NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class Derived:
    """Energy, cost and carbon that rows of evidence really spent.

    Attributes:
        energy_j: joules of CPU, DRAM and GPU, narrow boundary.
        energy_wide_j: joules of CPU, DRAM and GPU, wide boundary.
        qpu_j: joules of the QPU for the billed seconds, narrow boundary; zero if none were billed.
        cost_usd: price of CPU time and of the billed seconds, and the dollars that providers billed.
        gco2: operational emissions of `energy_j` at this machine and of `qpu_j` at the site of the QPU.
        source: source of the joules.
    """

    energy_j: Band
    energy_wide_j: Band
    qpu_j: Band
    cost_usd: float
    gco2: Band
    source: str

    def asdict(self) -> dict[str, Any]:
        """Return the figures, bands as [p5, p50, p95]."""
        return {k: [v["p5"], v["p50"], v["p95"]] if isinstance(v, dict) else v for k, v in asdict(self).items()}


def derive(rows: Sequence[EvidenceRow], coefficients: Coefficients, grid: Grid, spans: Mapping[str, Span]) -> Derived:
    """Return energy, cost and carbon that executions really spent, all loops included.

    Args:
        rows: the evidence.
        coefficients: the coefficients.
        grid: the electricity.
        spans: start and end of the work of each row, by row id, from `working_times`.

    Raises:
        BadInput: the grid has no intensity for the time of the work.
    """
    billed_s = sum(row.total.qpu_s_billed for row in rows)
    qpu = coefficients.qpu_energy_draws(Usage(qpu_s_billed=billed_s))
    grams = qpu * grid.qpu_intensity / J_PER_KWH
    for group, intensity in _by_intensity(rows, grid, spans):
        grams = grams + energy_draws(group, coefficients) * intensity / J_PER_KWH
    return Derived(
        energy_j=Band.of(energy_draws(rows, coefficients)),
        energy_wide_j=Band.of(energy_draws(rows, coefficients, "wide")),
        qpu_j=Band.of(qpu),
        cost_usd=sum(coefficients.cost_usd(row.total, row.backend) for row in rows),
        gco2=Band.of(grams),
        source=" and ".join(sorted({row.energy_source for row in rows})) or "none",
    )


def energy_draws(rows: Iterable[EvidenceRow], coefficients: Coefficients, boundary: Boundary = "narrow") -> Array:
    """Return draws of the joules that executions really spent; rows of different sources are derived separately."""
    totals: dict[str, Usage] = defaultdict(Usage)
    for row in rows:
        totals[row.energy_source] += row.total
    parts = [coefficients.cpu_energy_draws(usage, boundary, source=source) for source, usage in totals.items()]
    return np.asarray(np.sum(parts, axis=0)) if parts else np.zeros(coefficients.n)


def working_times(rows: Iterable[EvidenceRow]) -> dict[str, Span]:
    """Return start and end of the work of each row, in seconds since the epoch, by row id.

    A row is written at the end of its work. Orchestration gets start and end of the run.
    """
    ended = {row.row_id: (row, datetime.fromisoformat(row.created_at).timestamp()) for row in rows}
    spans = {key: (end - max(0.0, row.total.wall_s), end) for key, (row, end) in ended.items()}
    began: dict[str, float] = {}
    for key, (row, _) in ended.items():
        began[row.run_id] = min(spans[key][0], began.get(row.run_id, spans[key][0]))
    return {key: (began[row.run_id], end) if row.arm == "orchestration" else spans[key] for key, (row, end) in ended.items()}  # fmt: skip  # noqa: E501


def _by_intensity(
    rows: Sequence[EvidenceRow], grid: Grid, spans: Mapping[str, Span]
) -> Iterable[tuple[list[EvidenceRow], float]]:
    groups: dict[float, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        groups[grid.intensity(*spans[row.row_id])].append(row)
    return [(group, intensity) for intensity, group in groups.items()]

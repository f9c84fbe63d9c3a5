"""Further tables of the page: the regret of every arm on the way, and the hyperparameters that are searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.pilots.claim import Seen
from tasks.pilots.flights.grids import GRIDS
from tasks.pilots.flights.problem import AT
from tasks.sections import Chart, Section, Series
from tasks.statistics import mean_interval


def sections(seen: Sequence[Seen]) -> tuple[Section, ...]:
    """Return the regrets and the grids."""
    return (*_regrets([entry for entry in seen if not entry.noisy]), _grids())


def _regrets(seen: Sequence[Seen]) -> tuple[Section, ...]:
    rows: list[tuple[str | float, ...]] = []
    lines: list[Series] = []
    shown = [count for count in AT if any(f"regret at {count}" in entry.measures for entry in seen)]
    if not shown:
        return ()
    for arm in dict.fromkeys(entry.arm for entry in seen):
        found = [entry for entry in seen if entry.arm == arm and f"regret at {shown[-1]}" in entry.measures]
        cells: list[str] = []
        points: list[tuple[float, float]] = []
        for count in shown:
            values = np.array([entry.measures[f"regret at {count}"] for entry in found])
            mean, spread = float(values.mean()), mean_interval(values, [entry.unit for entry in found])
            cells.append(f"{mean:.4f}" + (f" [{spread[0]:.4f}, {spread[1]:.4f}]" if spread else ""))
            points.append((float(count), mean))
        best = float(np.mean([entry.measures["excess test loss"] for entry in found]))
        rows.append((arm, *cells, float(np.mean([abs(entry.quality) < 1e-9 for entry in found])), best,
                     float(np.mean([entry.circuits for entry in found])), found[0].kind))  # fmt: skip
        lines.append(Series(arm, tuple(points)))
    header = ("arm", *(f"regret at {count} [95 %]" for count in shown), "share that found the best", "excess test loss",
              "circuits", "kind")  # fmt: skip
    chart = Chart("fits", "regret of the log loss, nats", tuple(lines)) if len(shown) > 1 else None
    return (
        Section(
            "Regret at equal fits",
            "The lowest validation loss of the complete fits so far minus the lowest of the table. Every search has "
            "the same start design; intervals are over start designs.",
            header,
            tuple(rows),
            chart,
        ),
    )


def _grids() -> Section:
    rows = tuple(
        (model, dimension.name, ", ".join(f"{level:g}" for level in dimension.levels))
        for model, grid in GRIDS.items()
        for dimension in grid
    )
    return Section("What is searched", "256 settings of each model.", ("model", "hyperparameter", "levels"), rows)

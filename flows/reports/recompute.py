"""Recomputes joules, money and carbon of stored runs from raw quantities with another coefficients file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from flows.reports.conversion import open_grid
from flows.reports.run.report import remake
from flows.reports.text import number, table
from infra import runs
from infra.energy.carbon import Grid
from infra.energy.derive import derive, working_times
from infra.energy.model import Coefficients
from infra.errors import BadInput
from infra.evidence import EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence


def recompute(loaded: Settings, run_id: str | None, new: Coefficients) -> dict[str, Any]:
    """Return the totals of each run and stage with the package's own coefficients and with others.

    Args:
        loaded: the settings: state folder, carbon series, countries.
        run_id: only this run; None = all.
        new: the other coefficients.

    Raises:
        BadInput: there is no evidence, or the carbon series does not cover the time of the work.
    """
    evidence, old = open_evidence(loaded.home), Coefficients.load()
    grids = (open_grid(loaded, old), open_grid(loaded, new))
    names = evidence.sql("select run_id from evidence group by run_id order by min(created_at), 1")[
        "run_id"
    ].to_pylist()
    wanted = [name for name in names if run_id in (None, name)]
    if not wanted:
        known = ", ".join(names) or "none yet; try ketcycle run"
        raise BadInput(f"no evidence of run {run_id or '(any)'} in {evidence.root}; runs there: {known}")
    return {
        "coefficients": {"old": old.hash, "new": new.hash},
        "carbon": grids[1].source,
        "runs": [_run(name, evidence.read(run_id=name), (old, new), grids) for name in wanted],
    }


def rewrite(loaded: Settings, found: dict[str, Any], new: Coefficients) -> list[str]:
    """Rewrite the reports of the recomputed runs and return their paths; runs without a record are left out."""
    names = [run["run_id"] for run in found["runs"]]
    return [str(remake(loaded, name, new)) for name in names if runs.find(loaded.home, name)]


def _run(
    name: str, rows: Sequence[EvidenceRow], coefficients: tuple[Coefficients, Coefficients], grids: tuple[Grid, Grid]
) -> dict[str, Any]:
    spans = working_times(rows)
    by_stage: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_stage[row.stage or "orchestration"].append(row)

    def both(part: Sequence[EvidenceRow]) -> dict[str, Any]:
        pairs = zip(coefficients, grids, strict=True)
        old, new = (derive(part, c, grid, spans).asdict() for c, grid in pairs)
        return {"rows": len(part), "old": old, "new": new}

    stages = [{"stage": stage, **both(part)} for stage, part in by_stage.items()]
    return {"run_id": name, "stages": stages, "total": both(rows)}


def render(found: Mapping[str, Any]) -> Group:
    """Return the result of `recompute` as a table: old and new totals by run and stage."""
    old, new = found["coefficients"]["old"], found["coefficients"]["new"]
    header = ("run", "stage", "rows", "J old", "J new", "wide J old", "wide J new", "QPU J old", "QPU J new",
              "USD old", "USD new", "gCO2e old", "gCO2e new")  # fmt: skip
    cells = [
        (run["run_id"], stage.get("stage", "all"), str(stage["rows"]), *_old_new(stage))
        for run in found["runs"]
        for stage in (*run["stages"], run["total"])
    ]
    written = [Text(f"written: {path}") for path in found["reports"]]
    note = f"medians; joules narrow boundary unless wide; old {old}, new {new}; carbon: {found['carbon']}"
    return Group(table(f"Coefficients {old} -> {new}", header, cells), Text(note), *written)


def _old_new(stage: Mapping[str, Any]) -> Iterator[str]:
    for name in ("energy_j", "energy_wide_j", "qpu_j", "cost_usd", "gco2"):
        for side in ("old", "new"):
            value = stage[side][name]
            yield number(value[1] if isinstance(value, list) else value)

"""What the queue did for a run: times, jobs, bills, money, joules. From the stored ledger and evidence alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from infra.energy.model import Band, Coefficients
from infra.energy.usage import Usage
from infra.errors import BadInput
from infra.runtime.figures.attention import read_attention
from infra.runtime.ledger.ledger import DONE, STATES, UNKNOWN, Ledger
from infra.runtime.ledger.schema import batches, calls, charges, parts


def summarise(location: str | Path, home: Path, run: str) -> dict[str, Any]:
    """Return the figures of a run: one entry for each backend it used, and the run's own energy.

    Raises:
        BadInput: no ledger there.
    """
    from infra.shared import open_evidence  # which the queue alone does not have

    ledger = Ledger(location, create=False)
    with ledger.database.read() as connection:
        backends = connection.scalars(sa.select(calls.c.backend).where(calls.c.run == run).distinct()).all()
        found = [_of_backend(connection, run, backend) for backend in sorted(backends)]
    total = sum((row.total for row in open_evidence(home).read(run_id=run)), Usage())
    energy = Coefficients.load().cpu_energy_j(total)
    return {"run": run, "backends": found, "cpu_energy_j": _points(energy), "cpu_s": total.cpu_s}


def summary_of(location: str | Path, home: Path, run: str) -> str | None:
    """Return the figures of a run as Markdown, or None if it made no quantum call."""
    try:
        found = summarise(location, home, run)
    except BadInput:
        return None
    return as_markdown(found) if found["backends"] else None


def _of_backend(connection: sa.Connection, run: str, backend: str) -> dict[str, Any]:
    mine = (calls.c.run == run, calls.c.backend == backend)
    rows = connection.execute(
        sa.select(calls.c.state, calls.c.created, calls.c.updated, calls.c.reused_from).where(*mine)
    ).all()
    waited = [updated - created for state, created, updated, source in rows if state == DONE and source is None]
    keys = sa.select(calls.c.key).where(*mine)
    usage = Usage()
    for text in connection.scalars(sa.select(parts.c.usage).where(parts.c.call.in_(keys), parts.c.usage.is_not(None))):
        usage = usage + Usage(**json.loads(text))
    tags = (
        sa.select(charges.c.tag)
        .where(charges.c.run == run)
        .union(sa.select(parts.c.batch).where(parts.c.call.in_(keys), parts.c.batch.is_not(None)))
    )
    its = batches.c.lane == backend, batches.c.tag.in_(tags)
    jobs = connection.execute(sa.select(batches).where(*its)).mappings().all()
    billed = connection.execute(
        sa.select(
            sa.func.sum(charges.c.billed_s),
            sa.func.sum(charges.c.billed_s * charges.c.usd_per_s),
            sa.func.sum(charges.c.share * batches.c.estimate_s),
        )
        .join(batches, batches.c.tag == charges.c.tag)
        .where(charges.c.run == run, batches.c.lane == backend)
    ).one()
    seconds = float(billed[0] or 0.0) if backend.startswith("ibm") else 0.0  # a provider bills dollars, not time
    return {
        "backend": backend,
        "calls": {state: n for state in STATES if (n := sum(row[0] == state for row in rows))},
        "reused": sum(row[3] is not None for row in rows),
        "jobs": len(jobs),
        "unknown": sum(job["state"] == UNKNOWN for job in jobs),
        "flagged": sum(bool(job["flagged"]) for job in jobs),
        "reserved_s": _reserved(connection, run, backend),
        "wait_median_s": median(waited) if waited else None,
        "wait_longest_s": max(waited, default=None),
        "qpu_s_billed": seconds,
        "qpu_s_estimated": billed[2] or 0.0,
        "qpu_s_projected": usage.qpu_s_projected,
        **_derived(replace(usage, qpu_s_billed=seconds), backend, billed[1] or 0.0),
    }


def _reserved(connection: sa.Connection, run: str, backend: str) -> dict[str, float]:
    found = [row["reserved_s"] for row in read_attention(connection, run) if row["backend"] == backend]
    return found[0] if found else {}


def _derived(usage: Usage, backend: str, usd: float) -> dict[str, Any]:
    """Derive money and joules; a projection is named one, and a simulator's joules are never a QPU's."""
    coefficients, billed = Coefficients.load(), usd > 0 or backend.startswith("ibm")
    return {
        "billed": billed,
        "circuits": usage.circuits,
        "shots": usage.shots,
        "cost_usd": [usd] * 3 if billed else _points(coefficients.projected_cost_usd(usage)),
        "qpu_energy_j": _points(coefficients.qpu_energy_j(usage)),
        "simulation_energy_j": _points(coefficients.simulation_energy_j(usage)),
    }


def _points(band: Band) -> list[float]:
    return [band.p5, band.p50, band.p95]


def rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a summary as figures for people, name and value."""
    cells: list[tuple[str, str]] = []
    for entry in summary["backends"]:
        how = "billed" if entry["billed"] else "projected, not spent"
        time = "billed" if entry["qpu_s_billed"] else "projected"
        states = ", ".join(f"{count} {state}" for state, count in entry["calls"].items())
        cells += [
            ("backend", entry["backend"]),
            ("calls", f"{states}; {entry['reused']} answered from other runs"),
            ("circuits, shots", f"{entry['circuits']:,}, {entry['shots']:,}"),
            (
                "jobs",
                f"{entry['jobs']}, of them {entry['flagged']} flagged (made twice or billed implausibly), "
                f"{entry['unknown']} of unknown outcome",
            ),
            (
                "QPU s reserved, by age",
                ", ".join(f"{age} {_figure(seconds)}" for age, seconds in entry["reserved_s"].items()) or "-",
            ),
            (
                "call to result, s",
                f"median {_figure(entry['wait_median_s'])}, longest {_figure(entry['wait_longest_s'])}",
            ),
            ("QPU s billed", _figure(entry["qpu_s_billed"])),
            ("QPU s estimated before sending", _figure(entry["qpu_s_estimated"])),
            ("QPU s projected", _figure(entry["qpu_s_projected"])),
            (f"cost USD, {how}", _band(entry["cost_usd"])),
            (f"QPU J, modelled, {time} time", _band(entry["qpu_energy_j"])),
            ("simulation J", _band(entry["simulation_energy_j"])),
        ]
    return [*cells, ("CPU J of the whole run", _band(summary["cpu_energy_j"]))]


def as_markdown(summary: dict[str, Any]) -> str:
    """Return a summary as a Markdown table."""
    lines = [f"| {name} | {value} |" for name, value in rows(summary)]
    return "\n".join([f"Runtime queue, run {summary['run']}", "", "| figure | value |", "|---|---|", *lines, ""])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _band(points: list[float]) -> str:
    low, middle, high = points
    return _figure(middle) if low == high else f"{_figure(middle)} [{_figure(low)}, {_figure(high)}]"

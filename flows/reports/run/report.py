"""The report of a run, computed only from the stored evidence and the run's record."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.reports.conversion import Conversion, points
from flows.reports.figures import arms_of, decision_report
from infra import runs
from infra.energy.derive import Derived, derive
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import KetcycleError
from infra.evidence import EvidenceRow
from infra.settings import Settings
from infra.shared import open_evidence

log = logging.getLogger("ketcycle.report")

VERSION = 4  # of the report's shape; docs/figures.md says what each version added


def build_report(
    loaded: Settings, run_id: str, run: Mapping[str, Any], coefficients: Coefficients | None = None
) -> dict[str, Any]:
    """Assemble the report of a run.

    Args:
        loaded: the settings: state folder, and the place that computes.
        run_id: the run.
        run: the record of the run: config, status and the stages' results.
        coefficients: of joules, money and carbon; the package's own by default.

    Returns:
        The report in the documented shape: run, stages, subtasks, rows.
    """
    coefficients = coefficients or Coefficients.load()
    rows = open_evidence(loaded.home).read(run_id=run_id)
    conversion = Conversion.of_rows(loaded, coefficients, rows)
    by_stage: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        by_stage[row.stage].append(row)
    everything = derive(rows, coefficients, conversion.grid, conversion.spans)
    orchestration = [row for row in rows if row.arm == "orchestration"]
    return {
        "version": VERSION,
        "run_id": run_id,
        **{name: run["config"][name] for name in ("method", "backend", "profile", "seed")},
        "status": run["status"],
        "began_s": run.get("began_s"),
        "wall_s": run.get("wall_s"),
        "peak_mb": run.get("peak_mb"),
        "cpu_s": sum(row.total.cpu_s for row in rows),
        "spent": conversion.spent(rows),
        "qpu": _billed(rows, everything),
        "queue": _queue(loaded, run_id),
        "cost_usd": everything.cost_usd,
        "gco2": points(everything.gco2),
        "carbon": {"source": conversion.grid.source, "note": conversion.note},
        "orchestration": _orchestration(orchestration, conversion) if orchestration else None,
        "coefficients": coefficients.hash,
        "break_even": str(coefficients.break_even()),
        "country": loaded.country,
        "gate": run.get("gate"),
        "stages": [
            _stage_report(name, found, by_stage.get(name, []), conversion) for name, found in run["stages"].items()
        ],
    }


def _queue(loaded: Settings, run_id: str) -> list[dict[str, Any]]:
    """Return the run's calls, jobs and bills in the runtime queue by backend; empty without circuits."""
    from infra.runtime.figures.summary import summarise

    did = ("backend", "calls", "jobs", "flagged", "wait_median_s", "wait_longest_s")
    took = ("qpu_s_estimated", "qpu_s_billed", "qpu_s_projected", "billed", "cost_usd", "qpu_energy_j")
    try:
        found = summarise(loaded.ledger, loaded.home, run_id)["backends"]
    except KetcycleError as error:  # a ledger that is not there, or a database that does not answer
        log.info("the report says nothing of the runtime queue: %s", error)
        return []
    return [{name: entry[name] for name in (*did, *took)} for entry in found]


def _billed(rows: Sequence[EvidenceRow], everything: Derived) -> dict[str, Any] | None:
    """Return the total that QPUs billed, None if there are no bills."""
    seconds = sum(row.total.qpu_s_billed for row in rows)
    return {"billed_s": seconds, "energy": points(everything.qpu_j), "source": "modelled"} if seconds else None


def _stage_report(
    name: str, result: Mapping[str, Any], rows: Sequence[EvidenceRow], conversion: Conversion
) -> dict[str, Any]:
    work = [row for row in rows if row.arm == "stage"]
    decisions = result.get("decisions", {})
    by_subtask: dict[str, list[EvidenceRow]] = defaultdict(list)
    for row in rows:
        # A run continued with other parameters has also solved an earlier problem, whose cost still counts.
        if row.subtask and decisions.get(row.subtask, {}).get("problem") in (None, row.problem):
            by_subtask[row.subtask].append(row)
    total = sum((row.total for row in rows), Usage())
    return {
        "stage": name,
        "status": result["status"],
        "reused": result.get("reused", False),
        "reason": result.get("reason", ""),
        "began_s": result.get("began_s"),
        "wall_s": result.get("wall_s"),
        "cpu_s": total.cpu_s,
        "peak_rss_mb": max((json.loads(row.decision)["peak_rss_mb"] for row in work), default=None),
        "circuits": total.circuits,
        "shots": total.shots,
        "energy": conversion.spent(work) if work else None,
        "spent": conversion.spent(rows) if rows else None,
        "facts": result.get("facts", {}),
        "sections": result.get("sections", []),
        "refs": result.get("refs", {}),
        "subtasks": [
            decision_report(arms_of(found, conversion.coefficients), decisions.get(name, {}), conversion)
            for name, found in by_subtask.items()
        ],
    }


def _orchestration(rows: Sequence[EvidenceRow], conversion: Conversion) -> dict[str, Any]:
    found = derive(rows, conversion.coefficients, conversion.grid, conversion.spans)
    return {"cpu_s": sum(row.total.cpu_s for row in rows), "energy": conversion.spent(rows), "gco2": found.gco2.p50}


def metrics(report: Mapping[str, Any], stage: str | None = None) -> dict[str, float | None]:
    """Return the figures of a report under the fixed metric names; those of a stage have all its arms.

    Those of the whole run have the arms of the closing screen: used, best classical, incumbent and challenger.
    """
    found: dict[str, float | None] = {}
    for entry in report["stages"]:
        if stage is not None and entry["stage"] != stage:
            continue
        prefix = "" if stage else f"{entry['stage']}/"
        for name in ("wall_s", "cpu_s", "peak_rss_mb"):
            found[f"{name}/{entry['stage']}"] = entry[name]
        if entry["energy"]:
            p5, p50, p95 = entry["energy"]["narrow"]
            found |= {
                f"energy_j/{entry['stage']}": p50,
                f"energy_j_p5/{entry['stage']}": p5,
                f"energy_j_p95/{entry['stage']}": p95,
                f"energy_wide_j/{entry['stage']}": entry["energy"]["wide"][1],
            }
        found |= _numbers(entry["facts"], prefix)
        for subtask in entry["subtasks"]:
            best = subtask["best_classical"] or {}
            leading = {subtask["chosen"], best.get("arm"), best.get("reference")}
            for row in subtask["rows"]:
                if stage or row["role"] or row["arm"] in leading:
                    found |= _row_metrics(f"{subtask['name']}/{row['arm']}", row)
    return found


def _numbers(facts: Mapping[str, Any], prefix: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def _row_metrics(key: str, row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of an arm; those of circuits only of a quantum one."""
    narrow, wide = row["energy"]["spent"]["narrow"], row["energy"]["spent"]["wide"]
    found = {
        f"quality/{key}": row["quality"],
        f"energy_j/{key}": narrow[1],
        f"energy_j_p5/{key}": narrow[0],
        f"energy_j_p95/{key}": narrow[2],
        f"energy_wide_j/{key}": wide[1],
        f"cpu_s/{key}": row["cpu_s"] + row["prepare_cpu_s"],
        f"gco2/{key}": row["gco2"],
    }
    if row["kind"] == "quantum":
        qpu = row["energy"]["qpu"]
        found |= {
            f"qpu_projected_j/{key}": qpu["wide"][1] if qpu and qpu["projected"] else None,
            f"qpu_s/{key}": row["qpu_s_billed"],
            f"cost_usd/{key}": row["cost_usd"],
            f"circuits/{key}": row["circuits"],
            f"shots/{key}": row["shots"],
        }
    return found


def write_report(home: Path, report: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write the report of a run as JSON, Markdown and HTML into the run's folder; return the files."""
    from flows.reports.run.page import page
    from flows.reports.run.text import markdown

    return runs.write_report(home, report["run_id"], report, markdown(report), page(home, report))


def remake(loaded: Settings, run_id: str | None, coefficients: Coefficients | None = None) -> Path:
    """Rebuild the report of a run, by default the newest, from its stored evidence; return the page.

    Raises:
        BadInput: there is no such run.
    """
    name, run = runs.read(loaded.home, run_id)
    return write_report(loaded.home, build_report(loaded, name, run, coefficients))[-1]

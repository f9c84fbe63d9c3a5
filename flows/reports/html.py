"""The report of a run as one HTML file that needs nothing else: no network, no scripts, charts as inline SVG.

Made only from the stored report, the run's record and data sets of the lake, so that it can be made again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from flows.reports import charts
from flows.reports.closing import HEADER, summarise
from flows.reports.merged import merged_documents, saved_training
from flows.reports.text import (
    ARM_HEADER,
    QUEUE_HEADER,
    RECORD_HEADER,
    arm_rows,
    band,
    best_arm,
    break_even,
    fact_rows,
    gate,
    number,
    qpu_joules,
    queue_rows,
    record_rows,
    summary,
    too_easy,
)
from infra.errors import LakeError
from infra.lake import Lake, Ref
from infra.shared import open_evidence, open_lake

Row = Mapping[str, Any]


def templates() -> jinja2.Environment:
    """Return the templates of all pages, with the filters that write figures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "band": band, "break_even": break_even, "qpu_joules": qpu_joules}
    environment.filters |= {"best_arm": best_arm, "too_easy": too_easy}
    return environment


def page(home: Path, report: Row) -> str:
    """Return the report of a run as HTML.

    Args:
        home: the state folder, for the lake and the evidence that the report names.
        report: the run's report, as `flows.reports.run.build_report` makes it.
    """
    template = templates().get_template("report.html")
    with charts.style():
        return template.render(**_context(home, report))


def _context(home: Path, report: Row) -> dict[str, Any]:
    lake = open_lake(home)
    stages = {stage["stage"]: stage for stage in report["stages"]}
    refs = {name: ref for stage in report["stages"] for name, ref in stage["refs"].items()}
    facts = {name: stage["facts"] for name, stage in stages.items()}
    examples, missing = merged_documents(lake, refs)
    return {
        "report": report,
        "summary": summary(report),
        "gate": gate(report),
        "closing": summarise(report),
        "closing_header": HEADER,
        "stage_energy": charts.energy_by_stage(report),
        "three_energies": charts.three_energies(report),
        "queue_header": QUEUE_HEADER,
        "queue": queue_rows(report),
        "quantum": list(_quantum_arms(report)),
        "decisions": [
            {
                **subtask,
                "stage": stage["stage"],
                "arms_chart": charts.arms(subtask),
                "scatter": charts.quality_against_energy(subtask),
                "cells": arm_rows(subtask),
            }
            for stage in report["stages"]
            for subtask in stage["subtasks"]
        ],
        "arm_header": ARM_HEADER,
        "record_header": RECORD_HEADER,
        "records": record_rows(report),
        "examples": examples,
        "examples_missing": missing,
        "removed": facts.get("curation", {}).get("removed", {}),
        "saved": saved_training(stages),
        "component_sizes": charts.component_sizes(facts.get("curation", {}).get("component_sizes", {})),
        "training": _training(lake, refs, facts.get("training", {})),
        "samples": list(_samples(facts)),
        "pruning": _pruning(facts.get("inference", {})),
        "drift": _drift(lake, refs, facts.get("monitoring", {})),
        "facts": {name: rows for name, found in facts.items() if (rows := list(fact_rows(found)))},
        "provenance": list(_provenance(home, report)),
        "refs": sorted(refs.items()),
    }


def _quantum_arms(report: Row) -> Iterator[dict[str, Any]]:
    for stage in report["stages"]:
        for subtask in stage["subtasks"]:
            for row in subtask["rows"]:
                if row["kind"] == "quantum":
                    yield {"decision": subtask["name"], **row}


def _table(lake: Lake, refs: Mapping[str, str], name: str) -> list[dict[str, Any]]:
    """Return the rows of a data set of the run, none where it is not in the lake any more."""
    try:
        rows: list[dict[str, Any]] = lake.read(Ref.parse(refs[name])).to_pylist()
    except (KeyError, LakeError):
        return []
    return rows


def _training(lake: Lake, refs: Mapping[str, str], facts: Row) -> dict[str, Any]:
    references = facts.get("references", {}).get("validation", {})
    chart = charts.training_curve(_table(lake, refs, "training/curve"), references)
    return {"chart": chart, "before": facts.get("before"), "after": facts.get("after"), "tokens": facts.get("tokens")}


def _samples(facts: Mapping[str, Row]) -> Iterator[dict[str, Any]]:
    """Yield what the model wrote, by stage: label and text; the first, the middle and the last of many."""
    for stage, found in facts.items():
        samples = list(found.get("samples", {}).items())
        picked = samples if len(samples) <= 3 else [samples[0], samples[len(samples) // 2], samples[-1]]
        if picked:
            unit = "after step {}" if all(label.isdigit() for label, _ in picked) else "{}"
            yield {"stage": stage, "texts": [(unit.format(label), text) for label, text in picked]}
        if served := found.get("served"):
            yield {"stage": f"{stage}, the served model", "texts": [("completion", served["prompt"] + served["text"])]}


def _pruning(facts: Row) -> dict[str, Any]:
    figures = facts.get("bits_per_byte", {})
    curve = facts.get("pruning_curve", [])
    return {
        "chart": charts.model_figures(figures) if facts.get("removed") else None,
        "curve": charts.pruning_curve(curve),
        "removed": facts.get("removed_units", []),
        "parameters": facts.get("parameters"),
    }


def _drift(lake: Lake, refs: Mapping[str, str], facts: Row) -> dict[str, Any]:
    rows = _table(lake, refs, "monitoring/verdicts")
    return {"chart": charts.drift(rows, facts.get("alarm_level")), "rows": rows, "power": facts.get("power_at_level")}


def _provenance(home: Path, report: Row) -> Iterable[tuple[str, str]]:
    rows = open_evidence(home).read(run_id=report["run_id"])
    versions: dict[str, str] = {}
    for row in rows:
        versions |= json.loads(row.versions)
    yield from ((name, str(report[name])) for name in ("run_id", "profile", "method", "backend", "seed", "country"))
    yield "coefficients", f"{report['coefficients']} (digest of the file)"
    yield "versions", ", ".join(f"{name} {text}" for name, text in sorted(versions.items()))
    yield "hosts", ", ".join(sorted({row.host for row in rows if row.host})) or "unknown"
    yield "calibrations", ", ".join(sorted({row.calibration for row in rows if row.calibration})) or "none"
    yield "energy sources", ", ".join(sorted({row.energy_source for row in rows})) or "none"
    since, until = (pick((row.created_at[:19] for row in rows), default="-") for pick in (min, max))
    yield "evidence", f"{len(rows)} rows, {since} to {until} UTC"

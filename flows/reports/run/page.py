"""The report of a run as one self-contained HTML file: no network, no scripts, charts as inline SVG.

Made only from the stored report, the run's record and data sets of the lake, so it can be rebuilt at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.reports import charts
from flows.reports.html import templates
from flows.reports.run.closing import HEADER, summarise
from flows.reports.run.meanings import MEANINGS, used
from flows.reports.run.merged import merged_documents, saved_training
from flows.reports.run.overview import overview
from flows.reports.run.text import (
    ARM_HEADER,
    QUEUE_HEADER,
    RECORD_HEADER,
    STAGE_HEADER,
    arm_rows,
    fact_rows,
    gate,
    queue_rows,
    record_rows,
    stored_sections,
    summary,
)
from flows.reports.study.cases import case_table, read_pilots
from flows.reports.text import section_cells
from infra.shared import open_evidence, open_lake

Row = Mapping[str, Any]

QUANTUM_HEADER = ("decision", "quantum arm", "QPU s", "QPU J", "simulation J", "best classical J", "break-even")


def page(home: Path, report: Row) -> str:
    """Return the report of a run as HTML.

    Args:
        home: the state folder, for the lake and the evidence that the report names.
        report: the run's report, as `flows.reports.run.report.build_report` makes it.
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
        "overview": overview(report),
        "stage_header": STAGE_HEADER,
        "quantum_header": QUANTUM_HEADER,
        "meanings": MEANINGS,
        "explained": used((HEADER, STAGE_HEADER, RECORD_HEADER, ARM_HEADER, QUANTUM_HEADER, QUEUE_HEADER)),
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
        "saved": saved_training(stages),
        "sections": [(stage, [_section(found) for found in parts]) for stage, parts in stored_sections(report)],
        "facts": {name: rows for name, found in facts.items() if (rows := list(fact_rows(found)))},
        "provenance": list(_provenance(home, report)),
        "refs": sorted(refs.items()),
        "cases": case_table(read_pilots(home)),
    }


def _section(section: Row) -> dict[str, Any]:
    chart = section["chart"]
    return {**section, "cells": section_cells(section), "svg": charts.drawn(section["title"], chart) if chart else None}


def _quantum_arms(report: Row) -> Iterator[dict[str, Any]]:
    for stage in report["stages"]:
        for subtask in stage["subtasks"]:
            for row in subtask["rows"]:
                if row["kind"] == "quantum":
                    yield {"decision": subtask["name"], **row}


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

"""The weekly report: cost of the runs, arms chosen, and carbon saved by waiting for green electricity."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact

from flows.lifecycle.answers import done
from flows.operations.green import score
from infra import runs, settings
from infra.lake import write_atomic

DAY_S = 86_400


@flow(name="evidence-report", flow_run_name="evidence-report {days} days")
def evidence_report(days: int = 7) -> State[Any]:
    """Write a report on the last days into `reports` of the state folder and onto the Prefect page.

    Args:
        days: Runs of this many last days are included.
    """
    loaded = settings.load()
    text = weekly(loaded.home, days, score(loaded))
    path = loaded.home / "reports" / f"evidence-{datetime.now(UTC):%Y-%m-%d}.md"
    write_atomic(path, text)
    create_markdown_artifact(text, key="ketcycle-evidence", description=f"The last {days} days")
    return done(f"written to {path}")


def weekly(home: Path, days: int, starts: list[dict[str, Any]]) -> str:
    """Return the report as Markdown, from the reports of the runs and the scored starts."""
    since = time.time() - days * DAY_S
    reports = list(runs.reports(home, since))[::-1]
    lines = [f"# Evidence of the last {days} days", "", *_runs(reports), *_decisions(reports), *_starts(starts)]
    return "\n".join(lines) + "\n"


def _runs(reports: list[dict[str, Any]]) -> list[str]:
    if not reports:
        return ["No run was finished.", ""]
    head = ("run", "status", "method", "CPU s", "J, narrow (5 % to 95 %)", "QPU s billed", "g CO2e")
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    total = 0.0
    for report in reports:
        low, joules, high = report["spent"]["narrow"]
        total += joules
        billed = report["qpu"]["billed_s"] if report["qpu"] else 0
        cells = (report["run_id"], report["status"], report["method"], f"{report['cpu_s']:.0f}")
        band = f"{_short(joules)} ({_short(low)} to {_short(high)}), {report['spent']['source']}"
        rows.append(f"| {' | '.join(cells)} | {band} | {billed:.3g} | {report['gco2'][1]:.3g} |")
    return [*rows, "", f"{len(reports)} runs, {_short(total)} J together.", ""]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _decisions(reports: list[dict[str, Any]]) -> list[str]:
    found: dict[str, dict[str, int]] = {}
    for report in reports:
        for stage in report["stages"]:
            for subtask in stage["subtasks"]:
                arms = found.setdefault(f"{stage['stage']}/{subtask['name']}", {})
                arm = subtask["chosen"] or "none"
                arms[arm] = arms.get(arm, 0) + 1
    if not found:
        return []
    said = (f"| {name} | {', '.join(f'{arm} {n}' for arm, n in arms.items())} |" for name, arms in found.items())
    return ["| decision | arms chosen, runs |", "|---|---|", *said, ""]


def _starts(starts: list[dict[str, Any]]) -> list[str]:
    if not starts:
        return ["No start scheduled for green electricity has been scored.", ""]
    head = ("start", "waited h", "g/kWh at once", "g/kWh chosen", "best possible", "saved", "was expected")
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for item in starts:
        figures = f"{item['waited_h']:.1f} | {item['at once']:.0f} | {item['chosen']:.0f} | {item['perfect']:.0f}"
        rows.append(f"| {item['deployment']} | {figures} | {item['saved']:.1%} | {item['expected']:.1%} |")
    return [*rows, ""]

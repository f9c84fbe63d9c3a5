"""The outlook as text for the console and in Markdown."""

from __future__ import annotations

from collections import Counter

from rich.console import Group
from rich.text import Text

from flows.reports.outlook.build import Outlook, cost_sentence
from flows.reports.outlook.tables import MAKERS, tables
from flows.reports.text import table

CONSOLE = ("roadmap", "break-even", "needs", "ownership")


def summary(outlook: Outlook) -> list[str]:
    """Return a summary of the outlook in a few sentences."""
    verdicts = {row["verdict"] for row in outlook.roadmap}
    counted = [f"{sum(row['verdict'] == v for row in outlook.roadmap)} {v}" for v in sorted(verdicts)]
    lines = [cost_sentence(), f"Of the roadmap's {len(outlook.roadmap)} stages: {', '.join(counted)}."]
    arms = [(f"{d['decision']}/{arm['arm']}", arm["standing"]) for d in outlook.decisions for arm in d["arms"]]
    device = outlook.assumptions.hardware.default
    good = [base for base, standing in arms if standing in ("equal", "better")]
    cells = [outlook.cells.get(f"{base}/{device}/saves energy/narrow") for base in good]
    likely = sum(cell is not None and (cell.value or 0) > 0.5 for cell in cells)
    lines.append(
        f"{len(good)} of {len(arms)} quantum arms are as good as the best classical arm; {likely} of these would "
        f"probably take less energy on a {device} device at the sizes seen."
    )
    used = sum(decision["rows"] for decision in outlook.decisions)
    lines.append(f"From {used:,} executions in {outlook.gathered.place}; {outlook.assumptions.n:,} draws.")
    if outlook.missing:
        missing = ", ".join(outlook.missing)
        lines.append(f"No evidence of {missing}: run ketcycle study {outlook.missing[0]}.")
    counts: Counter[str] = Counter()
    for decision, reasons in outlook.gathered.left_out.items():
        if decision.partition("/")[0] in outlook.stages:
            counts.update(reasons)
    if counts:
        lines.append(f"Left out: {', '.join(f'{n} rows ({reason})' for reason, n in counts.items())}.")
    return lines


def console(outlook: Outlook, paths: list[str]) -> Group:
    """Return the main tables for a wide console."""
    parts = [found for name in CONSOLE if (found := MAKERS[name](outlook)).rows]
    shown = [table(t.title, t.header, [[cell.text for cell in row] for row in t.rows]) for t in parts]
    return Group(*shown, *map(Text, summary(outlook)), *(Text(f"written: {path}") for path in paths))


def markdown(outlook: Outlook) -> str:
    """Return the outlook as Markdown."""
    parts = ["# Outlook", "\n".join(f"* {line}" for line in summary(outlook))]
    for found in tables(outlook):
        parts += [f"## {found.title}", found.sentence, found.markdown()]
    return "\n\n".join(parts) + "\n"

"""The outlook as one self-contained HTML file."""

from __future__ import annotations

from typing import Any

from flows.reports.charts import style
from flows.reports.html import templates
from flows.reports.outlook.build import Outlook
from flows.reports.outlook.charts import bars, growth
from flows.reports.outlook.tables import tables
from flows.reports.outlook.text import summary


def outlook_page(outlook: Outlook) -> str:
    """Return the outlook as HTML."""
    names = list(outlook.gathered.row_sets)
    with style():
        curves = [
            (growth(f"Joules over size, {base}", arm["curves"]), f"{base}: marks are means of the evidence")
            for base, arm in _arms(outlook)
            if arm["curves"]
        ]
        tornadoes = [
            (bars(f"What moves the energy ratio of {base}", list(outlook.cells.below(f"{base}/tornado/"))), base)
            for base, arm in _arms(outlook)
            if arm["curves"]
        ]
    return (
        templates()
        .get_template("outlook.html")
        .render(
            summary=summary(outlook),
            tables=tables(outlook),
            curves=curves,
            tornadoes=tornadoes,
            anchors={name: f"rows-{position}" for position, name in enumerate(names)},
            row_sets=[
                (name, outlook.gathered.row_sets[name]) for name in names if name.partition("/")[0] in outlook.stages
            ],
            place=outlook.gathered.place,
            draws=f"{outlook.assumptions.n:,}",
            digest=outlook.assumptions.hash,
        )
    )


def _arms(outlook: Outlook) -> list[tuple[str, dict[str, Any]]]:
    """Return the first quantum arm of each decision, which the charts show."""
    return [(f"{d['decision']}/{d['arms'][0]['arm']}", d["arms"][0]) for d in outlook.decisions if d["arms"]]

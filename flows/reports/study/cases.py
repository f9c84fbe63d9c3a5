"""The table of all pilots: one line for each published case."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.reports.study.cells import energy_cells, spread
from flows.reports.text import number
from tasks.pilots.claim import published

Row = Mapping[str, Any]
Cells = list[tuple[str, ...]]

CASE_HEADER = ("case", "published -> ours [95 %]", "reproduced", "better than the best classical", "best classical arm",
               "QPU J", "simulation J", "best classical J", "score of the predictions")  # fmt: skip


def case_cells(found: Row) -> tuple[str, ...]:
    """Return the line of a pilot in the table of all cases."""
    study, verdicts = found["study"], found["verdicts"]
    energy = next((row for row in energy_cells(study) if row[0].startswith(f"{study['challenger']} (")), None)
    judged = [entry for entry in found["numbers"] if entry["judged"]]
    best = found["classical"]["all features"]
    return (
        f"{found['pilot']}: {found['title']}",
        "; ".join(f"{e['name']}: {_published(e)}{spread(e['ours'], e['interval'])}" for e in judged) or "-",
        verdicts["reproduced"]["answer"],
        verdicts["better"]["answer"],
        f"{best['arm']} {spread(best['quality'], best['interval'])}" if best else "-",
        *(energy[1:4] if energy else ("-", "-", "-")),
        ", ".join(number(entry["score"]) for entry in found["predicted"]) or "-",
    )


def read_pilots(home: Path) -> Iterator[dict[str, Any]]:
    """Yield the newest full page of each pilot of a home, in the order of their names."""
    paths = sorted((home / "studies").glob("*/pilot.json"), key=lambda path: path.stat().st_mtime)
    pages = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    newest = {page["pilot"]: page for page in pages if page["profile"] == "full"}
    yield from (newest[name] for name in sorted(newest))


def case_table(pages: Iterable[Row], names: Sequence[str] = ()) -> tuple[tuple[str, ...], Cells]:
    """Return the table of all cases: a line for each page, and one for each name without a page."""
    found = {page["pilot"]: case_cells(page) for page in pages}
    blank = ("-",) * (len(CASE_HEADER) - 3)
    missing = {name: (f"{name}: {published(name).title}", published(name).claim, f"`ketcycle pilot {name}`", *blank)
               for name in names if name not in found}  # fmt: skip
    return CASE_HEADER, [{**found, **missing}[name] for name in names or found]


def _published(entry: Row) -> str:
    return "" if entry["published"] is None else f"{number(entry['published'], 4)} -> "

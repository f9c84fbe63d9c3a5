"""Status of an installation as tables, for the console and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.installation.status import Status


@dataclass(frozen=True)
class Section:
    """A table of the status.

    Attributes:
        title: heading.
        columns: names of the columns.
        rows: cells.
        empty: text in place of a table without rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str


def sections(status: Status) -> list[Section]:
    """Return the tables of a status, the most urgent first."""
    ended = ", ".join(f"{count} {state.lower()}" for state, count in status.ended.items() if count)
    title = f"Ended (24 h: {ended})" if ended else "Ended"
    waits = tuple((backend, f"{count} calls") for backend, count in status.open_calls.items())
    limits = tuple((f"budget per {row['scope']}", f"{row['left']:.4g} {row['unit']} left") for row in status.budget)
    return [
        Section(
            "Services",
            ("service", "address", "answers"),
            tuple((item.name, item.address, "yes" if item.answers else "NO") for item in status.services),
            "none: `ketcycle up` starts them, and a run starts its own",
        ),
        Section("Going on", ("run", "state", "since"), _runs(status.active, 3), "no run"),
        Section(title, ("run", "state", "at", "message"), _runs(status.recent, 4), "no run"),
        Section("Runtime queue", ("what", "how much"), (*waits, *limits), "nothing waits, no limit is set"),
        Section(
            "Models that serve",
            ("model", "version"),
            tuple((item.model, str(item.version)) for item in status.champions),
            "no model has the alias champion",
        ),
        Section(
            "Drift",
            ("model", "state", "until"),
            tuple((item.model, item.level, item.until) for item in status.drift),
            "not watched yet",
        ),
        Section(
            "Events",
            ("event", "on", "at"),
            tuple((item.event, item.resource, item.at) for item in status.events),
            "none, or no Prefect server answers",
        ),
    ]


def headline(status: Status) -> str:
    """Return state folder, time and free space."""
    return f"{status.home} at {status.at}, {status.free_gb} GB free"


def markdown(status: Status) -> str:
    """Return a status as a page."""
    lines = [headline(status), ""]
    for section in sections(status):
        lines += [f"### {section.title}", ""]
        if section.rows:
            lines += [_line(section.columns), _line(["---"] * len(section.columns)), *map(_line, section.rows), ""]
        else:
            lines += [section.empty, ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _runs(runs: Sequence[object], width: int) -> tuple[tuple[str, ...], ...]:
    fields = ("name", "state", "since", "message")[:width]
    return tuple(tuple(str(getattr(run, name)).split("\n")[0][:100] for name in fields) for run in runs)

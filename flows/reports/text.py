"""Figures as text, and tables for the console and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


SIZES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure in a few significant digits, a dash for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def joules(value: float | None) -> str:
    """Return an energy with a unit prefix."""
    return scaled(value, "J")


def scaled(value: float | None, unit: str) -> str:
    """Return a figure with a unit prefix, a dash for none."""
    if not value:
        return f"0 {unit}" if value == 0 else "-"
    size, prefix = next(((size, prefix) for size, prefix in SIZES if abs(value) >= size), SIZES[-1])
    shown = value / size
    return f"{shown:.0f} {prefix}{unit}" if 100 <= abs(shown) < 10_000 else f"{number(shown, 2)} {prefix}{unit}"


def band(values: Sequence[float] | None) -> str:
    """Return a band `[p5, p50, p95]` as `p50 [p5, p95]`."""
    if not values:
        return "-"
    return f"{number(values[1])} [{number(values[0], 2)}, {number(values[2], 2)}]"


def difference(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a difference with its interval, a dash for none."""
    return number(value) + (f" [{number(interval[0])}, {number(interval[1])}]" if interval else "")


def break_even(found: Row | None) -> str:
    """Return the system power, price and speed of a device at which both sides cost the same, or why none exists."""
    if not found:
        return "-"
    narrow, price, time = found["narrow"], found["price"], found["time"]
    if narrow["at"] is None:
        without = narrow["without_own"][1]
        return (
            f"none: the arm's CPU work alone takes {joules(narrow['own'])}, the best classical arm "
            f"{joules(narrow['best'])} in all; without that work "
            + (f"below {scaled(without, 'W')}" if without > 0 else "none either")
        )
    usd = f"{number(price['at'][1])} USD/s" if price["at"] else "at no price"
    seconds = f"{number(time['at'][1])} of the projected time" if time["at"] else "at no speed"
    return f"{scaled(narrow['at'][1], 'W')}; {usd}; {seconds}"


def qpu_joules(qpu: Row) -> str:
    """Return the joules of a QPU and the share of shots without a gate error."""
    survives = qpu["surviving_fidelity"]
    if not qpu["arrives"]:
        return f"noise leaves no usable shot (fidelity {number(survives)})"
    said = band(qpu["narrow"])
    return said if survives is None else f"{said}; noise leaves {number(100 * survives, 2)} % of the shots"


def best_arm(best: Row) -> str:
    """Return the name of the best classical arm, with its kind if it is a control."""
    return f"{best['arm']} (control)" if best["control"] else str(best["arm"])


def too_easy(subtask: Row) -> str:
    """Return a remark if a control is as good as the best classical arm on these instances, else an empty text."""
    found = subtask["saturated_by"]
    if not found:
        return ""
    return f" As good as the best classical arm: {', '.join(found)}; these instances are too easy to tell arms apart."


def to_solution(row: Row) -> str:
    """Return the joules to solution, with the number of instances that no execution solved."""
    unsolved = f" ({row['unsolved']} not solved)" if row["unsolved"] else ""
    return f"{number(row['energy_to_solution_j'])}{unsolved}"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for the console; long cells wrap."""
    found = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for index, name in enumerate(header):
        found.add_column(Text(name), overflow="fold", no_wrap=index == 0)
    for row in rows:
        found.add_row(*map(Text, row))
    return found


def pipes(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def section_cells(section: Row) -> list[tuple[str, ...]]:
    """Return the cells of a section's table as text."""
    return [tuple(map(cell_text, row)) for row in section["rows"]]


def cell_text(value: str | float | None) -> str:
    """Return a value of a table as text, a float in four significant digits."""
    return number(value, 4) if value is None or isinstance(value, float) else str(value)


def plain(value: float, digits: int = 3) -> str:
    """Return a figure in few significant digits, with thousands separators."""
    if not 1000 <= abs(value) < 1e9:
        return number(value, digits)
    place = 10 ** (len(str(int(abs(value)))) - digits)
    return f"{round(value / place) * place:,}"

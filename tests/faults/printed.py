"""Tables that a test prints, and writes into a page of the documentation if WRITE_TABLES is set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


class Printed:
    """A table that grows row by row.

    Args:
        name: of the place in the page, between `<!-- printed: NAME -->` and `<!-- /printed -->`.
        header: names of the columns.
        page: in the folder docs.
    """

    def __init__(self, name: str, header: Sequence[str], page: str = "operations.md") -> None:
        self._name, self._page = name, DOCS / page
        self._rows = [list(header), ["---"] * len(header)]

    def add(self, *cells: object) -> None:
        """Add a row and print it."""
        self._rows.append([str(cell).replace("|", "/").replace("\n", " ") for cell in cells])
        print(f"\n{_line(self._rows[-1])}", flush=True)

    def close(self) -> None:
        """Print the whole table; if that is wanted, write its rows into its page, where other rows stay."""
        print("\n" + "\n".join(_line(row) for row in self._rows), flush=True)
        if not os.environ.get("WRITE_TABLES"):
            return
        page = self._page.read_text()
        begin, end = f"<!-- printed: {self._name} -->\n", "<!-- /printed -->"
        before, found, rest = page.partition(begin)
        assert found, f"{self._page} has no place for {self._name}"
        lines, _, after = rest.partition(end)
        header, rule, *rows = (_line(row) for row in self._rows)
        there = lines.splitlines() if lines.startswith(header) else [header, rule]
        merged = {_first(line): line for line in there} | {_first(line): line for line in rows}
        self._page.write_text(before + begin + "\n".join(merged.values()) + "\n" + end + after)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _first(line: str) -> str:
    """Return the first cell of a row, which names it."""
    return line.split("|")[1].strip()

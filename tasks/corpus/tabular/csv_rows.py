"""Rows of CSV and TSV: the dialect is found out, one bad row costs itself only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from tasks.corpus.formats.encodings import Decoder, Source
from tasks.corpus.tabular.columns import TEXT_COLUMNS
from tasks.corpus.tabular.json_records import Aside, Limits, Row, bounded_lines, unique_columns
from tasks.corpus.tabular.long_json import Stored

HEAD_LINES = 200  # from which the dialect is found out; more, if they end inside of a cell
HEAD_SIZE = 2**20  # characters of them, about
DELIMITERS = ",;\t|^\x01"  # the last is that of Hive
OPEN_QUOTES = 3  # quotation marks never closed from which they count as ordinary characters


@dataclass(frozen=True)
class Dialect:
    """How cells are separated and quoted.

    Attributes:
        delimiter: between cells.
        quote: around cells; empty = none.
        escape: before a quotation mark within quotation marks; empty = it is doubled.
        space: whether a space follows each delimiter.
    """

    delimiter: str
    quote: str = '"'
    escape: str = ""
    space: bool = False

    def options(self) -> dict[str, Any]:
        """Return the options of `csv.reader`."""
        if not self.quote:
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE}
        escape = {"escapechar": self.escape, "doublequote": False} if self.escape else {}
        return {"delimiter": self.delimiter, "quotechar": self.quote, "skipinitialspace": self.space, **escape}


def csv_rows(stream: Source, delimiter: str, limits: Limits, aside: Aside) -> Iterator[Row]:
    """Yield the rows of a table with a header as records of text; an empty or missing cell is None.

    Args:
        stream: the table.
        delimiter: between cells; empty = it is found out.
        limits: a longer line is put aside; the text column has to be in the header.
        aside: is called with the place, reason, detail and text of each row with more cells than the header, or too few
            for a text, and of lines before the header.
    """
    csv.field_size_limit(max(limits.longest, 2**17))
    lines = _Lines(stream, limits.longest, aside)
    head = _head(lines)
    lines.give_back(head)
    if head and head[0].lower().startswith("sep=") and len(head[0].strip()) == 5:  # a hint for a spreadsheet
        delimiter = head[0].strip()[4]
        next(lines)
        head = head[1:]
    names = (limits.text_column,) if limits.text_column else TEXT_COLUMNS
    dialect = _dialect(head, delimiter, names)
    header: list[str] = []
    before: list[str] = []
    first: list[str] = []
    number = text_at = 0
    for cells, text in _records(lines, dialect, aside):
        if not header:
            named = [cell.strip() for cell in cells]
            text_at = next((named.index(name) for name in names if name in named), -1)
            if text_at >= 0:
                header = unique_columns(named)
                for line in before:
                    aside("", "before the header", "", line)
            elif cells:
                before.append(text)
                first = first or named
                if len(before) >= HEAD_LINES:
                    break
            continue
        if not cells:
            continue
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if text_at < len(cells) <= len(header):
            values = {name: cell or None for name, cell in zip(header, cells, strict=False)}
            yield Row(number, values, lines.replaced)
        else:
            detail = f"{len(cells)} cells, not {len(header)} as in the header"
            aside(f":row {number + 1}", "other number of cells", detail, text)
        lines.replaced = 0
        number += 1
    if first and not header:
        columns = ", ".join(first)[:1000]
        aside("", "no text column", f"columns: {columns}; name one with --text-column", before[0])


def _head(lines: _Lines) -> list[str]:
    """Return the first lines; they end with a record, unless a cell is very long or a mark is never closed."""
    head = list(islice(lines, HEAD_LINES))
    while sum(line.count('"') for line in head) % 2 and sum(map(len, head)) < HEAD_SIZE:
        more = list(islice(lines, len(head)))
        head += more
        if not more:
            break
    return head


def _dialect(head: Sequence[str], delimiter: str, names: Sequence[str]) -> Dialect:
    """Return the dialect in which a header names the text and the most rows have its cells; of equal ones the usual."""
    options = [
        Dialect(one, quote, escape, space)
        for quote, escape, space in (
            ('"', "", False),
            ('"', "", True),
            ('"', "\\", False),
            ("", "", False),
            ("'", "", False),
        )
        for one in (delimiter or DELIMITERS)
        if quote != "'" or any(line.startswith("'") or f"{one}'" in line for line in head)
        if not escape or any('\\"' in line or f"\\{one}" in line for line in head)
    ]
    return max(options, key=lambda dialect: _fit(head, dialect, names))


def _fit(head: Sequence[str], dialect: Dialect, names: Sequence[str]) -> float:
    """Return the share of rows with the cells of the header, doubled if it has several; 0 without a header."""
    penalty = 0.0
    try:
        rows = [row for row in csv.reader(head, strict=True, **dialect.options()) if row]
    except csv.Error:
        rows, penalty = [row for row in csv.reader(head, **dialect.options()) if row], 0.25
    at = next((k for k, row in enumerate(rows) if any(cell.strip() in names for cell in row)), None)
    if at is None:
        return 0.0
    header, rest = rows[at], rows[at + 1 : -1 if len(head) >= HEAD_LINES else None]
    text_at = next(k for k, cell in enumerate(header) if cell.strip() in names)
    trimmed = ["\0".join(row).rstrip("\0 ").split("\0") if len(row) > len(header) else row for row in rest]
    fits = sum(text_at < len(row) <= len(header) for row in trimmed) / max(1, len(rest) + at)
    if len(rows) == at + 2 and not rest:  # one cell is longer than all that was looked at
        fits = 0.5
    cells = [cell for row in rest for cell in row]
    if not dialect.quote:  # whole cells in quotation marks
        penalty += 0.5 * sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells) / max(1, len(cells))
    elif any('\\"' in line for line in head):  # a mark that is escaped in another way shows at the ends of cells
        penalty += min(0.5, sum(cell.endswith('"') or '\\"' in cell for cell in cells) / max(1, 2 * len(rest)))
    return 1 + fits * min(len(header), 2) - penalty


def _records(lines: _Lines, dialect: Dialect, aside: Aside) -> Iterator[tuple[list[str], str]]:
    """Yield cells and text of each record; a quotation mark that is never closed costs its line only."""
    failures = 0
    reader = csv.reader(lines, strict=True, **dialect.options())
    while True:
        lines.begin()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            taken = lines.taken
            if len(taken) > 1 or "unexpected end" in str(error) or "field larger" in str(error):
                failures += 1
                if failures > OPEN_QUOTES:
                    dialect = Dialect(dialect.delimiter, "")
                    lines.give_back(taken)
                else:
                    aside("", "a quotation mark is never closed", taken[0][:200], taken[0])
                    lines.give_back(taken[1:])
            else:  # characters behind a closing mark: lenient about this record
                for cells in csv.reader(taken, **dialect.options()):
                    yield cells, "".join(taken).rstrip("\n")
            reader = csv.reader(lines, strict=True, **dialect.options())
            continue
        if cells is None:
            return
        yield cells, "".join(lines.taken).rstrip("\n")


class _Lines:
    """The decoded lines of a table; those of the present record can be given back."""

    def __init__(self, stream: Source, longest: int, aside: Aside) -> None:
        self._source = self._decoded(stream, longest, aside)
        self.taken: list[str] = []
        self.replaced = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._source)
        self.taken.append(line)
        return line

    def begin(self) -> None:
        """Begin a record."""
        self.taken = []

    def give_back(self, lines: Sequence[str]) -> None:
        """Put lines in front of those that follow."""
        self._source = chain(list(lines), self._source)

    def _decoded(self, stream: Source, longest: int, aside: Aside) -> Iterator[str]:
        decoder = Decoder()
        for number, line in enumerate(bounded_lines(stream, longest)):
            if isinstance(line, Stored):
                aside(f":{number + 1}", "line too long", f"{line.size} bytes; set curation.max_line_mb", "")
                line.close()
                continue
            text, count = decoder.decode(line)
            self.replaced += count
            yield text + "\n"

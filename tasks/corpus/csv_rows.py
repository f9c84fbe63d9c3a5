"""Rows of CSV and TSV: the dialect is found out, one bad row costs itself only."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from tasks.corpus.encodings import Decoder, Source
from tasks.corpus.long_json import Stored
from tasks.corpus.records import TEXT_COLUMNS, Aside, Limits, Row, bounded_lines, unique_columns

HEAD_LINES = 200  # from which the dialect is found out
DELIMITERS = ",;\t|"
MOST_ROWS = 0.8  # share of the rows that have as many cells as a header which is not the first line
OPEN_QUOTES = 3  # quotation marks never closed from which they count as ordinary characters


@dataclass(frozen=True)
class Dialect:
    """How cells are separated and quoted.

    Attributes:
        delimiter: between cells.
        quote: around cells; empty = none.
        escape: before a quotation mark within quotation marks; empty = it is doubled.
    """

    delimiter: str
    quote: str = '"'
    escape: str = ""

    def options(self) -> dict[str, Any]:
        """Return the options of `csv.reader`."""
        if not self.quote:
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE}
        escape = {"escapechar": self.escape, "doublequote": False} if self.escape else {}
        return {"delimiter": self.delimiter, "quotechar": self.quote, **escape}


def csv_rows(stream: Source, delimiter: str, limits: Limits, aside: Aside) -> Iterator[Row]:
    """Yield the rows of a table with a header as records of text; an empty or missing cell is None.

    Args:
        stream: the table.
        delimiter: between cells; empty = it is found out.
        limits: a longer line is put aside; the text column has to be in the header.
        aside: is called with the place, reason, detail and text of each row with more cells than the header, or too few
            for a text, and of lines before the header.
    """
    lines = _Lines(stream, limits.longest, aside)
    head = list(islice(lines, HEAD_LINES))
    lines.give_back(head)
    if head and head[0].lower().startswith("sep=") and len(head[0].strip()) == 5:  # a hint for a spreadsheet
        delimiter = head[0].strip()[4]
        next(lines)
        head = head[1:]
    dialect, width = _dialect(head, delimiter)
    csv.field_size_limit(max(limits.longest, 2**17))
    header: list[str] = []
    number = text_at = 0
    for cells, text in _records(lines, dialect, aside):
        if not header:
            if len(cells) == width:
                header = unique_columns([cell.strip() for cell in cells])
                wanted = [limits.text_column] if limits.text_column else TEXT_COLUMNS
                text_at = next((header.index(name) for name in wanted if name in header), -1)
                if text_at < 0:
                    columns = f"columns: {', '.join(header)[:1000]}; name one with --text-column"
                    aside("", "no text column", columns, text)
                    return
            elif cells:
                aside("", "before the header", f"{len(cells)} cells, not {width}", text)
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


def _dialect(head: Sequence[str], delimiter: str) -> tuple[Dialect, int]:
    """Return the dialect in which the most rows have the same number of cells, more than one, and that number."""
    options = [
        Dialect(one, quote, escape)
        for quote, escape in (('"', ""), ('"', "\\"), ("", ""), ("'", ""))
        for one in (delimiter or DELIMITERS)
        if quote != "'" or any(line.startswith("'") or f"{one}'" in line for line in head)
        if not escape or any('\\"' in line for line in head)
    ]
    best, found = 0.0, (Dialect(delimiter or ","), 1)
    for dialect in options:
        try:
            rows = [row for row in csv.reader(head, **dialect.options()) if row]
        except csv.Error:
            continue
        if len(head) == HEAD_LINES:
            rows = rows[:-1]  # may be cut off
        widths = Counter(map(len, rows))
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        share = count / max(1, len(rows))
        if width > 1 and share < MOST_ROWS and len(rows[0]) != width:  # separators within the texts of one column
            continue
        # A mark that is escaped in another way shows at the ends of cells.
        odd = sum(cell.endswith('"') or '\\"' in cell for row in rows for cell in row) if dialect.quote else 0
        score = share * min(width, 2) - odd / max(1, 10 * len(rows))
        if score > best:
            best, found = score, (dialect, width)
    return found


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
            open_quote = "unexpected end" in str(error) or "field larger" in str(error)
            if open_quote:
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

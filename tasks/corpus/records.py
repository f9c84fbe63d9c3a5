"""Records out of JSON lines, JSON documents and CSV, as batches of columns; one bad record costs itself only."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from tasks.corpus.encodings import Decoder, Joined, Source, as_utf8, mark_of
from tasks.corpus.schemas import fitted, infer, merged

BATCH = 256
CHUNK = 2**18
MAX_ASIDE = 1000  # bad records after which a file is given up
MAX_DOCUMENT = 2**29  # bytes of a JSON document that is no list of records
MAX_DETAIL = 200
_LONE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[\s,]*")
Aside = Callable[[str, str, str, str], None]


@dataclass(frozen=True)
class Row:
    """A record of a file.

    Attributes:
        number: its line or position in the file, from 0.
        values: its fields.
        replaced: characters that could not be decoded.
    """

    number: int
    values: dict[str, Any]
    replaced: int = 0


@dataclass
class Batcher:
    """Turns records into batches whose types only ever widen within a file."""

    kinds: dict[str, pa.DataType] = field(default_factory=dict)

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Return some records as columns."""
        names = dict.fromkeys(name for row in rows for name in row.values)
        columns = {name: infer([row.values.get(name) for row in rows]) for name in names}
        for name, column in columns.items():
            known = self.kinds.get(name)
            self.kinds[name] = column.type if known is None else merged(known, column.type)
        if not self.kinds:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
        table = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        return fitted(table, pa.schema(self.kinds))


def batches(rows: Iterator[Row]) -> Iterator[tuple[list[Row], pa.RecordBatch]]:
    """Yield records in batches, as they are and as columns."""
    batcher = Batcher()
    while some := list(islice(rows, BATCH)):
        yield some, batcher.batch(some)


def json_lines(stream: Source, longest: int, aside: Aside) -> Iterator[Row]:
    """Yield the records of JSON lines; lines end with LF, CR LF or CR.

    Args:
        stream: the lines, in UTF-8, UTF-16 or UTF-32 with a mark.
        longest: bytes of a line; longer ones are not held.
        aside: is called with the place, reason, detail and text of each line that is no record.
    """
    bad = 0
    for number, (line, whole) in enumerate(bounded_lines(stream, longest)):
        if bad >= MAX_ASIDE:
            aside("", "no JSON lines", f"{MAX_ASIDE} lines put aside; the rest is not read", "")
            return
        if not whole:
            aside(f":{number + 1}", "line too long", f"more than {longest} bytes; set curation.max_line_mb", "")
            bad += 1
        elif line.strip():
            found = _record(number, line)
            if isinstance(found, Row):
                yield found
            else:
                aside(f":{number + 1}", "not JSON", found, line.decode("utf-8", "replace"))
                bad += 1


def without_mark(head: bytes) -> bytes:
    """Return the first bytes of a file in UTF-8 and without a byte-order mark."""
    name, mark = mark_of(head)
    return head[mark:].decode(name, "replace").encode("utf-8", "replace") if name else head


def begins_with_lines(head: bytes) -> bool:
    """Return whether a file begins with a whole record on its first line and goes on with another line."""
    head = without_mark(head)
    first, rest = [*head.replace(b"\r", b"\n").lstrip().split(b"\n", 1), b""][:2]
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _record(number: int, line: bytes) -> Row | str:
    """Return the record of a line, or what is wrong with it."""
    text, replaced = Decoder("utf-8").decode(line) if b"\0" not in line else (line.decode("utf-8", "replace"), 0)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)[:MAX_DETAIL]
    if not isinstance(value, dict):
        return f"a {type(value).__name__}, not an object with fields"
    return Row(number, repaired(value) if _LONE.search(line) else value, replaced)


def repaired(value: Any) -> Any:
    """Return a value without halves of surrogate pairs, which are legal in JSON and nowhere else."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [repaired(item) for item in value]
    if isinstance(value, dict):
        return {repaired(name): repaired(item) for name, item in value.items()}
    return value


def bounded_lines(stream: Source, longest: int) -> Iterator[tuple[bytes, bool]]:
    """Yield each line and whether it is complete; of a line longer than `longest` bytes nothing is kept."""
    head = stream.read(4)
    source: Source = as_utf8(stream, head) or Joined(head.removeprefix(codecs.BOM_UTF8), stream)
    held, size, too_long, after_cr = [b""], 0, False, False
    while data := source.read(CHUNK):
        if after_cr and data[:1] == b"\n":
            data = data[1:]
        after_cr = data[-1:] == b"\r"
        parts = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for k, part in enumerate(parts):
            if k:
                yield (b"", False) if too_long else (b"".join(held), True)
                held, size, too_long = [], 0, False
            size += len(part)
            if size > longest:
                held, too_long = [], True
            else:
                held.append(part)
    if size:
        yield (b"", False) if too_long else (b"".join(held), True)


def json_document(stream: Source, longest: int, aside: Aside) -> Iterator[Row]:
    """Yield the records of a `.json` file: lines, one record, a list of records, or a table as pandas writes it.

    A list of records and records one after another are read piece by piece; other documents as a whole.
    """
    values = _values(stream, longest, aside)
    first = next(values, None)
    second = next(values, None)
    if first is None:
        return
    if second is None and isinstance(first, dict):
        table = _table(first)
        for number, record in enumerate([first] if table is None else table):
            yield Row(number, record)
        return
    for number, value in enumerate(chain([first], [] if second is None else [second], values)):
        if isinstance(value, dict):
            yield Row(number, value)
        else:
            aside(f"#{number}", "not JSON", f"a {type(value).__name__}, not an object with fields", repr(value)[:1000])


def _values(stream: Source, longest: int, aside: Aside) -> Iterator[Any]:
    """Yield the values of a JSON document: those of the outer list, or all that follow one another."""
    head = stream.read(4)
    source: Source = as_utf8(stream, head) or Joined(head.removeprefix(codecs.BOM_UTF8), stream)
    decode, decoder = codecs.getincrementaldecoder("utf-8")("replace"), json.JSONDecoder()
    text, at, in_list, ended, wanted = "", 0, False, False, CHUNK
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if not in_list and text[at : at + 1] == "[" and not at:
            in_list, at = True, at + 1
            continue
        if in_list and text[at : at + 1] == "]":
            return
        if at < len(text):
            try:
                value, end = decoder.raw_decode(text, at)
                if end < len(text) or ended:  # a number at the end could go on
                    yield repaired(value)
                    at, wanted = end, CHUNK
                    continue
            except (ValueError, RecursionError) as error:
                problem = str(error)[:MAX_DETAIL]
                if ended or len(text) - at > max(longest, MAX_DOCUMENT) or isinstance(error, RecursionError):
                    aside("", "not JSON", problem, text[at : at + 1000])
                    return
        elif ended:
            return
        data = source.read(wanted)
        ended = not data
        text, at, wanted = text[at:] + decode.decode(data, ended), 0, min(2 * wanted, 2**26)


def _table(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the records of an object that holds a table, or None if it is a record itself."""
    columns, rows = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        return [dict(zip(map(str, columns), row, strict=False)) for row in rows]  # pandas, orient="split"
    inner = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(item, dict) for item in v)]
    if len(inner) == 1 and not any(isinstance(v, str) and len(v) > 1000 for v in value.values()):
        names = {name for item in inner[0] for name in item}
        if {"text", "content", "body"} & names and not {"text", "content", "body"} & set(value):
            return [item for item in inner[0] if isinstance(item, dict)]  # {"data": [...]}
    parts = list(value.values())
    if parts and all(isinstance(v, dict) for v in parts) and len({tuple(v) for v in parts}) == 1:
        keys = list(parts[0])
        if all(k.isdigit() for k in keys):  # pandas, orient="columns"
            return [{name: column[key] for name, column in value.items()} for key in keys]
        return [{"index": name, **record} for name, record in value.items()]  # pandas, orient="index"
    if parts and all(isinstance(v, list) for v in parts) and len({len(v) for v in parts}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]  # datasets, to_dict
    return None


def csv_rows(stream: Source, delimiter: str, longest: int, aside: Aside) -> Iterator[Row]:
    """Yield the rows of a table with a header as records of text; an empty cell is missing.

    Args:
        stream: the table.
        delimiter: between cells; empty = the most frequent of `, ; tab |` in the header.
        longest: bytes of a line.
        aside: is called with the place, reason, detail and text of each row with another number of cells.
    """
    decoder, asides = Decoder(), 0
    replaced = [0]

    def lines() -> Iterator[str]:
        for line, whole in bounded_lines(stream, longest):
            text, count = decoder.decode(line) if whole else ("", 0)
            replaced[0] += count
            yield text + "\n"

    source = lines()
    head = next(source, "")
    chosen = delimiter or max(",;\t|", key=head.count)
    csv.field_size_limit(max(longest, 2**17))
    reader = csv.reader(chain([head], source), delimiter=chosen)
    header = unique_columns([cell.strip() for cell in next(reader, [])])
    try:
        for number, cells in enumerate(reader):
            if len(cells) == len(header):
                found, replaced[0] = replaced[0], 0
                yield Row(number, {name: cell or None for name, cell in zip(header, cells, strict=True)}, found)
            elif cells:
                detail = f"{len(cells)}, not {len(header)} as in the header"
                aside(f":row {number + 1}", "other number of cells", detail, chosen.join(cells))
                asides += 1
            if asides >= MAX_ASIDE:
                aside("", "no table", f"{MAX_ASIDE} rows put aside; the rest is not read", "")
                return
    except csv.Error as error:  # a quotation mark that is never closed
        aside(f":row {reader.line_num}", "no table", f"{error}; the rest is not read", "")


def unique_columns(names: Sequence[str]) -> list[str]:
    """Return column names that differ: the second of a name gets the ending ~2, and so on."""
    found: list[str] = []
    for name in names:
        other, k = name, 1
        while other in found:
            k += 1
            other = f"{name}~{k}"
        found.append(other)
    return found

"""Records out of JSON lines and JSON documents, as batches of columns; one bad record costs itself only."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any

import pyarrow as pa

from tasks.corpus.formats.encodings import Decoder, Joined, Source, as_utf8
from tasks.corpus.formats.kinds import JSON
from tasks.corpus.tabular.columns import TEXT_COLUMNS, find_value
from tasks.corpus.tabular.long_json import NotJson, Stored, copied, find_lists, long_text
from tasks.corpus.tabular.schemas import Columns, infer

BATCH = 256
CHUNK = 2**18
MAX_DOCUMENT = 2**29  # bytes of a JSON document that is neither records nor holds a list of them
MAX_DETAIL = 200
_LONE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[\s,\x00\x1e]*")
_NEXT = re.compile(r"\}\s*,?\s*(?=\{)")
_STRICT, _LENIENT = json.JSONDecoder(), json.JSONDecoder(strict=False)  # takes a tab as it is inside of a text
_FRAME = b"\0\x1e \t"  # what some writers put around a record: zeros of a crash, the separator of RFC 7464
Aside = Callable[[str, str, str, str], None]


@dataclass(frozen=True)
class Limits:
    """What is held of a file of records.

    Attributes:
        longest: bytes of a record or document that is held whole; longer ones are read from a temporary file.
        text_column: name of the text in long records; empty = one of `TEXT_COLUMNS`.
    """

    longest: int
    text_column: str = ""


@dataclass(frozen=True)
class Row:
    """A record of a file.

    Attributes:
        number: its line or position in the file, from 0.
        values: its fields.
        replaced: characters that could not be decoded.
        passage: number of the passage, where a long record was cut; None for a whole record.
    """

    number: int
    values: dict[str, Any]
    replaced: int = 0
    passage: int | None = None


def batches(rows: Iterator[Row]) -> Iterator[tuple[list[Row], pa.RecordBatch]]:
    """Yield records in batches, as they are and as columns, whose types only ever widen within a file."""
    columns = Columns()
    while some := list(islice(rows, BATCH)):
        names = dict.fromkeys(name for row in some for name in row.values)
        yield some, columns.fitted({name: infer([row.values.get(name) for row in some]) for name in names}, len(some))


def json_lines(stream: Source, limits: Limits, aside: Aside, first: int = 0) -> Iterator[Row]:
    """Yield the records of JSON lines; lines end with LF, CR LF or CR.

    Args:
        stream: the lines, in UTF-8, UTF-16 or UTF-32, or in a legacy encoding that is detected.
        limits: a longer line gives the passages of its text.
        aside: is called with the place, reason, detail and text of each line that is no record.
        first: number of the first line.
    """
    decoder = Decoder()
    for number, line in enumerate(bounded_lines(stream, limits.longest), first):
        if isinstance(line, Stored):
            yield from _passages(number, line, limits, aside, f":{number + 1}")
        elif line := line.strip(_FRAME):
            for found in _records(number, line, decoder):
                if isinstance(found, Row):
                    yield found
                else:
                    aside(f":{number + 1}", "not JSON", found, line[:65_536].decode("utf-8", "replace"))


def _passages(number: int, stored: Stored, limits: Limits, aside: Aside, place: str) -> Iterator[Row]:
    """Yield the passages of a long record; put it aside if it cannot be cut."""
    try:
        for passage, values in enumerate(long_text(stored, limits.text_column, TEXT_COLUMNS)):
            yield Row(number, values, 0, passage)
    except NotJson as error:
        size = f"{stored.size} bytes, and only its text can be cut"
        aside(place, "record too long", f"{size}: {error}; set curation.max_line_mb to hold it", "")
    finally:
        stored.close()


def in_utf8(head: bytes) -> bytes:
    """Return the first bytes of a file in UTF-8 and without a byte-order mark."""
    source = as_utf8(Joined(head[4:], Joined(b"", _Empty())), head[:4])
    return source.read() if source else head.removeprefix(codecs.BOM_UTF8)


class _Empty:
    def read(self, _: int = -1, /) -> bytes:
        return b""


def begins_with_lines(head: bytes) -> bool:
    """Return whether a file begins with a whole record on its first line and goes on with another line."""
    head = in_utf8(head)
    first, rest = [*head.replace(b"\r", b"\n").lstrip(_FRAME + b"\n").split(b"\n", 1), b""][:2]
    if not rest.strip():
        return False
    try:
        return isinstance(json.loads(first.decode("utf-8", "replace")), dict)
    except (ValueError, RecursionError):
        return False


def are_lines(kind: str, head: bytes) -> bool:
    """Return whether a file of JSON, by its kind and its first bytes, is read as lines rather than as a document."""
    return begins_with_lines(head) if kind == JSON else in_utf8(head).lstrip()[:1] != b"["


def are_cut(kind: str, head: bytes) -> bool:
    """Return whether a file of JSON can be cut between its lines: they are lines in UTF-8 or in a legacy encoding."""
    return are_lines(kind, head) and as_utf8(_Empty(), head[:4]) is None


def cut_lines(stream: IO[bytes], n_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Yield parts of JSON lines in UTF-8: first and last byte (exclusive), at least `n_bytes` apart, and first line.

    Lines are counted as `bounded_lines` counts them.
    """
    start = first = 0
    while True:
        size = lines = 0
        after_cr = False
        while data := stream.read(min(CHUNK, n_bytes - size)) if size < n_bytes else stream.readline(CHUNK):
            lines += data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") - (after_cr and data[:1] == b"\n")
            size, after_cr = size + len(data), data[-1:] == b"\r"
            if size >= n_bytes and data[-1:] == b"\n":
                break
        if not size:
            return
        yield start, start + size, first
        start, first = start + size, first + lines


def _records(number: int, line: bytes, decoder: Decoder) -> Iterator[Row | str]:
    """Yield the record of a line, or those that follow one another on it; and what is wrong with the rest, if so."""
    text, replaced = decoder.decode(line) if b"\0" not in line else (line.decode("utf-8", "replace"), 0)
    at = 0
    while (at := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            value, at = _LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield str(error)[:MAX_DETAIL]
            return
        if isinstance(value, str) and not text[at:].strip(" ,"):
            value = {TEXT_COLUMNS[0]: value}
        if not isinstance(value, dict):
            yield f"{kind_of(value)}, not an object with fields"
            return
        yield Row(number, repaired(value) if _LONE.search(line) else value, replaced)


def kind_of(value: Any) -> str:
    """Return what a value of JSON is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def repaired(value: Any) -> Any:
    """Return a value without halves of surrogate pairs, which are legal in JSON and nowhere else."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [repaired(item) for item in value]
    if isinstance(value, dict):
        return {repaired(name): repaired(item) for name, item in value.items()}
    return value


def bounded_lines(stream: Source, longest: int) -> Iterator[bytes | Stored]:
    """Yield each line, as bytes, or stored in a file if it is longer than `longest` bytes."""
    head = stream.read(4)
    source: Source = as_utf8(stream, head) or Joined(head.removeprefix(codecs.BOM_UTF8), stream)
    held, size, after_cr = [b""], 0, False
    stored: Stored | None = None
    while data := source.read(CHUNK):
        if after_cr and data[:1] == b"\n":
            data = data[1:]
        after_cr = data[-1:] == b"\r"
        parts = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for k, part in enumerate(parts):
            if k:
                yield stored or b"".join(held)
                held, size, stored = [], 0, None
            size += len(part)
            if stored is None and size > longest:
                stored = Stored()
                stored.write(b"".join(held))
                held = []
            if stored is not None:
                stored.write(part)
            else:
                held.append(part)
    if size:
        yield stored or b"".join(held)


def json_document(stream: Source, limits: Limits, aside: Aside) -> Iterator[Row]:
    """Yield the records of a `.json` file: lines, one record, a list of records, or a table as pandas writes it.

    A list of records and records one after another are read piece by piece; other documents as a whole, or from a
    temporary file if they are long.
    """
    values = _values(stream, limits, aside)
    first = next(values, None)
    second = next(values, None)
    if first is None:
        return
    if second is None and isinstance(first, Stored):
        yield from _long_document(first, limits, aside)
        return
    if second is None and isinstance(first, dict):
        table = _table(first, limits.text_column)
        for number, record in enumerate([first] if table is None else table):
            yield Row(number, record)
        return
    try:
        for number, value in enumerate(chain([first], [] if second is None else [second], values)):
            yield from _rows(number, value, (), limits, aside)
    except NotJson as error:
        aside("", "not JSON", f"{error}; the rest is not read", "")


def _rows(number: int, value: Any, columns: Sequence[str], limits: Limits, aside: Aside) -> Iterator[Row]:
    """Yield the record, or the passages of the long record, that an item of a list is."""
    if isinstance(value, Stored):
        yield from _passages(number, value, limits, aside, f"#{number}")
        return
    if isinstance(value, list) and columns:
        value = dict(zip(columns, value, strict=False))
    elif isinstance(value, str):
        value = {TEXT_COLUMNS[0]: value}
    if isinstance(value, dict):
        yield Row(number, value)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        yield from (Row(number, item) for item in value)
    else:
        aside(f"#{number}", "not JSON", f"{kind_of(value)}, not an object with fields", repr(value)[:1000])


def _long_document(stored: Stored, limits: Limits, aside: Aside) -> Iterator[Row]:
    """Yield the records of a long document: those of its lists, the passages of its text, or those of its table."""
    try:
        lists = find_lists(stored)
        if not lists:
            yield from _passages(0, stored, limits, aside, "")
            return
        number = 0
        for start, columns in lists:
            for value in _items(stored, start, limits):
                if not number and not isinstance(value, Stored | dict) and not (isinstance(value, list) and columns):
                    yield from _by_columns(stored, limits, aside)  # all of its columns are needed
                    return
                yield from _rows(number, value, columns, limits, aside)
                number += 1
    except NotJson as error:
        aside("", "not JSON", f"{error}; the rest is not read", "")
    finally:
        stored.close()


def _by_columns(stored: Stored, limits: Limits, aside: Aside) -> Iterator[Row]:
    if stored.size > MAX_DOCUMENT:
        aside("", "document too long", f"{stored.size} bytes of a table by columns; write it as JSON lines", "")
        return
    for number, record in enumerate(_table(repaired(stored.value(0, stored.size)), limits.text_column) or []):
        yield Row(number, record)


def _values(stream: Source, limits: Limits, aside: Aside) -> Iterator[Any]:
    """Yield the values of a JSON document: those of the outer list, or all that follow one another.

    A value longer than the limit is stored; it ends the document unless it is in a list.
    """
    head = stream.read(4)
    source: Source = as_utf8(stream, head) or Joined(head.removeprefix(codecs.BOM_UTF8), stream)
    decode = codecs.getincrementaldecoder("utf-8")("replace")
    text, at, in_list, ended, wanted, number = "", 0, False, False, CHUNK, 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if not in_list and not number and text[at : at + 1] == "[":
            in_list, at = True, at + 1
            continue
        if in_list and text[at : at + 1] == "]":
            if rest := text[at + 1 :].strip():
                aside("", "not JSON", "more behind the end of the list", rest[:1000])
            return
        if at < len(text):
            try:
                value, end = _value(text, at)
                if end < len(text) or ended:  # a number at the end could go on
                    yield repaired(value)
                    at, wanted, number = end, CHUNK, number + 1
                    continue
            except (ValueError, RecursionError) as error:
                if _is_bad(error, text, ended):
                    following = _NEXT.search(text, getattr(error, "pos", at))
                    behind = following.end() if following else len(text)
                    aside(f"#{number}", "not JSON", str(error)[:MAX_DETAIL], text[at : min(behind, at + 1000)])
                    if following is None and ended:
                        return
                    at, number = behind, number + 1
                    continue
        elif ended:
            return
        if len(text) - at > limits.longest and not ended:
            remainder = Joined(text[at:].encode("utf-8", "replace"), source)
            if in_list:
                with closing(copied(b"[", remainder)) as stored:
                    yield from _items(stored, 0, limits)
            else:
                yield copied(b"", remainder)
            return
        data = source.read(wanted)
        ended = not data
        text, at, wanted = text[at:] + decode.decode(data, ended), 0, min(2 * wanted, max(CHUNK, limits.longest))


def _items(stored: Stored, start: int, limits: Limits) -> Iterator[Any]:
    """Yield the items of a stored list; each that is longer than the limit is stored itself.

    Raises:
        NotJson: the list is no JSON from here on.
    """
    for begin, end in stored.items(start):
        if end - begin <= limits.longest:
            yield repaired(stored.value(begin, end))
            continue
        part = Stored()
        for at in range(begin, end, CHUNK):
            part.write(stored.between(at, min(at + CHUNK, end)))
        yield part


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return a value of JSON and where it ends; a line break or a tab inside of a text is taken as it is.

    Raises:
        json.JSONDecodeError: there is none, or not all of one.
    """
    try:
        return _STRICT.raw_decode(text, at)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Invalid control character"):
            raise
        try:
            return _LENIENT.raw_decode(text, at)
        except json.JSONDecodeError as other:
            if other.msg.startswith("Unterminated string"):
                raise
            raise error from None  # a mark is missing rather than a line break too many


def _is_bad(error: Exception, text: str, ended: bool) -> bool:
    """Return whether a value is no JSON, rather than incomplete so far."""
    if ended or not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated string") and error.pos < len(text) - 16


def _table(value: dict[str, Any], text: str) -> list[dict[str, Any]] | None:
    """Return the records of an object that holds a table, or None if it is a record itself.

    Args:
        value: the object.
        text: name or path of the text in a record; empty = one of `TEXT_COLUMNS`.
    """
    columns, rows = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        return [dict(zip(map(str, columns), row, strict=False)) for row in rows]  # pandas, orient="split"
    if (inner := _inner(value, text)) is not None:
        return inner  # {"data": [...]}
    parts = list(value.values())
    if parts and all(isinstance(v, dict) for v in parts) and len({tuple(v) for v in parts}) == 1:
        keys = list(parts[0])
        if all(k.isdigit() for k in keys):  # pandas, orient="columns"
            return [{name: column[key] for name, column in value.items()} for key in keys]
        return [{"index": name, **record} for name, record in value.items()]  # pandas, orient="index"
    if parts and all(isinstance(v, list) for v in parts) and len({len(v) for v in parts}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]  # datasets, to_dict
    return None


def _inner(value: dict[str, Any], text: str, depth: int = 3) -> list[dict[str, Any]] | None:
    """Return the records of all lists inside an object that has no text itself, down to some depth."""
    if find_value(value, text) is not ... or any(isinstance(v, str) and len(v) > 1000 for v in value.values()):
        return None
    found: list[dict[str, Any]] = []
    for part in value.values():
        if isinstance(part, list) and part and all(isinstance(item, dict) for item in part):
            if any(find_value(item, text) is not ... for item in part):
                found += part
            elif depth:
                nested = [_inner(item, text, depth - 1) for item in part]
                found += [record for item in nested for record in item or ()]
        elif depth and isinstance(part, dict):
            found += _inner(part, text, depth - 1) or []
    return found or None


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

"""JSON beyond what is held in memory: it is copied to a file, and read from there piece by piece.

A long record gives the passages of its text, each with its other fields; a long document gives the records of the
list inside it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from tasks.corpus.formats.encodings import Source
from tasks.corpus.passages import passages

CHUNK = 2**20
SHORT = 2**20  # bytes of a field that is no text
WHOLE = 32_768  # bytes up to which a text is one passage
_QUOTES, _NESTED = re.compile(rb'["\\]'), re.compile(rb'["{}\[\]]')
_AFTER = re.compile(rb"[,\]}\s]")
_NO_SPACE = re.compile(rb"[^\s]")
_LONE_HIGH = re.compile(r"\\u[dD][89aAbB][0-9a-fA-F]{2}\Z")
QUOTE, BACKSLASH, COMMA, COLON = b'"\\,:'
OPEN, CLOSE = b"{[", b"}]"


class NotJson(ValueError):
    """What was copied is not JSON, or ends too early."""


@dataclass(frozen=True)
class Field:
    """A field of an object: its name, and where its value is in the file."""

    name: str
    start: int
    end: int
    first: int


class Stored:
    """JSON in UTF-8 in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self.size = 0
        self._buffer, self._base, self._at = b"", 0, 0

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += self._file.write(data)

    def between(self, start: int, end: int) -> bytes:
        """Return some bytes."""
        self._file.seek(start)
        return self._file.read(end - start)

    def value(self, start: int, end: int) -> Any:
        """Return a value.

        Raises:
            NotJson: there is none.
        """
        try:
            return json.loads(self.between(start, end).decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise NotJson(str(error)[:200]) from None

    def fields(self, start: int = 0) -> Iterator[Field]:
        """Yield the fields of the object that begins at a place.

        Raises:
            NotJson: it is no object, or ends too early.
        """
        if self._go(start) != OPEN[0]:
            raise NotJson("not an object with fields")
        byte = self._find(_NO_SPACE)
        while byte != CLOSE[0]:
            if byte != QUOTE:
                raise NotJson("a field without a name")
            begin = self._at - 1
            self._skip(QUOTE)
            name, end = "", self._at
            if end - begin <= SHORT:
                name = str(self.value(begin, end))
            if self._go(end) != COLON:
                raise NotJson("a field without a value")
            first = self._find(_NO_SPACE)
            begin = self._at - 1
            self._skip(first)
            end = self._at
            yield Field(name, begin, end, first)
            byte = self._go(end)
            if byte == COMMA:
                byte = self._find(_NO_SPACE)

    def items(self, start: int) -> Iterator[tuple[int, int]]:
        """Yield where the items of a list begin and end.

        Raises:
            NotJson: it is no list, or ends too early.
        """
        if self._go(start) != OPEN[1]:
            raise NotJson("not a list")
        byte = self._find(_NO_SPACE)
        while byte != CLOSE[1]:
            begin = self._at - 1
            self._skip(byte)
            end = self._at
            yield begin, end
            byte = self._go(end)
            if byte == COMMA:
                byte = self._find(_NO_SPACE)

    def first_of_list(self, start: int) -> int:
        """Return the first byte of the first item of a list, or its closing bracket."""
        self._go(start)
        return self._find(_NO_SPACE)

    def _go(self, at: int) -> int:
        """Return the first byte that is no white space from a place on."""
        if not self._base <= at <= self._base + len(self._buffer):
            self._base, self._buffer = at, b""
        self._at = at
        return self._find(_NO_SPACE)

    def _find(self, marks: re.Pattern[bytes]) -> int:
        """Return the next byte of some, and go behind it."""
        while True:
            if found := marks.search(self._buffer, max(0, self._at - self._base)):
                self._at = self._base + found.start() + 1
                return self._buffer[found.start()]
            self._base += len(self._buffer)
            self._at = max(self._at, self._base)
            self._buffer = self.between(self._base, min(self._base + CHUNK, self.size))
            if not self._buffer:
                raise NotJson("it ends too early")

    def _skip(self, first: int) -> None:
        """Go behind the value that begins with a byte, which was read."""
        if first == QUOTE:
            while self._find(_QUOTES) == BACKSLASH:
                self._at += 1
        elif first in OPEN:
            depth = 1
            while depth:
                byte = self._find(_NESTED)
                if byte == QUOTE:
                    self._skip(QUOTE)
                else:
                    depth += 1 if byte in OPEN else -1
        else:
            self._find(_AFTER)
            self._at -= 1


class _Text:
    """The text of a JSON string in a file, as UTF-8."""

    def __init__(self, stored: Stored, start: int, end: int) -> None:
        self._stored, self._at, self._end = stored, start + 1, end - 1
        self._decoder, self._rest, self._ready = codecs.getincrementaldecoder("utf-8")("replace"), "", b""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes, all without a size; none at the end."""
        parts, held = [self._ready], len(self._ready)
        while (size < 0 or held < size) and (self._at < self._end or self._rest):
            stop = min(self._at + CHUNK, self._end)
            self._rest += self._decoder.decode(self._stored.between(self._at, stop), stop == self._end)
            self._at = stop
            cut = len(self._rest) if stop == self._end else _before_escape(self._rest)
            value = json.loads(f'"{self._rest[:cut]}"', strict=False)
            self._rest = self._rest[cut:]
            parts.append(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode())
            held += len(parts[-1])
        whole = b"".join(parts)
        at = len(whole) if size < 0 else size
        self._ready = whole[at:]
        return whole[:at]


def _before_escape(text: str) -> int:
    """Return where to cut a text so that no escape, nor a pair of them, is cut."""
    at = text.find("\\", max(0, len(text) - 12))
    while at >= 0 and (at - len(text[:at].rstrip("\\"))) % 2:  # behind another backslash
        at = text.find("\\", at + 1)
    if at < 0:
        return len(text)
    return at - 6 if _LONE_HIGH.search(text, 0, at) else at


def long_text(stored: Stored, text: str, usual: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the passages of the text of a record, each as a record with its other fields.

    Args:
        stored: the record.
        text: name of the text; empty = the first of the usual ones.
        usual: the usual names.

    Raises:
        NotJson: it is no object, its text is no string, or another field is too long.
    """
    fields = list(stored.fields())
    names = {field.name for field in fields}
    wanted = text or next((name for name in usual if name in names), "")
    own = next((field for field in fields if field.name == wanted and field.first == QUOTE), None)
    if own is None:
        raise NotJson(f"no text in {wanted or ', '.join(usual)}")
    others: dict[str, Any] = {}
    for field in fields:
        if field is not own:
            if field.end - field.start > SHORT:
                raise NotJson(f"{field.name} has {field.end - field.start} bytes and is not the text")
            others[field.name] = stored.value(field.start, field.end)
    for part in passages(_Text(stored, own.start, own.end), WHOLE):
        yield {own.name: part.decode("utf-8", "replace"), **others}


def find_lists(stored: Stored, start: int = 0) -> list[tuple[int, list[str]]]:
    """Return where the lists of records in an object begin, and the column names of a table.

    They are the list with the most bytes, at any depth, and the lists of objects beside it. Names are those of a table
    as pandas writes it (`columns`), which is alone; empty where the items are records.
    """
    fields = list(stored.fields(start))
    largest = max(fields, key=lambda field: field.end - field.start, default=None)
    if largest is None or largest.first not in OPEN:
        return []
    if largest.first == OPEN[0]:
        return find_lists(stored, largest.start)
    columns = next((field for field in fields if field.name == "columns" and field.first == OPEN[1]), None)
    names = stored.value(columns.start, columns.end) if columns and columns.end - columns.start <= SHORT else []
    if named := [str(name) for name in names if isinstance(name, str | int)]:
        return [(largest.start, named)]
    lists = [field for field in fields if field.first == OPEN[1]]
    return [(field.start, []) for field in lists if field is largest or stored.first_of_list(field.start) == OPEN[0]]


def copied(head: bytes, source: Source) -> Stored:
    """Return a stream as a stored file."""
    stored = Stored()
    stored.write(head)
    while data := source.read(CHUNK):
        stored.write(data)
    return stored

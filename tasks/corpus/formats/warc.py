"""Records of WARC archives; a damaged record costs itself only.

A record begins with a line `WARC/1.1`, has a header with its length, and ends with line ends before the next record.
Where that does not hold, reading goes on at the next such line; in a packed archive with a damaged member, at the next
member that can be unpacked.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self

from tasks.corpus.formats.kinds import DAMAGE

CHUNK = 2**16
MAX_HEADER = 2**18
GAP = 16  # bytes behind a record within which the next one begins
_BEGIN = re.compile(rb"(?:\A|(?<=\n))WARC/\d\.\d+\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"^Content-Length:[ \t]*(\d{1,15})[ \t]*\r?$", re.I | re.M)
_ADDRESS = re.compile(rb"^WARC-Target-URI:[ \t]*<?(\S+?)>?[ \t]*\r?$", re.I | re.M)
_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")


class Bytes(Protocol):
    """A stream of bytes; one that can go on behind damage gives what comes there after it has raised."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end; raise where the stream is damaged."""
        ...


@dataclass(frozen=True)
class Record:
    """A record, or what is known of a damaged one.

    Attributes:
        data: header and content, cut off one byte behind the longest content; empty if the record is damaged.
        problem: what is wrong with it; empty if it is whole.
        address: of the page, if the header gives one.
    """

    data: bytes
    problem: str = ""
    address: str = ""


def records(stream: Bytes, longest: int) -> Iterator[Record]:
    """Yield the records of an unpacked archive.

    Args:
        stream: the archive.
        longest: bytes of content to hold; the rest of a longer record is skipped.
    """
    source = _Source(stream)
    while True:
        skipped = source.skip()
        if source.damage:
            yield Record(b"", source.leave_damage())
        elif skipped:
            yield Record(b"", f"{skipped} bytes where a record should begin")
        elif not source.held:
            return
        else:
            yield _next(source, longest)


def _next(source: _Source, longest: int) -> Record:
    """Return the record at which a source is, and leave the source behind it."""
    while not (end := _HEADER_END.search(source.held)) and len(source.held) < MAX_HEADER and source.more():
        pass
    head = source.held[: end.start()] if end else source.held[:MAX_HEADER]
    found, length = _ADDRESS.search(head), _LENGTH.search(head)
    address = found[1].decode("utf-8", "replace") if found else ""
    if end is None or length is None:
        problem = "no Content-Length" if end else "a header without an end"
        return Record(b"", source.leave_damage() or source.resume(5, problem), address)
    size = int(length[1])
    wanted = end.end() + min(size, longest + 1)
    while len(source.held) < wanted + GAP and source.more():
        pass
    data, gap = source.held[:wanted], source.held[wanted : wanted + GAP]
    if len(data) < wanted:
        problem = "the file ends within a record"
        return Record(b"", source.leave_damage() or source.resume(end.end(), problem), address)
    if size <= longest and not _ends(data[end.end() :], gap):
        return Record(b"", source.resume(end.end(), f"its length is not {size} bytes"), address)
    source.resume(wanted)
    return Record(data, "", address)


def _ends(content: bytes, gap: bytes) -> bool:
    """Return whether a record ends where its length says: the next one follows, or a line end and what is no record."""
    if gap.lstrip(b"\r\n").startswith(b"WARC/"):
        return True
    return (not gap or gap[:1] in b"\r\n") and _BEGIN.search(content) is None


class _Source:
    """A stream, and what was read of it and not used yet."""

    def __init__(self, stream: Bytes) -> None:
        self._stream, self._ended, self._again = stream, False, False
        self.held, self.damage = b"", ""

    def more(self) -> bool:
        """Read a part; return whether there was one before the end or the next damage."""
        if self._ended or self.damage:
            return False
        try:
            data = self._stream.read(CHUNK)
        except DAMAGE as error:
            self.damage, self._ended = f"damaged: {error}", self._again
            self._again = True
            return False
        self.held, self._ended, self._again = self.held + data, not data, False
        return bool(data)

    def leave_damage(self) -> str:
        """Return the damage that was met, empty if none was; what is held before it goes."""
        damage, self.damage = self.damage, ""
        if damage:
            self.held = b""
        return damage

    def resume(self, at: int, problem: str = "") -> str:
        """Leave what is held before a place; return the problem."""
        self.held = self.held[at:]
        if problem:
            self.skip()
        return problem

    def skip(self) -> int:
        """Go on to where a record begins, or to the end; return how many bytes that are no white space were skipped."""
        skipped = 0
        while True:
            found = _BEGIN.search(self.held)
            at = found.start() if found else max(0, len(self.held) - GAP)
            skipped += len(self.held[:at].strip())
            self.held = self.held[at:]
            if found:
                return skipped
            if not self.more():
                skipped, self.held = skipped + len(self.held.strip()), b""
                return skipped


class Members:
    """The unpacked members of a gzip file; behind a damaged one it goes on with the next that can be unpacked."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._packed, self._member = b"", zlib.decompressobj(31)
        self._begun = self._searching = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int, /) -> bytes:
        """Return about so many bytes at most, none at the end.

        Raises:
            OSError: a member is damaged, or the file ends within one; the next call goes on behind it.
        """
        while True:
            if self._searching and not self._found():
                return b""
            if not self._packed:
                self._packed = self._file.read(CHUNK)
                if not self._packed:
                    if self._begun:
                        self._begun, self._searching = False, True
                        raise OSError("the file ends within a member")
                    return b""
            if not self._begun and not self._packed.strip(b"\0"):  # padding
                self._packed = b""
                continue
            try:
                self._begun = True
                data = self._member.decompress(self._packed, size)
            except zlib.error as error:
                self._begun, self._searching, self._member = False, True, zlib.decompressobj(31)
                self._packed = self._packed[1:]
                raise OSError(str(error)) from None
            self._packed = self._member.unconsumed_tail
            if self._member.eof:
                self._packed = self._member.unused_data
                self._begun, self._member = False, zlib.decompressobj(31)
            if data:
                return data

    def _found(self) -> bool:
        """Go on to where a member may begin; return whether there is one."""
        while True:
            if begin := _MEMBER.search(self._packed):
                self._packed, self._searching = self._packed[begin.start() :], False
                self._member = zlib.decompressobj(31)
                return True
            more = self._file.read(CHUNK)
            self._packed = self._packed[-3:] + more
            if not more:
                self._packed = b""
                self._searching = False
                return False

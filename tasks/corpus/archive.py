"""A folder of fetched pages: WARC files and `urls.csv`, the table that says of every address what became of it.

A WARC file is written under a name that ends in `.open` and gets its own name when it is finished, one gzip member for
each record; what a killed crawl left open is cut after its last whole record. Format: WARC 1.1 (ISO 28500:2017).
"""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

OPEN = ".open"
TABLE = "urls.csv"
FILE_BYTES = 2**30  # after which the next file is begun, as is usual for WARC
CHUNK = 2**20
FETCHED, READ = "fetched", "read"
AGAIN = frozenset({"limit", "timeout", "unreachable", "busy", "server error", "robots unreachable"})
SECRET = frozenset({"set-cookie", "set-cookie2", "cookie", "authorization", "proxy-authorization"})


@dataclass(frozen=True)
class Exchange:
    """One page as it was asked for and answered.

    Attributes:
        url: where it lies.
        via: the address that led there, empty where it is the same.
        asked: headers of the request.
        status: code and phrase, such as `200 OK`.
        answered: headers of the answer.
        body: as it came, still compressed where `answered` says so.
        peer: IP address of the server, or empty.
        seconds: from the request to the head of the answer.
    """

    url: str
    via: str
    asked: list[tuple[str, str]]
    status: str
    answered: list[tuple[str, str]]
    body: bytes
    peer: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """What became of one address.

    Attributes:
        url: as it was given.
        kind: `page` or `sitemap`.
        outcome: `fetched`, `read` (a sitemap), or why it was passed over; those in `AGAIN` are tried again.
        status: HTTP status, 0 where there was no answer.
        final: where it led, if it is elsewhere.
        bytes: of the body, as it came.
        seconds: from the request to the head of the answer.
        file: the WARC file that holds it.
        date: when, UTC.
        detail: more about the reason.
    """

    url: str
    kind: str
    outcome: str
    status: int = 0
    final: str = ""
    bytes: int = 0
    seconds: float = 0.0
    file: str = ""
    date: str = ""
    detail: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


class Archive:
    """Adds pages to the WARC files of a folder.

    Args:
        folder: where the files lie.
        info: what the `warcinfo` record at the head of each file says.
        file_bytes: size after which the next file is begun.
    """

    def __init__(self, folder: Path, info: Mapping[str, str], file_bytes: int = FILE_BYTES) -> None:
        self._folder, self._info, self._limit = folder, info, file_bytes
        self._stream: IO[bytes] | None = None
        self._path = folder

    def add(self, page: Exchange) -> str:
        """Write response, request and metadata of a page; return the name that the file gets when it is finished.

        Raises:
            OSError: the disk is full or the folder is not writable.
        """
        if self._stream is None or self._stream.tell() >= self._limit:
            self.close()
            self._begin()
        writer = WARCWriter(self._stream, gzip=True, warc_version="1.1")
        parts = urlsplit(page.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        extra = {"WARC-IP-Address": page.peer} if page.peer else {}
        answer = StatusAndHeaders(page.status, _public(page.answered), protocol="HTTP/1.1")
        question = StatusAndHeaders(f"GET {path} HTTP/1.1", [("Host", parts.netloc), *_public(page.asked)])
        response = writer.create_warc_record(
            page.url,
            "response",
            payload=io.BytesIO(page.body),
            length=len(page.body),
            http_headers=answer,
            warc_headers_dict=extra,
        )
        request = writer.create_warc_record(page.url, "request", http_headers=question)
        writer.write_request_response_pair(request, response)
        about = f"fetchTimeMs: {1000 * page.seconds:.0f}\r\n" + (f"via: {page.via}\r\n" if page.via else "")
        concurrent = {"WARC-Concurrent-To": response.rec_headers.get_header("WARC-Record-ID")}
        payload = about.encode()
        writer.write_record(
            writer.create_warc_record(
                page.url, "metadata", payload=io.BytesIO(payload), length=len(payload), warc_headers_dict=concurrent
            )
        )
        return self._path.name

    def close(self) -> None:
        """Finish the file that is open, if there is one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            _open(self._path).rename(self._path)

    def _begin(self) -> None:
        taken = {int(p.name[9:14]) for p in self._folder.glob("ketcycle-[0-9][0-9][0-9][0-9][0-9].warc.gz*")}
        self._path = self._folder / f"ketcycle-{max(taken, default=-1) + 1:05d}.warc.gz"
        self._stream = _open(self._path).open("xb")
        writer = WARCWriter(self._stream, gzip=True, warc_version="1.1")
        writer.write_record(writer.create_warcinfo_record(self._path.name, dict(self._info)))


def finish_open_files(folder: Path) -> None:
    """Cut what a killed crawl left open after its last whole record and give it its name."""
    for path in sorted(folder.glob(f"*.warc.gz{OPEN}")):
        end = _whole_members(path)
        with path.open("rb+") as stream:
            stream.truncate(end)
        if end:
            path.rename(path.with_name(path.name.removesuffix(OPEN)))
        else:
            path.unlink()


def archived(folder: Path) -> dict[str, str]:
    """Return the address of each page and the finished file it is in; of a damaged file those before the damage."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.warc.gz")):
        with path.open("rb") as stream:
            try:
                for record in ArchiveIterator(stream, no_record_parse=True):
                    if record.rec_type == "response":
                        found[record.rec_headers.get_header("WARC-Target-URI")] = path.name
            except (ArchiveLoadFailed, EOFError, zlib.error):
                continue
    return found


class Table:
    """Adds rows to `urls.csv`, each of them whole on the disk before the next."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / TABLE).open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._stream, COLUMNS)
        if self._stream.tell() == 0:
            self._writer.writeheader()

    def add(self, row: Row) -> None:
        """Write a row, with the time where it has none."""
        values = asdict(row)
        values["date"] = row.date or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self._writer.writerow({k: " ".join(v.split()) if isinstance(v, str) else v for k, v in values.items()})
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_table(folder: Path) -> Iterator[Row]:
    """Yield what is known of each address, the newest row of each; a half line at the end is left out."""
    last: dict[tuple[str, str, bool], Row] = {}
    path = folder / TABLE
    whole = path.read_bytes() if path.exists() else b""
    text = whole[: whole.rfind(b"\n") + 1].decode("utf-8", "replace")
    for found in csv.DictReader(io.StringIO(text)):
        try:
            numbers = {"status": int(found["status"]), "bytes": int(found["bytes"]), "seconds": float(found["seconds"])}
            row = Row(**{**found, **numbers})  # type: ignore[arg-type]
        except (TypeError, ValueError, KeyError):  # not a row of ours
            continue
        last[row.kind, row.url, row.outcome == "duplicate"] = row
    yield from last.values()


def summary(folder: Path) -> dict[str, Any]:
    """Return what a folder holds: pages, what was passed over and why, bytes and seconds of each host."""
    rows = list(read_table(folder))
    pages = [row for row in rows if row.outcome == FETCHED]
    skipped = Counter(row.outcome for row in rows if row.outcome not in (FETCHED, READ))
    hosts: dict[str, dict[str, Any]] = {}
    for row in pages:
        host = hosts.setdefault(urlsplit(row.final or row.url).netloc, {"pages": 0, "bytes": 0, "seconds": 0.0})
        host["pages"] += 1
        host["bytes"] += row.bytes
        host["seconds"] = round(host["seconds"] + row.seconds, 3)
    return {
        "folder": str(folder),
        "fetched": len(pages),
        "skipped": dict(skipped.most_common()),
        "again": sum(n for outcome, n in skipped.items() if outcome in AGAIN),
        "sitemaps": sum(row.outcome == READ for row in rows),
        "bytes": sum(row.bytes for row in pages),
        "hosts": dict(sorted(hosts.items())),
        "files": [path.name for path in sorted(folder.glob("*.warc.gz"))],
        "table": str(folder / TABLE),
    }


def _open(path: Path) -> Path:
    return path.with_name(path.name + OPEN)


def _public(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out what may be secret, and the coding of the transfer, which the body no longer has."""
    return [(name, value) for name, value in headers if name.lower() not in SECRET | {"transfer-encoding"}]


def _whole_members(path: Path) -> int:
    """Return where the last whole gzip member of a file ends."""
    end = position = 0
    with path.open("rb") as stream:
        member = zlib.decompressobj(31)
        while data := stream.read(CHUNK):
            while data:
                try:
                    member.decompress(data)
                except zlib.error:
                    return end
                position += len(data) - len(member.unused_data)
                data = member.unused_data
                if member.eof:
                    end, member = position, zlib.decompressobj(31)
    return end

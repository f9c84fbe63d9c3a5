"""A folder of fetched pages: WARC files and `urls.csv`, a table with the outcome of every address.

A WARC file is written under a name that ends in `.open` and gets its own name when it is finished, one gzip member for
each record; a file left open by a killed crawl is truncated after its last complete record. WARC 1.1
(ISO 28500:2017).
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
    """One page: the request and the response.

    Attributes:
        url: the address of the response.
        via: the address that redirected to `url`; empty without a redirect.
        asked: request headers.
        status: code and phrase, such as `200 OK`.
        answered: response headers.
        body: the payload as received, still compressed if `answered` has a Content-Encoding.
        peer: IP address of the server, or empty.
        seconds: from the request to the response headers.
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
    """The outcome of one address.

    Attributes:
        url: as it was given.
        kind: `page` or `sitemap`.
        outcome: `fetched`, `read` (a sitemap), or why it was skipped; outcomes in `AGAIN` are retried by the next run.
        status: HTTP status, 0 without a response.
        final: address after redirects, empty without one.
        bytes: size of the payload as received.
        seconds: from the request to the response headers.
        file: the WARC file that holds it.
        date: time of the row, UTC.
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
    """Appends pages to the WARC files of a folder.

    Args:
        folder: the folder of the files.
        info: fields of the `warcinfo` record at the start of each file.
        file_bytes: size after which a new file is started.
    """

    def __init__(self, folder: Path, info: Mapping[str, str], file_bytes: int = FILE_BYTES) -> None:
        self._folder, self._info, self._limit = folder, info, file_bytes
        self._stream: IO[bytes] | None = None
        self._path = folder

    def add(self, page: Exchange) -> str:
        """Write response, request and metadata of a page; return the final name of the file.

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
        """Close the open file, if any, and give it its final name."""
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
    """Truncate files left open by a killed crawl after their last complete record, and give them their final names."""
    for path in sorted(folder.glob(f"*.warc.gz{OPEN}")):
        end = _whole_members(path)
        with path.open("rb+") as stream:
            stream.truncate(end)
        if end:
            path.rename(path.with_name(path.name.removesuffix(OPEN)))
        else:
            path.unlink()


def archived(folder: Path) -> dict[str, str]:
    """Return the address of each archived page and its file; of a damaged file only pages before the damage."""
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
    """Appends rows to `urls.csv` and flushes after each."""

    def __init__(self, folder: Path) -> None:
        self._stream = (folder / TABLE).open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._stream, COLUMNS)
        if self._stream.tell() == 0:
            self._writer.writeheader()

    def add(self, row: Row) -> None:
        """Write a row; a missing date becomes the current time."""
        values = asdict(row)
        values["date"] = row.date or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self._writer.writerow({k: " ".join(v.split()) if isinstance(v, str) else v for k, v in values.items()})
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_table(folder: Path) -> Iterator[Row]:
    """Yield the newest row of each address; an incomplete last line is ignored."""
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
    """Return the contents of a folder: pages, skipped addresses by outcome, bytes and seconds of each host."""
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
    """Drop headers that may hold secrets, and Transfer-Encoding, which the stored body no longer has."""
    return [(name, value) for name, value in headers if name.lower() not in SECRET | {"transfer-encoding"}]


def _whole_members(path: Path) -> int:
    """Return the offset at which the last complete gzip member of a file ends."""
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

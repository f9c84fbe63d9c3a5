"""Text out of web pages: HTML files and WARC archives.

Boilerplate (menus, footers, scripts) is left out by the rules of Resiliparse (Bevendorff et al., ECIR 2018); archives
are read by warcio, one record in memory at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord

MAX_PAGE = 16 * 2**20
HTML = ("text/html", "application/xhtml+xml")
PLAIN = ("text/plain",)
PACKED = ("zstd", "compress", "x-compress", "x-gzip", "dcb", "dcz")  # codings that warcio does not unpack


@dataclass(frozen=True)
class Page:
    """A page of an archive.

    Attributes:
        address: its URL.
        text: its text, empty where there is none.
        problem: why it has no text: (reason, detail), or None.
    """

    address: str
    text: str
    problem: tuple[str, str] | None = None


def html_text(data: bytes) -> str:
    """Return the main text of a page, in whatever encoding it is."""
    return str(extract_plain_text(_decoded(data), main_content=True, preserve_formatting=True))


def warc_pages(stream: IO[bytes]) -> Iterator[Page]:
    """Yield the pages of an unpacked archive; answers that are no page are passed over.

    Raises:
        OSError: the archive is damaged from here on; the pages before came.
    """
    patient, cut_off = _UntilDamage(stream), False
    try:
        for record in ArchiveIterator(patient):
            page = _page(record) if record.rec_type in ("response", "resource", "conversion") else None
            cut_off = record.raw_stream.limit > 0 and not record.raw_stream.read(1)
            if page is not None and not cut_off:
                yield page
    except (ArchiveLoadFailed, AttributeError) as error:  # the second where a record has no address
        if patient.error is None:
            raise OSError(f"no WARC record where one should begin ({error})") from error
    if patient.error is not None:
        raise OSError(f"damaged: {patient.error}") from patient.error
    if cut_off:
        raise OSError("the file ends within a record")


def _page(record: ArcWarcRecord) -> Page | None:
    """Return the page of a record, or None where it holds none."""
    headers = record.http_headers
    if headers is not None and headers.get_statuscode() != "200":
        return None
    kind = ((headers or record.rec_headers).get_header("Content-Type") or "").partition(";")[0].strip().lower()
    if kind not in HTML + PLAIN:
        return None
    packed = (headers.get_header("Content-Encoding") or "").strip().lower() if headers is not None else ""
    address = record.rec_headers.get_header("WARC-Target-URI") or record.rec_headers.get_header("WARC-Record-ID")
    if packed in PACKED:
        return Page(address, "", ("cannot be unpacked", f"Content-Encoding: {packed}"))
    body = record.content_stream().read(MAX_PAGE + 1)
    if len(body) > MAX_PAGE:
        return Page(address, "", ("page too long", f"more than {MAX_PAGE} bytes"))
    return Page(address, html_text(body) if kind in HTML else _decoded(body))


class _UntilDamage:
    """Ends a stream where it is damaged and keeps the error, so that what was read before it is not lost."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        """Return at most so many bytes, none at the end or from the damage on."""
        try:
            return b"" if self.error is not None else self._stream.read1(size)  # type: ignore[attr-defined]
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            self.error = error
            return b""


def _decoded(data: bytes) -> str:
    return str(bytes_to_str(data, detect_encoding(data) or "utf-8"))

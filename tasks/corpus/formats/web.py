"""Text out of web pages: HTML files and WARC archives.

Boilerplate (menus, footers, scripts) is left out by the rules of Resiliparse (Bevendorff et al., ECIR 2018); archives
are read one record in memory at a time, and their headers by warcio. Codings of the payload are undone here, so that a
page with a coding that is broken or unknown is put aside alone.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import brotli
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from warcio.bufferedreaders import ChunkedDataReader
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader

from tasks.corpus.formats.encodings import decode, decode_page, is_binary
from tasks.corpus.formats.warc import MAX_HEADER, Bytes, records

MAX_PAGE = 16 * 2**20
HTML = ("text/html", "application/xhtml+xml")
PLAIN = ("text/plain",)
PACKED = ("compress", "x-compress", "dcb", "dcz")  # codings that are not unpacked
HEAD = 4096
BINARY = ("binary", "zero or control bytes; it is no text")
MOST_LINKED = 0.5  # share of a list's text in links from which it is a menu
_MARKUP = re.compile(rb"<(?:!doctype html|html|head|body)\b", re.I)
_MENUS = (
    "nav, header, footer, aside, form, [role=navigation], [class*=menu], [class*=nav], [class*=sidebar], "
    "[class*=breadcrumb], [class*=share], [class*=footer], [id*=menu], [id*=nav], [id*=footer], [id*=sidebar]"
)


@dataclass(frozen=True)
class Page:
    """A page of an archive.

    Attributes:
        address: its URL.
        text: its text, empty where there is none.
        problem: why it has no text: (reason, detail), or None.
        replaced: characters that could not be decoded.
    """

    address: str
    text: str
    problem: tuple[str, str] | None = None
    replaced: int = 0


def html_text(data: bytes, declared: str = "") -> tuple[str, int]:
    """Return the main text of a page, and how many characters could not be decoded.

    Args:
        data: the page.
        declared: charset of the HTTP header, or empty.
    """
    text, replaced = decode_page(data, declared)
    tree = HTMLTree.parse(text)
    _keep_lists(tree)
    return str(extract_plain_text(tree, main_content=True, preserve_formatting=True)), replaced


def _keep_lists(tree: Any) -> None:
    """Turn unordered lists that are no menus into blocks: the main-content rules drop every `ul`."""
    if tree.body is None:
        return
    for one in reversed(list(tree.body.query_selector_all("ul"))):  # inner lists come first
        text = len(one.text.strip())
        linked = sum(len(link.text.strip()) for link in one.query_selector_all("a"))
        if not text or linked > MOST_LINKED * text or one.closest(_MENUS) is not None:
            continue
        block = tree.create_element("div")
        for item in list(one.child_nodes):
            if item.local_name == "li":
                line = tree.create_element("div")
                first = item.first_child
                if first is not None and first.node_name == "#text":
                    first.value = f"• {first.value.lstrip()}"
                for inner in list(item.child_nodes):
                    line.append_child(inner)
                block.append_child(line)
            else:
                block.append_child(item)
        one.replace_with(block)


def warc_pages(stream: Bytes) -> Iterator[Page]:
    """Yield the pages of an unpacked archive; responses that are no page are skipped.

    A damaged record is a page with a problem, and the next record follows.
    """
    loader = ArcWarcRecordLoader(verify_http=False)
    for number, one in enumerate(records(stream, MAX_PAGE + MAX_HEADER), 1):
        place = one.address or f"record {number}"
        if one.problem:
            yield Page(place, "", ("damaged", one.problem))
            continue
        try:
            record = loader.parse_record_stream(io.BytesIO(one.data), known_format="warc")
            page = _page(record) if record.rec_type in ("response", "resource", "conversion") else None
        except (ArchiveLoadFailed, EOFError, AttributeError) as error:  # the last where a record has no address
            page = Page(place, "", ("damaged", f"{type(error).__name__}: {error}"))
        if page is not None:
            yield page


def _page(record: ArcWarcRecord) -> Page | None:
    """Return the page of a record, or None where it holds none."""
    headers = record.http_headers
    if headers is not None and headers.get_statuscode() != "200":
        return None
    given = (headers or record.rec_headers).get_header("Content-Type") or ""
    kind, _, parameters = given.partition(";")
    kind = kind.strip().lower()
    if kind not in (*HTML, *PLAIN, ""):
        return None
    address = record.rec_headers.get_header("WARC-Target-URI") or record.rec_headers.get_header("WARC-Record-ID")
    address = (address or "").strip("<>")
    try:
        body = _payload(record)
    except _TooLong:
        return Page(address, "", ("page too long", f"more than {MAX_PAGE} bytes"))
    except _UNPACKING as error:
        return Page(address, "", ("cannot be unpacked", str(error) or type(error).__name__))
    if not kind:  # no type is given
        kind = HTML[0] if _MARKUP.search(body[:HEAD]) else PLAIN[0] if record.rec_type == "conversion" else ""
        if not kind:
            return None
    if is_binary(body[:HEAD]):
        return Page(address, "", BINARY)
    charset = parameters.partition("charset=")[2].partition(";")[0].strip("\"' ")
    text, replaced = html_text(body, charset) if kind in HTML else _plain_text(body, charset)
    return Page(address, text, None, replaced)


def _plain_text(body: bytes, charset: str) -> tuple[str, int]:
    return decode_page(body, charset) if charset else decode(body)


_UNPACKING = (ValueError, OSError, EOFError, zlib.error, brotli.error, pa.ArrowException)


class _TooLong(Exception):
    """A payload is longer than `MAX_PAGE`."""


def _payload(record: ArcWarcRecord) -> bytes:
    """Return the payload of a record without its codings.

    Raises:
        _TooLong: it is longer than `MAX_PAGE`, packed or unpacked.
        ValueError: a coding that is not known.
    """
    headers, raw = record.http_headers, record.raw_stream
    chunked = headers is not None and "chunked" in (headers.get_header("Transfer-Encoding") or "").lower()
    body = _bounded((ChunkedDataReader(raw, decomp_type=None) if chunked else raw).read(MAX_PAGE + 1))
    given = [value for name, value in (headers.headers if headers else ()) if name.lower() == "content-encoding"]
    for coding in reversed([part.strip().lower() for part in ",".join(given).split(",") if part.strip()]):
        try:
            body = _decoded(body, coding)
        except _UNPACKING:
            if is_binary(body[:HEAD]):
                raise
            break  # stored unpacked, as many crawlers do, although the header still names the coding
    return body


def _decoded(body: bytes, coding: str) -> bytes:
    if not body or coding == "identity":
        return body
    if coding in ("gzip", "x-gzip"):
        return _inflated(body, zlib.MAX_WBITS | 16)
    if coding == "deflate":
        wrapped = body[0] & 0x0F == 8 and (256 * body[0] + body[1] if len(body) > 1 else 1) % 31 == 0
        return _inflated(body, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    if coding == "br":
        return _unbrotlied(body)
    if coding == "zstd":
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            return _bounded(stream.read(MAX_PAGE + 1))
    raise ValueError(f"Content-Encoding: {coding}")


def _inflated(body: bytes, window: int) -> bytes:
    parts, held = [], 0
    while body:
        member = zlib.decompressobj(window)
        parts.append(member.decompress(body, MAX_PAGE + 1 - held))
        held += len(parts[-1])
        if held > MAX_PAGE:
            raise _TooLong
        if not member.eof:
            raise ValueError("the packed body is cut off")
        body = member.unused_data if member.unused_data.startswith(b"\x1f\x8b") else b""
    return b"".join(parts)


def _unbrotlied(body: bytes) -> bytes:
    decoder, parts, held = brotli.Decompressor(), [], 0
    data = body
    while not decoder.is_finished():
        part = decoder.process(data, output_buffer_limit=2**20)
        data = b""
        if not part and decoder.can_accept_more_data():
            raise ValueError("the packed body is cut off")
        parts.append(part)
        held += len(part)
        if held > MAX_PAGE:
            raise _TooLong
    return b"".join(parts)


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_PAGE:
        raise _TooLong
    return body

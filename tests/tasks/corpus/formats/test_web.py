import gzip
import io
import zlib

import brotli
import pyarrow as pa
import pytest

from tasks.corpus.formats.web import MAX_PAGE, html_text, warc_pages
from tasks.corpus.read import Reader

PROSE = "The runtime queue writes every call down before it leaves the machine, so that nothing is paid twice. " * 4
PAGE = f"""<!doctype html><html><head><title>T</title><script>var secret = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<main><article><h1>A queue</h1><p>{PROSE}</p><p>Zweiter Absatz: Größe und Maß. {PROSE}</p></article></main>
<footer>Copyright notice of the site</footer></body></html>"""


def response(address, body, kind="text/html; charset=utf-8", status="200 OK"):
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\nWARC-Date: 2026-11-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{abs(hash(address)):032x}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


ARCHIVE = [
    response("https://a.example/queue", PAGE.encode()),
    response("https://a.example/gone", PAGE.encode(), status="404 Not Found"),
    response("https://a.example/picture", b"\x89PNG", kind="image/png"),
    response("https://b.example/old", PAGE.encode("latin-1"), kind="text/html; charset=iso-8859-1"),
    response("https://b.example/plain.txt", PROSE.encode(), kind="text/plain"),
]


def test_the_text_of_a_page_is_its_main_content():
    text = html_text(PAGE.encode())[0]
    assert "Größe und Maß" in text
    assert "A queue" in text
    assert not any(part in text for part in ("secret", "About us", "Copyright notice"))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_the_encoding_of_a_page_is_found_out(encoding):
    assert "Größe und Maß" in html_text(PAGE.encode(encoding))[0]


@pytest.mark.parametrize("data", [b"", b"\0\1\2\3", b"<html>", b"<p>" * 10_000, b"no markup at all"])
def test_what_is_hardly_a_page_gives_hardly_any_text(data):
    assert len(html_text(data)[0]) <= len(data)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_an_archive_gives_its_pages(tmp_path, packed):
    path = tmp_path / f"crawl.warc{packed}"
    if packed == ".gz":
        path.write_bytes(b"".join(gzip.compress(record) for record in ARCHIVE))  # one member for each record
    elif packed == ".zst":
        path.write_bytes(pa.compress(b"".join(ARCHIVE), "zstd", asbytes=True))
    else:
        path.write_bytes(b"".join(ARCHIVE))
    reader = Reader("base")
    documents = [document for batch in reader.read([path]) for document in batch]
    assert [d.doc_id for d in documents] == [
        "https://a.example/queue",
        "https://b.example/old",
        "https://b.example/plain.txt",
    ]
    assert [d.source for d in documents] == ["a.example", "b.example", "b.example"]
    assert all("paid twice" in d.text for d in documents)
    assert "Größe" in documents[1].text
    assert reader.quarantined == []


def test_a_damaged_archive_keeps_the_pages_before_the_damage(tmp_path):
    whole = b"".join(gzip.compress(record) for record in ARCHIVE)
    (tmp_path / "crawl.warc.gz").write_bytes(whole[: len(whole) - 150])
    (tmp_path / "page.html").write_text(PAGE)
    reader = Reader("base")
    documents = [document for batch in reader.read([tmp_path]) for document in batch]
    assert {"https://a.example/queue", "page.html"} <= {d.doc_id for d in documents}
    (aside,) = reader.quarantined
    assert (aside.path.partition(":")[0], aside.reason) == ("crawl.warc.gz", "damaged")


def test_a_page_beyond_the_limit_is_put_aside(monkeypatch):
    monkeypatch.setattr("tasks.corpus.formats.web.MAX_PAGE", 1000)
    pages = list(warc_pages(io.BytesIO(ARCHIVE[0] + ARCHIVE[4])))
    assert [page.problem is None for page in pages] == [False, True]
    assert MAX_PAGE > 1000


def test_odd_answers_are_read_or_put_aside_and_the_rest_goes_on(tmp_path):
    packed = pa.compress(PAGE.encode(), "zstd", asbytes=True)
    odd = [
        response("https://a.example/zstd", packed, kind="text/html\r\nContent-Encoding: zstd"),
        response("https://a.example/packed", gzip.compress(PAGE.encode()), kind="text/html\r\nContent-Encoding: gzip"),
        response("https://a.example/no-coding", PAGE.encode(), kind="text/html\r\nContent-Encoding: UTF-8"),
        response("https://a.example/empty", b""),
        response("https://a.example/no-type", PAGE.encode(), kind=""),
        response("https://a.example/charset", PAGE.encode("latin-1"), kind="text/html; charset=utf-16"),
        response("https://a.example/unknown", PAGE.encode(), kind="text/html; charset=klingon"),
    ]
    (tmp_path / "odd.warc").write_bytes(b"".join(odd))
    (tmp_path / "none.warc.gz").write_bytes(b"")
    reader = Reader("base")
    found = {d.doc_id.rpartition("/")[2]: d.text for batch in reader.read([tmp_path]) for d in batch}
    assert found.keys() == {"packed", "no-coding", "empty", "no-type", "charset", "unknown", "zstd"}
    assert found.pop("empty") == ""
    assert all("Größe und Maß" in text for text in found.values())
    assert [(item.path, item.reason) for item in reader.quarantined] == [("none.warc.gz", "empty")]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "br, gzip", "identity", "gzip-stored"])
def test_codings_are_undone_in_turn_and_a_broken_one_costs_its_page_only(coding):
    body = PAGE.encode()
    for part in coding.split(", "):
        body = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}.get(part, bytes)(body)
    kind = f"text/html\r\nContent-Encoding: {coding.removesuffix('-stored')}"
    broken = response("https://a.example/broken", b"\0\1\2\3" * 30, kind="text/html\r\nContent-Encoding: br")
    stream = io.BytesIO(broken + response("https://a.example/whole", body, kind=kind) + ARCHIVE[4])
    first, second, third = warc_pages(stream)
    assert first.problem is not None
    assert first.problem[0] == "cannot be unpacked"
    assert "Größe und Maß" in second.text
    assert third.text == PROSE


@pytest.mark.parametrize("place", ["meta", "header", "nowhere"])
def test_a_page_in_euc_kr_is_read_as_it_declares_itself(place):
    meta = '<meta charset="euc-kr">' if place == "meta" else ""
    text = "오래된 다리는 강을 건너고 아이들은 학교에서 노래를 부른다. " * 5
    page = f"<html><head>{meta}</head><body><main><p>{text}</p></main></body></html>".encode("euc-kr")
    assert html_text(page, "EUC-KR" if place == "header" else "") == (text.strip(), 0)


def test_lists_of_the_main_text_stay_and_menus_go():
    page = PAGE.replace("<p>Zweiter", "<ul><li>Two eggs</li><li>and <a href='/m'>milk</a></li></ul><p>Zweiter")
    text = html_text(page.encode())[0]
    assert "• Two eggs\n• and milk" in text
    assert "About us" not in text


@pytest.mark.parametrize("part", [b"WARC-Target-URI", b"Zweiter Absatz"])
def test_a_file_that_ends_within_a_record_is_told(tmp_path, part):
    whole, first = b"".join(ARCHIVE[::-1][3:] + ARCHIVE[:1]), len(ARCHIVE[1]) + len(ARCHIVE[0])
    cut = whole[: whole.index(part, first)]
    (tmp_path / "cut.warc").write_bytes(cut)
    reader = Reader("base")
    assert [d.doc_id for batch in reader.read([tmp_path]) for d in batch] == ["https://a.example/queue"]
    assert [(q.path.partition(":")[0], q.reason) for q in reader.quarantined] == [("cut.warc", "damaged")]


def archive(packed: bool, n: int = 5) -> tuple[bytes, list[int]]:
    """An archive of n pages, and where each begins."""
    parts = [response(f"https://a.example/{k}", PAGE.encode()) for k in range(n)]
    parts = [gzip.compress(part) if packed else part for part in parts]
    return b"".join(parts), [sum(map(len, parts[:k])) for k in range(n)]


def pages_of(path, data):
    path.write_bytes(data)
    reader = Reader("base")
    return "".join(d.doc_id[-1] for batch in reader.read([path]) for d in batch), reader.quarantined


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", ["overwritten", "cut", "inserted"])
def test_a_damaged_record_costs_itself_only(tmp_path, packed, damage):
    whole, starts = archive(packed)
    at = starts[2]
    data = {
        "overwritten": whole[:at] + b"X" * 5 + whole[at + 5 :],
        "cut": whole[:at] + whole[at + 100 :],
        "inserted": whole[:at] + b"garbage\r\n\r\n" * 9 + whole[at:],
    }[damage]
    found, asides = pages_of(tmp_path / ("x.warc.gz" if packed else "x.warc"), data)
    assert found == ("01234" if damage == "inserted" else "0134")
    assert [aside.reason for aside in asides] == ["damaged"]


@pytest.mark.parametrize("length", [b"9", b"2000", b"99999999", b"none"])
def test_a_wrong_length_costs_its_record_only(tmp_path, length):
    whole, starts = archive(False)
    at = whole.index(b"Content-Length: ", starts[2]) + 16
    found, asides = pages_of(tmp_path / "x.warc", whole[:at] + length + whole[whole.index(b"\r", at) :])
    assert found == "0134"
    assert [(aside.path, aside.reason) for aside in asides] == [("x.warc: https://a.example/2", "damaged")]


def test_newer_versions_of_http_are_pages(tmp_path):
    whole, _ = archive(False, 2)
    assert pages_of(tmp_path / "x.warc", whole.replace(b"HTTP/1.1 200", b"HTTP/2   200"))[0] == "01"


def test_records_without_the_empty_lines_between_them(tmp_path):
    parts = [response(f"https://a.example/{k}", PAGE.encode()) for k in range(3)]
    assert pages_of(tmp_path / "x.warc", b"\r\n".join(part.rstrip(b"\r\n") for part in parts)) == ("012", [])

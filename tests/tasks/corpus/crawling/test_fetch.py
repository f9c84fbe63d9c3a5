"""`ketcycle fetch` against a site on loopback, judged by what the site itself saw."""

import csv
import fcntl
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.errors import BadInput
from tasks.corpus.crawling.fetch import Order
from tasks.corpus.crawling.fetch import fetch as start_fetch
from tasks.corpus.formats.kinds import HIDDEN, METADATA
from tasks.corpus.read import Reader

pytest.importorskip("scrapy", reason="the crawler is an extra: pip install 'ketcycle[crawl]'")
pytestmark = pytest.mark.slow

PROSE = "The runtime queue writes every call down before it leaves the machine, so that nothing is paid twice. " * 4


def page(name, text=PROSE):
    body = f"<main><article><h1>{name}</h1><p>{name}: {text}</p></article></main>"
    return f"<!doctype html><html><head><title>{name}</title></head><body>{body}</body></html>".encode()


class Site(ThreadingHTTPServer):
    """Answers from `pages`: path -> (status, headers, body) or a function of how often it was asked."""

    daemon_threads = True

    def __init__(self, pages):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.log = pages, []

    @property
    def netloc(self):
        return f"127.0.0.1:{self.server_port}"

    def at(self, path):
        return f"http://{self.netloc}{path}"

    def asked(self):
        return [path for _, _, path, _ in self.log]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self):
        site, began = self.server, time.monotonic()
        entry = [began, began, self.path, dict(self.headers)]
        site.log.append(entry)
        found = site.pages.get(self.path, (404, {"Content-Type": "text/html"}, page("none")))
        status, headers, body = found(sum(p == self.path for p in site.asked())) if callable(found) else found
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True
        entry[1] = time.monotonic()

    def log_message(self, *_):
        pass


@contextmanager
def serving(pages):
    site = Site(pages)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        thread.join()
        site.server_close()


def html(body, **headers):
    return 200, {"Content-Type": "text/html; charset=utf-8"} | headers, body


def words(folder, *arguments, contact="https://crawler.example/about"):
    return [
        *("fetch", "--out", str(folder / "warc"), "--home", str(folder / "home")),
        *("--contact", contact, "--retries", "1", "--timeout", "1.5", *map(str, arguments)),
    ]


def command(folder, *arguments):
    return [sys.executable, "-m", "flows.cli", *words(folder, *arguments)]


def fetch(folder, *arguments, code=0, loopback=True):
    flags = ["--allow-loopback"] if loopback else []
    done = CliRunner().invoke(app, words(folder, *arguments, *flags))
    assert done.exit_code == code, done.output
    return done


def outcomes(folder):
    with (folder / "warc" / "urls.csv").open(newline="") as stream:
        return {(row["url"], row["outcome"]): row for row in csv.DictReader(stream)}


def written(folder, *addresses):
    path = folder / "urls.txt"
    path.write_text("# addresses\n" + "\n".join(addresses) + "\n")
    return path


def documents(folder):
    reader = Reader("base")
    found = {d.doc_id: d.text for batch in reader.read([folder / "warc"]) for d in batch}
    assert {aside.reason for aside in reader.quarantined} <= {HIDDEN, METADATA}
    return found


def checked(folder):
    files = sorted(str(p) for p in (folder / "warc").glob("*.warc.gz"))
    done = subprocess.run([sys.executable, "-m", "warcio.cli", "check", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return files


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """A whole crawl of a site with all that a site may do, by list and sitemap."""
    folder = tmp_path_factory.mktemp("crawl")
    robots = b"User-agent: *\nDisallow: /private\nCrawl-delay: 0.15\n"
    with serving({"/elsewhere": html(page("elsewhere"))}) as other, serving({}) as site:

        def sitemap(kind, entry, *places):
            inner = "".join(f"<{entry}><loc>{p}</loc></{entry}>" for p in places)
            return f'<{kind} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{inner}</{kind}>'.encode()

        def slow(_):
            time.sleep(2.5)
            return html(page("slow"))

        latin = page("latin", "Größe. " + PROSE).decode().encode("latin-1")
        xml = {"Content-Type": "application/xml"}
        deep = sitemap("urlset", "url", site.at("/one"), site.at("/from-sitemap"), other.at("/not-named"))
        site.pages |= {
            "/robots.txt": (200, {"Content-Type": "text/plain"}, robots),
            "/map.xml": (200, xml, sitemap("sitemapindex", "sitemap", site.at("/deep.xml.gz"), site.at("/broken.xml"))),
            "/deep.xml.gz": (200, {"Content-Type": "application/gzip"}, gzip.compress(deep)),
            "/broken.xml": (200, xml, b"this is no sitemap"),
            "/one": html(page("one"), **{"Set-Cookie": "session=tellnobody"}),
            "/from-sitemap": html(page("from-sitemap")),
            "/packed": html(gzip.compress(page("packed")), **{"Content-Encoding": "gzip"}),
            "/odd": html(pa.compress(page("odd"), "zstd", asbytes=True), **{"Content-Encoding": "compress"}),
            "/damaged": html(b"no gzip", **{"Content-Encoding": "gzip"}),
            "/bomb": html(gzip.compress(b"a" * 10_000_000), **{"Content-Encoding": "gzip"}),
            "/latin": (200, {"Content-Type": "text/html; charset=iso-8859-1"}, latin),
            "/plain.txt": (200, {"Content-Type": "text/plain"}, PROSE.encode()),
            "/private/page": html(page("private")),
            "/to-private": (302, {"Location": "/private/other"}, b""),
            "/moved": (301, {"Location": "/target"}, b""),
            "/target": html(page("target")),
            "/moved-to-one": (302, {"Location": "/one"}, b""),
            "/away": (302, {"Location": other.at("/elsewhere")}, b""),
            "/loop": (302, {"Location": "/loop2"}, b""),
            "/loop2": (302, {"Location": "/loop"}, b""),
            "/large": html(b"<p>" + b"x" * 300_000),
            "/picture": (200, {"Content-Type": "image/png"}, b"\x89PNG" * 1000),
            "/busy": lambda n: html(page("busy")) if n > 1 else (429, {"Retry-After": "1"}, b""),
            "/error": (500, {"Content-Type": "text/html"}, page("error")),
            "/slow": slow,
        }  # fmt: skip
        given = [
            *("/one", "/one#part", "/packed", "/odd", "/damaged", "/bomb", "/latin", "/plain.txt"),
            *("/private/page", "/to-private"),
            *("/moved", "/moved-to-one", "/away", "/loop", "/large", "/picture", "/busy", "/gone", "/error", "/slow"),
        ]
        others = ["ftp://127.0.0.1/file", "http://user:tellnobody@127.0.0.1/", "not an address", "http://10.0.0.1/"]
        listed = written(folder, *map(site.at, given), *others)
        limits = ("--delay", 0.05, "--max-bytes", 200_000)
        done = fetch(folder, "--urls", listed, "--sitemap", site.at("/map.xml"), *limits, "--json")
        yield folder, site, other, json.loads(done.stdout)


def test_every_address_has_its_outcome(crawled):
    folder, site, other, _ = crawled
    expected = {
        **dict.fromkeys(["/packed", "/latin", "/plain.txt", "/moved", "/busy", "/from-sitemap"], "fetched"),
        **dict.fromkeys(["/private/page", "/to-private"], "robots"),
        **dict.fromkeys(["/large", "/bomb"], "too large"),
        "/away": "off host",
        "/loop": "duplicate",
        **dict.fromkeys(["/picture", "/odd", "/damaged"], "wrong type"),
        "/gone": "status",
        "/error": "server error",
        "/slow": "timeout",
        "/map.xml": "read",
        "/deep.xml.gz": "read",
        "/broken.xml": "bad sitemap",
        "/moved-to-one": "duplicate",
    }
    found = outcomes(folder)
    for path, outcome in expected.items():
        assert (site.at(path), outcome) in found, (path, [k for k in found if k[0] == site.at(path)])
    assert {(site.at("/one"), "fetched"), (site.at("/one#part"), "duplicate")} <= found.keys()
    assert (other.at("/not-named"), "off host") in found
    assert ("ftp://127.0.0.1/file", "bad address") in found
    assert ("http://***@127.0.0.1/", "bad address") in found
    assert ("not an address", "bad address") in found
    assert ("http://10.0.0.1/", "private address") in found


def test_what_robots_txt_forbids_and_other_hosts_are_never_asked(crawled):
    _, site, other, _ = crawled
    assert site.asked()[0] == "/robots.txt"
    assert site.asked().count("/robots.txt") == 1
    assert not any(path.startswith("/private") for path in site.asked())
    assert other.log == []
    once = [path for path in site.asked() if path not in ("/busy", "/error", "/slow")]
    assert len(once) == len(set(once))


def test_requests_are_spaced_as_robots_txt_asks_and_never_overlap(crawled):
    _, site, _, _ = crawled
    seen = sorted(site.log, key=lambda entry: entry[0])[1:]  # from robots.txt on the delay is known
    assert min(after[0] - before[0] for before, after in pairwise(seen)) > 0.14
    whole = [(before, after) for before, after in pairwise(seen) if before[2] not in ("/slow", "/large", "/picture")]
    assert min(after[0] - before[1] for before, after in whole) > 0.12  # counted from the end of the answer


def test_a_host_that_says_when_to_come_back_is_left_alone_until_then(crawled):
    _, site, _, _ = crawled
    seen = sorted(site.log)
    first = next(k for k, entry in enumerate(seen) if entry[2] == "/busy")
    assert seen[first + 1][0] - seen[first][1] > 0.98


def test_the_crawler_says_who_it_is_and_carries_no_cookie(crawled):
    _, site, _, _ = crawled
    for _, _, _, headers in site.log:
        assert re.fullmatch(r"ketcycle/[\d.]+ \(\+https://crawler\.example/about\)", headers["User-Agent"])
        assert headers["Accept-Encoding"] == "gzip"
        assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_the_archive_is_valid_and_holds_no_secret(crawled):
    folder, site, _, found = crawled
    (file,) = checked(folder)
    raw = Path(file).read_bytes()
    text = gzip.decompress(raw)
    assert raw.count(b"\x1f\x8b\x08\x00") >= 1 + 3 * found["fetched"]  # a member for each record
    assert text.startswith(b"WARC/1.1\r\n")
    assert b"robots: obeyed (RFC 9309)" in text
    assert b"tellnobody" not in text + (folder / "warc" / "urls.csv").read_bytes()
    for kind in (b"response", b"request", b"metadata"):
        assert text.count(b"WARC-Type: " + kind) == found["fetched"]
    assert f"via: {site.at('/moved')}".encode() in text
    assert re.search(rb"WARC-Date: 20\d\d-\d\d-\d\dT", text)
    assert b"WARC-IP-Address: 127.0.0.1" in text


def test_the_pages_become_documents(crawled):
    folder, site, _, found = crawled
    read = documents(folder)
    names = ("/one", "/from-sitemap", "/packed", "/latin", "/target", "/busy", "/plain.txt")
    assert read.keys() == {site.at(name) for name in names}
    assert "Größe" in read[site.at("/latin")]
    assert all("runtime queue" in text for text in read.values())
    assert found["fetched"] == len(names)
    assert found["hosts"][site.netloc]["pages"] == len(names)
    assert found["skipped"]["robots"] == 2
    assert found["again"] == 2  # the slow page and the error


def test_a_killed_crawl_goes_on_and_asks_for_nothing_twice(tmp_path):
    names = [f"/page-{k:02d}" for k in range(24)]
    with serving({name: html(page(name)) for name in names}) as site:
        listed = written(tmp_path, *map(site.at, names))
        arguments = ("--urls", listed, "--delay", 0.1, "--allow-loopback")
        process = subprocess.Popen(command(tmp_path, *arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(site.log) < 9:
            time.sleep(0.01)
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        for pid in (*(child.pid for child in children), process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(children, timeout=5)
        (half,) = (tmp_path / "warc").glob("*.open")
        with half.open("ab") as stream:  # the beginning of a record that was not finished
            stream.write(gzip.compress(b"WARC/1.1\r\nWARC-Type: response\r\n")[:20])
        in_flight = set(site.asked()[-2:])
        before = [path for path in site.asked() if path != "/robots.txt"]
        done = json.loads(fetch(tmp_path, *arguments, "--json").stdout)
        after = [path for path in site.asked() if path != "/robots.txt"][len(before) :]
        assert set(before) | set(after) == set(names)
        assert set(before) & set(after) <= in_flight  # what had not been answered and written yet
        assert len(before) + len(after) <= len(names) + 1
        assert done["fetched"] == len(names)
        assert len(done["files"]) == 2
        checked(tmp_path)
        assert documents(tmp_path).keys() == set(map(site.at, names))
        asked = len(site.log)
        assert fetch(tmp_path, *arguments, "--json").stdout == json.dumps(done, indent=1) + "\n"
        assert len(site.log) == asked  # nothing left to ask: not even robots.txt


def test_ctrl_c_finishes_the_file(tmp_path):
    names = [f"/page-{k}" for k in range(40)]
    with serving({name: html(page(name)) for name in names}) as site:
        listed = written(tmp_path, *map(site.at, names))
        arguments = ("--urls", listed, "--delay", 0.1, "--allow-loopback")
        process = subprocess.Popen(
            command(tmp_path, *arguments), stderr=subprocess.PIPE, text=True,
            # A shell starts what runs in the background with SIGINT ignored, and that is passed on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        while len(site.log) < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 130, said
    assert "finished work is kept" in said
    assert len(checked(tmp_path)) == 1
    assert 2 <= len(documents(tmp_path)) < 20
    assert not list((tmp_path / "warc").glob("*.open"))


def test_a_host_without_robots_answer_or_with_a_long_pause_is_not_asked(tmp_path):
    with (
        serving({"/robots.txt": (503, {}, b""), "/a": html(page("a"))}) as down,
        serving({"/robots.txt": (404, {}, b"")}) as long,
    ):
        long.pages |= {f"/{name}": (503, {"Retry-After": "86400"}, b"") for name in "abcdef"}
        first = written(tmp_path, down.at("/a"))
        # One after the other: on loopback both are one host to the pace.
        fetch(tmp_path, "--urls", first, "--delay", 0.01, "--retries", 0, code=1)
        assert (down.at("/a"), "robots unreachable") in outcomes(tmp_path)
        second = written(tmp_path, *(long.at(f"/{name}") for name in "abcdef"))
        fetch(tmp_path, "--urls", second, "--delay", 0.01, code=1)
        assert [k[1] for k in outcomes(tmp_path) if k[0] != down.at("/a")] == ["busy"] * 6
    assert set(down.asked()) == {"/robots.txt"}
    assert len(long.asked()) == 2  # robots.txt and the page that was told to come back


def test_private_networks_are_never_asked(tmp_path):
    with serving({"/a": html(page("a"))}) as site:
        port = site.server_port
        hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "169.254.169.254", "[::1]", "10.1.2.3"]
        listed = written(tmp_path, *(f"http://{host}:{port}/a" for host in hosts))
        said = fetch(tmp_path, "--urls", listed, "--delay", 0.01, "--retries", 0, loopback=False, code=1).stderr
        assert "no page could be fetched" in said
        assert {outcome for _, outcome in outcomes(tmp_path)} == {"private address", "bad address"}
        assert (f"http://localhost:{port}/a", "private address") in outcomes(tmp_path)
    assert site.log == []


def test_hostile_sitemaps_and_redirects_lead_nowhere(tmp_path):
    xml = {"Content-Type": "application/xml"}
    entity = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><urlset><url><loc>&x;</loc></url></urlset>'
    with serving({"/entity.xml": (200, xml, entity)}) as site:
        index = f"<sitemapindex><sitemap><loc>{site.at('/loop.xml')}</loc></sitemap></sitemapindex>".encode()
        site.pages |= {
            "/bomb.xml.gz": (200, xml, gzip.compress(b"<urlset>" + b" " * 60_000_000)),
            "/loop.xml": (200, xml, index),
            "/evil": (302, {"Location": "http://169.254.169.254/latest/"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        }
        maps = [
            part for name in ("bomb.xml.gz", "loop.xml", "entity.xml") for part in ("--sitemap", site.at(f"/{name}"))
        ]
        listed = written(tmp_path, site.at("/evil"), site.at("/file"))
        fetch(tmp_path, "--urls", listed, *maps, "--delay", 0.05, code=1)
        assert outcomes(tmp_path).keys() == {
            (site.at("/bomb.xml.gz"), "too large"),
            (site.at("/loop.xml"), "read"),
            (site.at("/entity.xml"), "read"),
            (site.at("/evil"), "private address"),
            (site.at("/file"), "status"),
        }
        assert outcomes(tmp_path)[site.at("/entity.xml"), "read"]["detail"] == "0 addresses"
        assert len(site.asked()) == 6  # robots.txt and each of them once


def test_limits_of_pages_hold_and_are_told(tmp_path):
    names = [f"/page-{k}" for k in range(5)]
    with serving({name: html(page(name)) for name in names}) as site:
        listed = written(tmp_path, *map(site.at, names))
        arguments = ("--urls", listed, "--delay", 0.01, "--json")
        done = json.loads(fetch(tmp_path, *arguments, "--max-pages", 2).stdout)
        assert (done["fetched"], done["skipped"], done["again"]) == (2, {"limit": 3}, 3)
        done = json.loads(fetch(tmp_path, *arguments).stdout)  # a larger limit later
        assert (done["fetched"], done["skipped"]) == (5, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--urls", "none.txt"], "none.txt cannot be read"),
        (["--urls", "empty.txt"], "is empty"),
        (["--urls", "binary.txt"], "is binary"),
        ([], "give --urls FILE, --sitemap URL"),
        (["--urls", "good.txt", "--contact", ""], "must be a web or mail address"),
        (["--urls", "good.txt", "--contact", "me\r\nX-Header: 1"], "must be a web or mail address"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_asked(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    Path("binary.txt").write_bytes(b"\0\1")
    Path("good.txt").write_text("https://site.example/\n")
    done = CliRunner().invoke(app, ["fetch", "--out", "warc", "--contact", "a@b.example", *arguments, "--home", "home"])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_folder_takes_one_fetch_at_a_time(tmp_path):
    (tmp_path / "warc").mkdir()
    with (tmp_path / "warc" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = fetch(tmp_path, "--urls", written(tmp_path, "http://127.0.0.1:1/"), code=2).stderr
    assert "another fetch writes to" in said


def test_without_the_crawler_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.corpus.crawling.fetch.find_spec", lambda name: None)
    order = Order(tmp_path, "me@site.example", written(tmp_path, "https://site.example/"), (), {})
    with pytest.raises(BadInput, match=r"pip install 'ketcycle\[crawl\]'"):
        start_fetch(order, print)

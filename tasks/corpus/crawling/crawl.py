"""`python -m tasks.corpus.crawling.crawl`: fetch the pages of a list and of sitemaps into WARC files with Scrapy.

Reads a `Plan` as JSON from standard input, prints progress, and ends with 0, or with a reason on standard error and 2
(bad input) or 1. Pages already in the folder are not requested again. It runs in a process of its own because Scrapy's
event loop can run only once per process and takes over its signals.
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import io
import json
import logging
import signal
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from logging.handlers import RotatingFileHandler
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import scrapy
from lxml.etree import LxmlError
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import CloseSpider, DownloadCancelledError, DownloadTimeoutError, IgnoreRequest
from scrapy.http import Request, Response
from scrapy.utils.gz import gzip_magic_number
from scrapy.utils.sitemap import Sitemap, sitemap_urls_from_robots
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES

from tasks.corpus.crawling.archive import (
    AGAIN,
    COLUMNS,
    FETCHED,
    READ,
    TABLE,
    Archive,
    Exchange,
    Row,
    Table,
    archived,
    finish_open_files,
    read_table,
)
from tasks.corpus.crawling.rules import (
    AGENT,
    LOOPBACK,
    PublicResolver,
    Refused,
    clean_address,
    media_type,
)
from tasks.corpus.formats.web import HTML, PACKED, PLAIN

MAX_SITEMAP = 50 * 2**20  # what sitemaps.org allows, and the next two
MAX_ENTRIES = 50_000
MAX_DEPTH = 3
MAX_SITEMAPS = 1000
MAX_REDIRECTS = 5
HOSTS_AT_ONCE = 16
TELL_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What to fetch, and the limits.

    Attributes:
        folder: output folder of the WARC files and the table.
        urls: text file, one address a line, or empty.
        sitemaps: addresses of sitemaps, or of a robots.txt that names them.
        agent: the user agent.
        mail: mail address of the operator for the header From, or empty.
        delay_s: pause after each response of a host; above 0, since with 0 Scrapy sends requests in parallel.
        timeout_s: timeout of one page.
        retries: retries of a failed page.
        max_bytes: largest page.
        max_pages: most pages of one host.
        max_total: most pages of all hosts.
        loopback: whether addresses of this machine are allowed.
    """

    folder: str
    urls: str
    sitemaps: tuple[str, ...]
    agent: str
    mail: str
    delay_s: float
    timeout_s: float
    retries: int
    max_bytes: int
    max_pages: int
    max_total: int
    loopback: bool


class Pages(scrapy.Spider):
    """Requests the pages of a plan and records the outcome of each address.

    Attributes:
        hosts: netlocs that may be requested.
        seen: addresses given or reached by a redirect.
        closed: hosts that get no further request, with the reason.
        without_robots: netlocs whose robots.txt could not be fetched, with the reason.
    """

    name = AGENT

    def __init__(self, plan: Plan, archive: Archive, table: Table, done: set[str], before: Counter[str]) -> None:
        super().__init__()
        self._plan, self._archive, self._table = plan, archive, table
        self._done, self._asked = done, before
        self._sitemaps: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._told = monotonic()
        self.seen = set(done)
        self.closed: dict[str, str] = {}
        self.without_robots: dict[str, str] = {}
        self.hosts = {urlsplit(url).netloc for url in self._given()}
        self.problem = ""

    async def start(self) -> AsyncIterator[Any]:
        """Yield the first requests: the sitemaps, then the addresses of the list."""
        for address in self._plan.sitemaps:
            for request in self._sitemap_request(address, 1):
                yield request
        for line in _lines(self._plan.urls):
            for request in self._page_request(line):
                yield request

    def tell(self, line: str) -> None:
        """Print a line of progress."""
        print(line, flush=True)  # the parent process prints it
        self._told = monotonic()

    def _given(self) -> Iterator[str]:
        for address in (*self._plan.sitemaps, *_lines(self._plan.urls)):
            try:
                yield clean_address(address, self._plan.loopback)
            except Refused:
                continue  # its row is written when its request would be sent

    def _page_request(self, address: str) -> Iterator[Request]:
        try:
            url = clean_address(address, self._plan.loopback)
            host = urlsplit(url).netloc
            if url in self.seen:
                if url not in self._done:
                    raise Refused("duplicate", "given more than once")
                return
            if host not in self.hosts:
                raise Refused("off host", host)
            if self._asked[host] >= self._plan.max_pages:
                raise Refused("limit", f"{self._plan.max_pages} pages of {host}")
            if self._asked.total() >= self._plan.max_total:
                raise Refused("limit", f"{self._plan.max_total} pages")
        except Refused as refused:
            self._put(Row(_shown(address), "page", refused.outcome, detail=refused.detail))
            return
        self.seen.add(url)
        self._asked[host] += 1
        yield self._request(url, "page", self._page, self._plan.max_bytes)

    def _sitemap_request(self, address: str, depth: int) -> Iterator[Request]:
        try:
            url = clean_address(address, self._plan.loopback)
            if url in self._sitemaps:
                return
            if depth > MAX_DEPTH or len(self._sitemaps) >= MAX_SITEMAPS:
                raise Refused("bad sitemap", f"more than {MAX_DEPTH} levels or {MAX_SITEMAPS} sitemaps")
        except Refused as refused:
            self._put(Row(_shown(address), "sitemap", refused.outcome, detail=refused.detail))
            return
        self._sitemaps.add(url)
        request = self._request(url, "sitemap", self._sitemap, MAX_SITEMAP)
        request.meta["depth_of_sitemap"] = depth
        yield request

    def _request(self, url: str, kind: str, callback: Any, size: int) -> Request:
        meta = {"kind": kind, "given": url, "admitted": url, "download_maxsize": size}
        return Request(url, callback, errback=self._failed, meta=meta, dont_filter=True)

    def _page(self, response: Response) -> None:
        meta, asked = response.meta, response.request
        raw: Response = meta["raw"]
        if asked is None or raw.status != 200:
            self._put(self._row(response, _outcome(raw.status), detail=_status(raw.status)))
        elif media_type(raw.headers) not in HTML + PLAIN:
            self._put(self._row(response, "wrong type", detail=media_type(raw.headers) or "none given"))
        elif (packed := (raw.headers.get("Content-Encoding") or b"").decode("latin-1").lower()) in PACKED:
            self._put(self._row(response, "wrong type", detail=f"packed by {packed}, not accepted by the request"))
        else:
            via = meta["given"] if meta["given"] != response.url else ""
            peer = str(raw.ip_address or "")
            seconds = float(meta["download_latency"])
            status = _status(raw.status)
            page = Exchange(response.url, via, _headers(asked), status, _headers(raw), raw.body, peer, seconds)
            try:
                file = self._archive.add(page)
            except OSError as error:
                self.problem = f"{error.strerror}: {error.filename or self._plan.folder}"
                raise CloseSpider(self.problem) from error
            self._put(self._row(response, FETCHED, bytes=len(raw.body), file=file))

    def _sitemap(self, response: Response) -> Iterator[Request]:
        depth, found, more = response.meta["depth_of_sitemap"], 0, False
        try:
            if response.status != 200:
                raise Refused(_outcome(response.status), _status(response.status))
            kind, entries = _entries(response)
            for address in entries:
                if found == MAX_ENTRIES:
                    more = True
                    break
                found += 1
                yield from (
                    self._sitemap_request(address, depth + 1) if kind == "sitemapindex" else self._page_request(address)
                )
        except Refused as refused:
            self._put(self._row(response, refused.outcome, detail=refused.detail))
            return
        said = f"{found} addresses" + (", the rest is not read: a sitemap holds no more" if more else "")
        self._put(self._row(response, READ, bytes=len(response.body), detail=said))

    def _failed(self, failure: Failure) -> None:
        request: Request = failure.request  # type: ignore[attr-defined]
        outcome, detail = self._why(request, failure.value)
        final = request.url if request.url != request.meta["given"] else ""
        self._put(Row(request.meta["given"], request.meta["kind"], outcome, final=final, detail=detail[:300]))

    def _why(self, request: Request, error: BaseException | None) -> tuple[str, str]:
        host, said = urlsplit(request.url), str(error)
        if isinstance(error, Refused):
            return error.outcome, error.detail
        if host.hostname in PublicResolver.refused:
            return "private address", f"{host.hostname} lies in a private network"
        if host.hostname in self.closed:
            return "busy", self.closed[host.hostname]
        if isinstance(error, IgnoreRequest) and "robots.txt" in said:
            if host.netloc in self.without_robots:
                return "robots unreachable", f"no robots.txt, which forbids all: {self.without_robots[host.netloc]}"
            return "robots", "robots.txt forbids it"
        if isinstance(error, IgnoreRequest) and "redirection" in said:
            return "redirects", f"more than {MAX_REDIRECTS}"
        if isinstance(error, DownloadCancelledError | IgnoreRequest):  # as it came, or unpacked
            return "too large", f"more than {request.meta['download_maxsize']} bytes"
        if isinstance(error, DownloadTimeoutError):
            return "timeout", f"{self._plan.timeout_s:g} s"
        raw = request.meta.get("raw")
        if raw is not None and raw.url == request.url and raw.status == 200:
            return "wrong type", f"the body cannot be unpacked: {said}"
        return "unreachable", f"{type(error).__name__}: {said}"

    def _row(self, response: Response, outcome: str, **more: Any) -> Row:
        given, seconds = response.meta["given"], round(response.meta.get("download_latency", 0.0), 3)
        final = response.url if response.url != given else ""
        return Row(given, response.meta["kind"], outcome, response.status, final, seconds=seconds, **more)

    def _put(self, row: Row) -> None:
        try:
            self._table.add(row)
        except OSError as error:
            self.problem = f"{error.strerror}: {error.filename or TABLE}"
            raise CloseSpider(self.problem) from error
        self._counts[FETCHED if row.outcome == FETCHED else READ if row.outcome == READ else "passed over"] += 1
        if monotonic() - self._told >= TELL_S:
            self.tell(", ".join(f"{n} {what}" for what, n in sorted(self._counts.items())))


def _lines(path: str) -> Iterator[str]:
    """Yield the addresses of a list, without empty lines and comments (#)."""
    if path:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as stream:
            while line := stream.readline(2**16):
                if (address := line.strip()) and not address.startswith("#"):
                    yield address


def _entries(response: Response) -> tuple[str, Iterator[str]]:
    """Return the kind of a sitemap and its addresses.

    Raises:
        Refused: it is no sitemap, or too large.
    """
    body = response.body
    if response.url.endswith("/robots.txt"):
        return "sitemapindex", iter(list(sitemap_urls_from_robots(body, base_url=response.url)))
    try:
        if gzip_magic_number(response):
            body = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_SITEMAP + 1)
        if len(body) > MAX_SITEMAP:
            raise Refused("too large", f"more than {MAX_SITEMAP} bytes when unpacked")
        sitemap = Sitemap(body)
        if sitemap.type not in ("sitemapindex", "urlset"):
            raise Refused("bad sitemap", f"neither urlset nor sitemapindex, but {sitemap.type}")
        entries = [entry["loc"] for entry in islice(sitemap, MAX_ENTRIES + 1) if entry.get("loc")]
    except (LxmlError, StopIteration, OSError, EOFError, zlib.error) as error:
        raise Refused("bad sitemap", str(error) or "no XML") from None
    return sitemap.type, iter(entries)


def _outcome(status: int) -> str:
    return "busy" if status in (429, 503) else "server error" if status >= 500 else "status"


def _status(status: int) -> str:
    return f"{status} {RESPONSES.get(status, b'').decode()}".strip()


def _headers(message: Request | Response) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, values in message.headers.items()
        for value in values or ()
    ]


def _shown(address: str) -> str:
    """Return an address for the table: shortened, without user name and password."""
    scheme, middle, rest = address[:2000].partition("://")
    user, at, place = rest.partition("@")
    return f"{scheme}://***@{place}" if middle and at and "/" not in user else address[:2000]


def _settings(plan: Plan) -> dict[str, Any]:
    rules, scrapys = "tasks.corpus.crawling.rules", "scrapy.downloadermiddlewares"
    headers = {"Accept": "text/html,application/xhtml+xml,text/plain;q=.9,*/*;q=.1", "Accept-Encoding": "gzip"}
    return {
        "USER_AGENT": plan.agent,
        "DEFAULT_REQUEST_HEADERS": headers | ({"From": plan.mail} if plan.mail else {}),
        "ROBOTSTXT_OBEY": True,
        "ROBOTSTXT_USER_AGENT": AGENT,
        "CONCURRENT_REQUESTS": HOSTS_AT_ONCE,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
        "DOWNLOAD_DELAY": plan.delay_s,
        "DOWNLOAD_DELAY_JITTER": 0.0,
        "DOWNLOAD_TIMEOUT": plan.timeout_s,
        "DOWNLOAD_MAXSIZE": plan.max_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DOWNLOAD_HANDLERS": {
            "http": f"{rules}.Handler",
            "https": f"{rules}.Handler",
            **dict.fromkeys(("data", "file", "ftp", "s3")),
        },
        "TWISTED_DNS_RESOLVER": f"{rules}.PublicResolver",
        LOOPBACK: plan.loopback,
        "RETRY_TIMES": plan.retries,
        "RETRY_GIVE_UP_LOG_LEVEL": "WARNING",
        "REDIRECT_MAX_TIMES": MAX_REDIRECTS,
        "METAREFRESH_ENABLED": False,
        "REFERER_ENABLED": False,
        "COOKIES_ENABLED": False,
        "HTTPPROXY_ENABLED": False,  # a proxy would look names up itself, past the resolver
        "HTTPERROR_ALLOW_ALL": True,
        "DOWNLOADER_MIDDLEWARES": {
            f"{scrapys}.offsite.OffsiteMiddleware": None,
            f"{scrapys}.httpauth.HttpAuthMiddleware": None,
            f"{scrapys}.robotstxt.RobotsTxtMiddleware": None,
            f"{rules}.Gate": 50,
            f"{rules}.Obey": 100,
            f"{rules}.Robots": 540,
            f"{rules}.Wire": 860,
            f"{rules}.Pace": 870,
        },
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_ENABLED": False,
        "STATS_DUMP": False,
    }


def _compact(folder: Path) -> None:
    """Put a table with one row for each address in the place of the one that grew."""
    rows = list(read_table(folder))
    draft = folder / f".{TABLE}"
    with draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    draft.replace(folder / TABLE)


def crawl(plan: Plan) -> str:
    """Fetch what is not there yet; return what went wrong, or nothing."""
    folder = Path(plan.folder)
    finish_open_files(folder)
    _compact(folder)
    stored = archived(folder)
    rows = [row for row in read_table(folder) if row.kind == "page" and row.outcome not in AGAIN | {"duplicate"}]
    done = {row.url for row in rows if row.outcome != FETCHED or (row.final or row.url) in stored}
    told = {row.final or row.url for row in rows if row.outcome == FETCHED}
    before = Counter(urlsplit(url).netloc for url in stored)
    info = {
        "software": plan.agent.partition(" ")[0],
        "format": "WARC File Format 1.1",
        "conformsTo": "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
        "robots": "obeyed (RFC 9309), with Crawl-delay",
        "http-header-user-agent": plan.agent,
        "http-header-from": plan.mail,
    }
    archive, table = Archive(folder, info), Table(folder)
    for url in sorted(stored.keys() - told):  # killed between the page and its row
        table.add(Row(url, "page", FETCHED, 200, file=stored[url]))
    process = AsyncCrawlerProcess(_settings(plan))
    crawler = process.create_crawler(Pages)
    process.crawl(crawler, plan=plan, archive=archive, table=table, done=done | stored.keys(), before=before)
    from twisted.internet import reactor  # the process made it

    # Scrapy's own handler waits until all that is queued was asked; here a page on its way is asked for another time.
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(reactor.crash))  # type: ignore[misc]
    process.start(install_signal_handlers=False)
    archive.close()
    table.close()
    _compact(folder)
    if reactor.threadpool is not None:  # SIGTERM leaves the threads of the name resolver running
        reactor.threadpool.stop()
    spider: Any = crawler.spider
    return spider.problem if spider is not None else "the crawl did not begin; see .fetch.log in the folder"


def main() -> int:
    """Run the plan on standard input."""
    given = json.load(sys.stdin)
    plan = Plan(**{**given, "sitemaps": tuple(given["sitemaps"])})
    folder = Path(plan.folder)
    warnings.simplefilter("ignore")
    handler = RotatingFileHandler(folder / ".fetch.log", maxBytes=2**20, backupCount=1)
    handler.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], format="%(asctime)s %(name)s %(message)s")
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another fetch writes to {folder}; wait for it or choose another --out", file=sys.stderr)
            return 2
        try:
            problem = crawl(plan)
        except OSError as error:
            problem = f"{error.strerror}: {error.filename or folder}"
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())

"""Which requests a crawl may send, and how fast: Scrapy middlewares, resolver and download handler.

No request goes to a private network, whatever a list, a redirect or a name server says. robots.txt is read by RFC
9309: absent (4xx) permits all, unreachable (5xx, no response) forbids all. A host gets one request at a time, and the
pause after each response is the longest of the chosen delay, the host's Crawl-delay and its Retry-After.
"""

from __future__ import annotations

import asyncio
import email.utils
from datetime import UTC, datetime
from ipaddress import IPv4Address
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

from scrapy import signals
from scrapy.core.downloader.handlers.http11 import HTTP11DownloadHandler
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest, StopDownload
from scrapy.http import Headers, Request, Response
from scrapy.resolver import CachingThreadedResolver
from scrapy.robotstxt import RobotParser
from twisted.internet.error import DNSLookupError
from w3lib.url import safe_url_string

from tasks.corpus.formats.web import HTML, PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrapy.core.downloader import Downloader
    from scrapy.crawler import Crawler
    from twisted.internet.base import ReactorBase
    from twisted.internet.defer import Deferred

AGENT = "ketcycle"
LOOPBACK = "KETCYCLE_LOOPBACK"
MAX_URL = 2083
MAX_ROBOTS = 2**20  # RFC 9309 asks for at least 500 KiB
LONG_S = 5.0  # longer pauses are printed
MAX_WAIT_S = 300.0  # longer pauses end the crawl of that host
PORTS = {"http": 80, "https": 443}
FORBID = b"User-agent: *\nDisallow: /"


class Refused(IgnoreRequest):
    """An address is skipped.

    Attributes:
        outcome: value of the column `outcome` in the table.
        detail: the reason in words.
    """

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome, self.detail = outcome, detail


def clean_address(text: str, loopback: bool) -> str:
    """Return an address in its canonical form: no fragment, no default port, characters quoted.

    Raises:
        Refused: it is no web address, names a user, or a place in a private network.
    """
    try:
        parts = urlsplit(text.strip())
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError as error:
        raise Refused("bad address", str(error)) from None
    if parts.scheme not in PORTS or not host:
        raise Refused("bad address", "it begins neither with http:// nor with https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise Refused("bad address", "it holds a user name or a password")
    if ":" in host:
        raise Refused("bad address", "IPv6 addresses are not fetched; name the host")
    if host.rstrip(".").rpartition(".")[2][:1].isdigit():  # no top-level domain begins so: it is an IP address
        try:
            address = IPv4Address(host)
        except ValueError:
            raise Refused("bad address", f"{host} is neither a host name nor an IPv4 address") from None
        if not may_ask(address, loopback):
            raise Refused("private address", host)
    netloc = host if port in (None, PORTS[parts.scheme]) else f"{host}:{port}"
    try:
        clean = safe_url_string(urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, "")))
    except ValueError as error:
        raise Refused("bad address", str(error)) from None
    if len(clean) > MAX_URL:
        raise Refused("bad address", f"more than {MAX_URL} characters")
    return clean


def may_ask(address: IPv4Address, loopback: bool) -> bool:
    """Return whether an IP address is public, or is loopback and loopback is allowed."""
    return (address.is_global and not address.is_multicast) or (loopback and address.is_loopback)


def media_type(headers: Headers) -> str:
    """Return the media type of a response without its parameters."""
    return (headers.get("Content-Type") or b"").decode("latin-1").partition(";")[0].strip().lower()


def retry_after_s(header: bytes | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), or None where it cannot be read."""
    text = (header or b"").decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())


class PublicResolver(CachingThreadedResolver):
    """Resolves names to public addresses only, so that a public name cannot lead into a private network."""

    refused: ClassVar[set[str]] = set()
    loopback = False

    @classmethod
    def from_crawler(cls, crawler: Crawler, reactor: ReactorBase) -> Self:
        """Create the resolver with the crawl's loopback setting."""
        made = super().from_crawler(crawler, reactor)
        made.loopback = crawler.settings.getbool(LOOPBACK)
        return made

    def getHostByName(self, name: str, timeout: Sequence[int] = ()) -> Deferred[str]:  # noqa: N802
        """Return the IPv4 address of a name; the result fails for a private one."""
        return super().getHostByName(name, timeout).addCallback(self._check, name)

    def _check(self, address: str, name: str) -> str:
        if not may_ask(IPv4Address(address), self.loopback):
            self.refused.add(name)
            raise DNSLookupError(f"{name} is {address}")
        return address


class Crawl(Protocol):
    """The part of the spider that the rules read and write.

    Attributes:
        hosts: netlocs that may be requested.
        seen: addresses given or reached by a redirect.
        closed: hosts that get no further request, with the reason.
        without_robots: netlocs whose robots.txt could not be fetched, with the reason.
    """

    hosts: set[str]
    seen: set[str]
    closed: dict[str, str]
    without_robots: dict[str, str]

    def tell(self, line: str) -> None:
        """Print a line of progress."""
        ...


class _Part:
    """A Scrapy component with access to its spider."""

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        """Create the component for a crawl."""
        return cls(crawler)

    @property
    def spider(self) -> Crawl:
        """The spider of the crawl."""
        found: Any = self.crawler.spider
        return found  # type: ignore[no-any-return]


class Gate(_Part):
    """Admits requests to public addresses of the hosts given, each address once."""

    def process_request(self, request: Request) -> None:
        """Check a request, redirects included.

        Raises:
            Refused: the request must not be sent.
        """
        url = clean_address(request.url, self.crawler.settings.getbool(LOOPBACK))
        if request.meta.get("dont_obey_robotstxt"):
            request.meta["download_maxsize"] = MAX_ROBOTS
            return
        spider, netloc = self.spider, urlsplit(url).netloc
        if netloc not in spider.hosts:
            raise Refused("off host", netloc)
        if request.meta.get("admitted") != url:  # a new request, not a retry
            if request.meta.get("redirect_times") and url in spider.seen:
                raise Refused("duplicate", f"leads to {url}")
            spider.seen.add(url)
            request.meta["admitted"] = url


class Obey(RobotsTxtMiddleware):
    """Scrapy's robots.txt middleware, one request of a site at a time.

    Of several requests that wait for the same robots.txt, Scrapy 2.19 gives the rules to the first alone; the others
    see none and pass (all of them await one Deferred, which hands its result on once).
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._turns: dict[str, asyncio.Lock] = {}

    async def robot_parser(self, request: Request) -> RobotParser | None:
        """Return the rules of the site of a request."""
        async with self._turns.setdefault(urlsplit(request.url).netloc, asyncio.Lock()):
            return await super().robot_parser(request)


class Robots(_Part):
    """Interprets responses for robots.txt by RFC 9309, after the retries."""

    def process_response(self, request: Request, response: Response) -> Response:
        """Return a response whose body holds the rules that apply."""
        if not request.meta.get("dont_obey_robotstxt") or response.status == 200:
            return response
        if response.status >= 500 or response.status == 429:
            return self._forbid(request, f"status {response.status}")
        return response.replace(body=b"")

    def process_exception(self, request: Request, exception: Exception) -> Response | None:
        """Forbid everything if there was no response."""
        if not request.meta.get("dont_obey_robotstxt") or isinstance(exception, IgnoreRequest):
            return None
        return self._forbid(request, f"{type(exception).__name__}: {exception}")

    def _forbid(self, request: Request, why: str) -> Response:
        asked = request.meta.get("redirect_urls", [request.url])[0]
        self.spider.without_robots[urlsplit(asked).netloc] = why
        return Response(request.url, body=FORBID)


class Handler(HTTP11DownloadHandler):
    """Drops queued requests to a host that asked for too long a pause."""

    async def download_request(self, request: Request) -> Response:
        """Send a request and return the response.

        Raises:
            Refused: the host is closed.
        """
        spider: Any = self.crawler.spider
        host = urlsplit(request.url).hostname
        if host in spider.closed:
            raise Refused("busy", spider.closed[host])
        return await super().download_request(request)


class Wire(_Part):
    """Closest to the network: keeps raw responses and aborts bodies of unwanted types."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        crawler.signals.connect(self.headers_received, signals.headers_received)

    def headers_received(self, headers: Headers, request: Request) -> None:
        """Abort a response that is no text before its body arrives.

        Raises:
            StopDownload: the response is delivered without its body.
        """
        if request.meta.get("kind") == "page" and media_type(headers) not in HTML + PLAIN:
            raise StopDownload(fail=False)

    def process_response(self, request: Request, response: Response) -> Response:
        """Keep the response before decompression."""
        request.meta["raw"] = response.copy()  # unpacking changes its headers
        return response


class Pace(_Part):
    """Sets the pause of each host after every response, before its next request is scheduled."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._delay_s: dict[str, float] = {}
        crawler.signals.connect(self.robots_parsed, signals.robots_parsed)
        crawler.signals.connect(self.response_downloaded, signals.response_downloaded)

    def robots_parsed(self, robotparser: RobotParser, request: Request) -> None:
        """Use a host's Crawl-delay where it is longer than the chosen delay."""
        host = urlsplit(request.url).hostname or ""
        delay = max(robotparser.crawl_delay(AGENT) or 0.0, self._base(host))
        self._delay_s[host] = delay
        if delay > MAX_WAIT_S:
            self._leave_alone(host, f"its robots.txt asks for {delay:.0f} s between requests")
        else:
            self._pause(host, delay)

    def response_downloaded(self, response: Response, request: Request) -> None:
        """Pause a host by its Retry-After, or exponentially without one."""
        host, pause = str(request.meta["download_slot"]), 0.0
        if response.status in (429, 503):
            asked = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
            tries = int(request.meta.get("retry_times", 0)) + 1
            pause = max(self._base(host), 1.0) * 2**tries if asked is None else asked
            if pause > MAX_WAIT_S:
                self._leave_alone(host, f"it asks to come back after {pause:.0f} s")
                return
            if pause >= LONG_S:
                self.spider.tell(f"{host} asks for a pause of {pause:.0f} s")
        since = monotonic() - self._downloader.slots[host].lastseen
        self._pause(host, max(pause, self._base(host)) + since)  # counted from the response

    def _base(self, host: str) -> float:
        return self._delay_s.get(host, self.crawler.settings.getfloat("DOWNLOAD_DELAY"))

    def _leave_alone(self, host: str, why: str) -> None:
        self.spider.closed[host] = why
        self._pause(host, 0.0)  # queued requests are refused one by one

    def _pause(self, host: str, seconds: float) -> None:
        """Set the time between the starts of two requests, also in Scrapy's settings for slots that it recreates."""
        self._downloader.per_slot_settings[host] = {"concurrency": 1, "delay": seconds, "jitter": 0.0}
        if host in self._downloader.slots:
            self._downloader.slots[host].delay = seconds

    @property
    def _downloader(self) -> Downloader:
        assert self.crawler.engine is not None  # noqa: S101
        return self.crawler.engine.downloader

"""The gateway as an ASGI application: passes requests on, and keeps what they were for the log.

Paths, fields, headers and bodies go through as they are, in both directions; a stream is passed on piece by piece. Ours
are /health, /metrics and /v1/feedback. Where the upstream cannot be reached the client gets 502 in OpenAI's form; where
it breaks off in the middle of an answer, the client's connection breaks off too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Count
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest
from starlette.responses import JSONResponse, Response
from yarl import URL

from tasks.serving.gateway.exchange import Exchange, rows_of
from tasks.serving.gateway.shares import Shares
from tasks.serving.protocol import FeedbackRequest, Refused, read_body, refusal
from tasks.serving.request_log import Feedback, Request, RequestLog
from tasks.serving.service import AnswerFigures, new_key

log = logging.getLogger("ketcycle.serving")

CONNECT_S = 60.0  # a busy machine accepts slowly; clients have their own limits
IDLE_S = 2.0  # that a connection to the upstream is kept; servers close theirs after 5 s and more
REMEMBERED = 65_536  # ids of answers
# Headers that belong to one connection (RFC 9110, section 7.6.1), or that the other side writes itself.
HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
EXPECT = b"expect"  # answered here, as the body is read here before it is sent on
HEADER_BYTES, HEADERS = 1 << 16, 1000  # of an answer's header and of how many headers; cookies and policies are long
AUTO = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True)
class Upstream:
    """A server that answers.

    Attributes:
        url: its address, without /v1.
        key: sent to it in place of the client's, None = the client's is passed on.
        model: version in the log where neither request nor answer names a model; of an engine of ours, always.
        ours: whether it is an engine that the gateway started, whose version we know better than it does.
    """

    url: str
    key: str | None = None
    model: str = ""
    ours: bool = False

    @classmethod
    def of(cls, url: str, key: str | None = None, model: str = "") -> Upstream:
        """Read an address with or without the /v1 that clients add."""
        return cls(url.rstrip("/").removesuffix("/v1"), key, model)


class Figures(AnswerFigures):
    """Prometheus metrics of a gateway; tokens are those that the upstream reports."""

    def __init__(self, requests: RequestLog, gateway: Gateway) -> None:
        super().__init__(requests, "byte")
        registry = self.registry
        self.energy_j = Counter("ketcycle_energy_joules", "Joules of the answers, median.", registry=registry)
        self.failed = Counter("ketcycle_upstream_failures", "Failures of the upstream.", ["kind"], registry=registry)
        running = Gauge("ketcycle_running", "Requests at the upstream.", registry=registry)
        running.set_function(lambda: gateway.running)


class Gateway:
    """The application.

    Attributes:
        running: requests at the upstream.
    """

    def __init__(self, upstream: Upstream, requests: RequestLog, shares: Shares | None, own_key: bool = False) -> None:
        """Prepare a gateway.

        Args:
            upstream: the server that answers.
            requests: the log.
            shares: shares the upstream's energy among requests, None = the log has none.
            own_key: whether clients send the gateway's key, which is not the upstream's business.
        """
        self.running = 0
        self._at: Count[str] = Count()
        self._upstream, self._log, self._shares = upstream, requests, shares
        self._drops = {b"host", EXPECT, *HOP} | ({b"authorization"} if own_key or upstream.key else set())
        self._given = [("Authorization", f"Bearer {upstream.key}")] if upstream.key else []
        self.figures = Figures(requests, self)
        self._names = _Names()
        self._session: aiohttp.ClientSession

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        match scope["method"], scope["path"]:
            case "GET" | "HEAD", "/health":
                await (await self._health())(scope, receive, send)
            case "GET", "/metrics":
                page = generate_latest(self.figures.registry)
                await Response(page, media_type=CONTENT_TYPE_LATEST)(scope, receive, send)
            case "POST", "/v1/feedback":
                await self._feedback(scope, await _body(receive))(scope, receive, send)
            case _:
                await self._forward(scope, receive, send)

    def switch(self, upstream: Upstream, shares: Shares | None) -> None:
        """Send requests to another upstream from now on; return when the former has none left. Waits in a thread."""
        former, self._shares = self._upstream.url, shares
        self._upstream = upstream
        while self._at[former]:
            time.sleep(0.05)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # cookies of one client's answer are no other client's
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=AUTO,
            trust_env=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
            max_headers=HEADERS,
        )
        if self._shares:
            await asyncio.to_thread(self._shares.read)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await asyncio.to_thread(self._log.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _health(self) -> Response:
        """Ask the upstream whether it lives; any answer counts."""
        try:
            async with self._session.get(f"{self._upstream.url}/v1/models", timeout=aiohttp.ClientTimeout(5)):
                said = {"status": "ok", "upstream": self._upstream.url}
                return JSONResponse(said)
        except (aiohttp.ClientError, TimeoutError) as error:
            return refusal(503, f"the upstream {self._upstream.url} does not answer ({_named(error)})")

    def _feedback(self, scope: Any, body: bytes) -> Response:
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        try:
            asked = read_body(FeedbackRequest, body, kind.decode("latin-1"))
        except Refused as error:
            return refusal(error.status, str(error), error.param)
        given = Feedback(self._names.last(f"{asked.id}-{asked.index}"), asked.rating, asked.comment, time.time())
        return JSONResponse({"logged": self._log.put(given)}, status_code=202)

    async def _forward(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        exchange = Exchange(new_key("gw"), scope["path"], body, time.time(), time.monotonic())
        packed = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"")
        exchange.asked_in = packed.decode("latin-1").strip().lower()
        upstream, shares = self._upstream, self._shares  # those of this request, whoever comes after
        self.running += 1
        self._at[upstream.url] += 1
        if shares:
            shares.opened()
        work = asyncio.create_task(self._pass(upstream, scope, exchange, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                exchange.finish, exchange.error = "cancelled", "the client closed its connection"
            with suppress(asyncio.CancelledError):
                await work
        finally:
            leaving.cancel()
            exchange.ended = time.monotonic()
            self.running -= 1
            self._at[upstream.url] -= 1
            if shares:
                shares.closed()
            self._note(exchange, upstream, shares)

    async def _pass(self, upstream: Upstream, scope: Any, exchange: Exchange, send: Any) -> None:
        begun = False
        try:
            async with await self._asked(upstream, scope, exchange.body) as answer:
                exchange.status = answer.status
                exchange.encoding = answer.headers.get("Content-Encoding", "").lower()
                own = {one.strip().lower().encode("latin-1") for one in answer.headers.get("Connection", "").split(",")}
                headers = [(n.lower(), value) for n, value in answer.raw_headers if n.lower() not in HOP | own]
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                begun = True
                with _ended_by_the_connection(answer):
                    async for chunk in answer.content.iter_any():
                        exchange.first = exchange.first or time.monotonic()
                        exchange.keep(chunk)
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except (aiohttp.ClientError, TimeoutError) as error:
            exchange.finish = "cut" if begun else "failed"
            unreachable = isinstance(error, aiohttp.ClientConnectorError | TimeoutError)
            where = "broke off its answer" if begun else "cannot be reached" if unreachable else "gave no answer"
            exchange.error = f"the upstream {where} ({_named(error)})"
            self.figures.failed.labels(exchange.finish).inc()
            log.warning("%s: %s", exchange.path, exchange.error)
            if begun:
                return  # the server closes the connection of an answer that is not complete
            status = 504 if isinstance(error, TimeoutError) else 502
            exchange.status = status
            code = "upstream_timeout" if status == 504 else f"upstream_{'unreachable' if unreachable else 'failed'}"
            await refusal(status, f"{exchange.error}; try again", code=code)(scope, _nothing, send)

    async def _asked(self, upstream: Upstream, scope: Any, body: bytes) -> aiohttp.ClientResponse:
        """Send a request; once more where the upstream closed the connection before it could have read all of it."""
        query = f"?{scope['query_string'].decode('ascii')}" if scope["query_string"] else ""
        url = URL(f"{upstream.url}{_path(scope['raw_path'].decode('ascii'))}{query}", encoded=True)
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"] if n not in self._drops]
        asked = partial(
            self._session.request,
            scope["method"],
            url,
            headers=[*headers, *self._given],
            data=body or None,
            allow_redirects=False,
            compress=False,
        )
        try:
            return await asked()
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientOSError as error:
            if "write" not in str(error):
                raise
            return await asked()

    def _note(self, exchange: Exchange, upstream: Upstream, shares: Shares | None) -> None:
        figures = self.figures
        if exchange.first is not None:
            figures.first.observe(exchange.first - exchange.began)
        figures.latency.observe(exchange.ended - exchange.began)
        if exchange.logged:
            self._log.put(self._rows(exchange, upstream, shares))

    def _rows(self, exchange: Exchange, upstream: Upstream, shares: Shares | None) -> Callable[[], list[Request]]:
        def rows() -> list[Request]:
            usage = shares.between(exchange.began, exchange.ended) if shares else None
            found = rows_of(exchange, usage, shares.name if shares else "", upstream.model, upstream.ours)
            names = [self._names.of(row.request_id, f"{exchange.key}-{at}") for at, row in enumerate(found)]
            found = [replace(row, request_id=name) for row, name in zip(found, names, strict=True)]
            self.figures.prompt_tokens.inc(sum(row.prompt_tokens or 0 for row in found))
            self.figures.completion_tokens.inc(sum(row.completion_tokens or 0 for row in found))
            if usage:
                self.figures.energy_j.inc(self._log.energy_j(usage))
            return found

        return rows


class _Names:
    """Names of rows: the id that the upstream gave the answer, ours where it gave the same one before.

    Some servers draw ids from a thousand numbers, or have one only. The latest `REMEMBERED` ids are known.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[str, str] = OrderedDict()

    def of(self, given: str, ours: str) -> str:
        """Return the name of a row."""
        name = ours if given in self._last else given
        self._last[given] = name
        self._last.move_to_end(given)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return name

    def last(self, given: str) -> str:
        """Return the name of the last row with an id of the upstream."""
        return self._last.get(given, given)


@contextmanager
def _ended_by_the_connection(answer: aiohttp.ClientResponse) -> Iterator[None]:
    """End the reading of an answer when its connection is lost.

    aiohttp 3.14 says nothing where the answer is malformed behind its head, and its reader waits for ever.
    """

    def end(_: object = None) -> None:
        if not answer.content.is_eof() and answer.content.exception() is None:
            answer.content.set_exception(aiohttp.ClientPayloadError("what followed is no HTTP"))

    protocol = None if answer.connection is None else answer.connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is None:
        if protocol is not None:  # lost already
            end()
        yield
        return

    def lost(done: asyncio.Future[None]) -> None:
        if not done.cancelled():
            done.exception()  # else its loss is reported a second time
        end()

    closed.add_done_callback(lost)
    try:
        yield
    finally:
        closed.remove_done_callback(lost)


def _path(target: str) -> str:
    """Return the path that was asked for; a whole address, as clients of proxies send it, names no other host here."""
    return target if target.startswith("/") else f"/{target.partition('://')[2].partition('/')[2]}"


async def _body(receive: Any) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _named(error: BaseException) -> str:
    """Return the kind and reason of a failure, without an address that may hold a secret."""
    reason = getattr(error, "strerror", None) or (str(error) if isinstance(error, aiohttp.ClientPayloadError) else "")
    if isinstance(error, aiohttp.ClientResponseError):
        reason = (
            error.message.splitlines()[0].split(": b'")[0].rstrip(":") if error.message else ""
        )  # without what was sent
    return f"{type(error).__name__}{': ' + reason.splitlines()[0][:200] if reason else ''}"

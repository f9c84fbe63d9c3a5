"""What every request passes before the server or the gateway answers it: key, limits, body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.serving.protocol import refusal

BODY_S = 30.0  # a slower body is not waited for
OPEN = ("/health",)  # answered without a key and beyond all limits
CALLERS = 4096  # whose rates are remembered


@dataclass(frozen=True)
class Limits:
    """What is asked of each request.

    Attributes:
        key: the API key that everything but /health needs, None = no key.
        requests: requests answered at once; more get 503.
        body_bytes: longest body; a longer one gets 413 whether it states its length or not.
        per_minute: POST requests of one caller a minute, 0 = no limit; more get 429.
        origins: web pages that a browser lets ask the server (CORS), `*` = all, none by default.
    """

    key: str | None = None
    requests: int = 512
    body_bytes: int = 1 << 20
    per_minute: int = 0
    origins: tuple[str, ...] = ()


class Edge:
    """ASGI middleware that refuses what `Limits` forbid, reads the body, and counts answers by status."""

    def __init__(self, app: Any, limits: Limits, count: Callable[[int], None]) -> None:
        self._app, self._limits, self._count = app, limits, count
        self._running = 0
        self._rates = Rates(limits.per_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on with its body read and counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._count(message["status"])
            await send(message)

        if scope["path"] in OPEN:
            await self._app(scope, receive, counted)
            return
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, counted)
            return
        self._running += 1
        try:
            await self._pass(scope, receive, counted)
        finally:
            self._running -= 1

    def _refused(self, scope: Any) -> Any:
        limits = self._limits
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if limits.key is not None and not hmac.compare_digest(given, f"Bearer {limits.key}".encode()):
            said = "this server asks for an API key: Authorization: Bearer KEY"
            return refusal(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self._running >= limits.requests:
            said = f"{self._running} requests are being answered, which is the limit; try again"
            return refusal(503, said, code="overloaded", headers={"Retry-After": "1"})
        if limits.per_minute and scope["method"] == "POST":
            wait_s = self._rates.wait_s(given or str((scope.get("client") or [""])[0]).encode())
            if wait_s > 0:
                said = f"more than {limits.per_minute} requests a minute; try again in {wait_s:.1f} s"
                headers = {"Retry-After": str(int(wait_s) + 1)}
                return refusal(429, said, code="rate_limit_exceeded", headers=headers)
        return None

    async def _pass(self, scope: Any, receive: Any, send: Any) -> None:
        chunks: list[dict[str, Any]] = []
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(stated) > self._limits.body_bytes:  # not read, nor asked for where the client waits for 100
            await self._too_long(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_S):
                whole = await _read(receive, chunks, self._limits.body_bytes)
        except TimeoutError:
            await refusal(408, f"the body did not come within {BODY_S:g} s")(scope, receive, send)
            return
        if not whole:
            await self._too_long(scope, receive, send)
            return

        async def replay() -> Any:
            return chunks.pop(0) if chunks else await receive()

        await self._app(scope, replay, send)

    async def _too_long(self, scope: Any, receive: Any, send: Any) -> None:
        said = refusal(413, f"the body has more than {self._limits.body_bytes} bytes", headers={"Connection": "close"})
        await said(scope, receive, send)


class Rates:
    """Token buckets, one for each caller, known by a digest of its key or by its address; the oldest are forgotten."""

    def __init__(self, per_minute: int) -> None:
        self._per_s, self._most = per_minute / 60, float(max(1, per_minute))
        self._callers: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # tokens left, at which time

    def wait_s(self, caller: bytes, now: float | None = None) -> float:
        """Take one request of a caller's share; return the seconds until there is one where there is none now."""
        now = time.monotonic() if now is None else now
        name = hashlib.blake2b(caller, digest_size=16).digest()
        left, since = self._callers.pop(name, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_s)
        allowed = left >= 1
        self._callers[name] = (left - allowed, now)
        if len(self._callers) > CALLERS:
            self._callers.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s


async def _read(receive: Any, chunks: list[dict[str, Any]], most: int) -> bool:
    """Read a body; False as soon as it is too long."""
    size, more = 0, True
    while more:
        message = await receive()
        chunks.append(message)
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        if size > most:
            return False
    return True


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return what Starlette's CORS middleware needs, which answers preflight requests before any key is asked.

    A page may send credentials where its origin is named: this server reads no cookies, so they give it nothing.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "allow_credentials": "*" not in origins,
        "allow_private_network": True,
        "expose_headers": ["Retry-After", "WWW-Authenticate"],
    }

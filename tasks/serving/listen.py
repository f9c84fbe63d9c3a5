"""Listening: an address, its protection, and a process that stops when it is told to or its parent is gone."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from infra.access import Guard, require_guard, shown
from infra.errors import BadInput
from infra.lake import write_atomic
from tasks.serving.edge import Limits

log = logging.getLogger("ketcycle.serving")

BACKLOG = 512  # connections that wait to be accepted


@dataclass(frozen=True)
class Place:
    """Where a server listens, and for whom.

    Attributes:
        host: address to listen on.
        port: 0 = a free one.
        guard: certificate and key; without both only loopback addresses are bound.
        origins: web pages that browsers let ask the server.
        per_minute: requests of one caller a minute, 0 = no limit.
        ready: written with the address when the server listens.
        stop_with_parent: stop when standard input closes.
    """

    host: str = "127.0.0.1"
    port: int = 0
    guard: Guard = field(default_factory=Guard)
    origins: tuple[str, ...] = ()
    per_minute: int = 0
    ready: Path | None = None
    stop_with_parent: bool = False


class _Server(uvicorn.Server):
    """Says that it listens by a file with its address."""

    def __init__(self, config: uvicorn.Config, url: str, ready: Path | None) -> None:
        super().__init__(config)
        self._url, self._ready = url, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        log.info("listening on %s", self._url)
        if self._ready:
            write_atomic(self._ready, json.dumps({"url": self._url, "pid": os.getpid()}))

    def stop_at_end_of_input(self) -> None:
        """Stop when standard input closes: a parent that was killed leaves no server behind."""
        sys.stdin.buffer.read()
        self.should_exit = True


def listen(place: Place, make: Callable[[Limits], Any]) -> None:
    """Serve an application until told to stop.

    Args:
        place: where.
        make: makes the application once the port is bound, so that a port that is taken is reported at once.

    Raises:
        BadInput: the address is not loopback and there is no certificate or no key, or the port is taken.
    """
    require_guard(f"serving on {place.host}", place.host, place.guard)
    key = place.guard.key()
    with _bound(place.host, place.port) as listener:
        certificate = place.guard.certificate
        config = uvicorn.Config(
            make(Limits(key, per_minute=place.per_minute, origins=place.origins)),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=30,
            server_header=False,
            date_header=False,
            ws="none",
            ssl_certfile=certificate.chain if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        url = f"{'https' if certificate else 'http'}://{shown(place.host)}:{listener.getsockname()[1]}"
        server = _Server(config, url, place.ready)
        if place.stop_with_parent:
            threading.Thread(target=server.stop_at_end_of_input, daemon=True).start()
        server.run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small pieces at once (TCP_NODELAY); else they wait 40 ms for the client.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, 0 = any") from None
    return listener

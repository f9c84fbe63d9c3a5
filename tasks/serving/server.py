"""The process of the completion server.

`python -m tasks.serving.server --model DIR --home DIR --run ID --port 0 --ready-file F` serves on loopback for a stage
of a run; `ketcycle serve` is the same server for people.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from infra.access import Guard, require_guard, shown
from infra.errors import BadInput
from infra.lake import write_atomic
from infra.shared import open_lake
from tasks.serving.app import create_app
from tasks.serving.edge import Limits
from tasks.serving.engine import ROWS, Engine
from tasks.serving.request_log import RequestLog, Rules
from tasks.serving.service import MAX_WAITING, Service
from tasks.serving.source import Found, Source

log = logging.getLogger("ketcycle.serving")


@dataclass(frozen=True)
class Serving:
    """What is served, and where.

    Attributes:
        source: the model.
        home: state folder; its lake gets the request log.
        rules: what the log keeps.
        host: address to listen on.
        port: 0 = a free one.
        guard: certificate and key; without both only loopback addresses are bound.
        origins: web pages that browsers let ask the server.
        per_minute: requests of one caller a minute, 0 = no limit.
        threads: torch threads.
        rows: texts written side by side at most.
        follow_s: seconds between two looks at the registry.
        ready: written with the address when the server listens.
        stop_with_parent: stop when standard input closes.
    """

    source: Source
    home: Path
    rules: Rules
    host: str = "127.0.0.1"
    port: int = 0
    guard: Guard = field(default_factory=Guard)
    origins: tuple[str, ...] = ()
    per_minute: int = 0
    threads: int = 1
    rows: int = ROWS
    follow_s: float = 5.0
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


def serve(asked: Serving) -> None:
    """Serve until told to stop; what was asked before is answered, and the log is written.

    Raises:
        BadInput: the address is not loopback and there is no certificate or no key, the port is taken, or the model
            cannot be found.
    """
    require_guard(f"serving on {asked.host}", asked.host, asked.guard)
    key = asked.guard.key()
    with _bound(asked.host, asked.port) as listener:  # before the model is read: a port that is taken is said at once

        def load(found: Found) -> Engine:
            return Engine(found.folder, asked.threads, found.version, asked.rows)

        engine = load(asked.source.find())
        log.info("%s, version %s, %d texts side by side", asked.source.name, engine.version, engine.rows)
        service = Service(engine, RequestLog(open_lake(asked.home), asked.rules), asked.source, load)
        certificate = asked.guard.certificate
        config = uvicorn.Config(
            create_app(service, Limits(key, per_minute=asked.per_minute, origins=asked.origins), asked.follow_s),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=30,
            server_header=False,
            ssl_certfile=certificate.chain if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        url = f"{'https' if certificate else 'http'}://{shown(asked.host)}:{listener.getsockname()[1]}"
        server = _Server(config, url, asked.ready)
        if asked.stop_with_parent:
            threading.Thread(target=server.stop_at_end_of_input, daemon=True).start()
        server.run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_WAITING)
    except OSError as error:
        listener.close()
        raise BadInput(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, 0 = any") from None
    return listener


def main(arguments: list[str] | None = None) -> None:
    """Serve for a stage of a run."""
    parser = argparse.ArgumentParser(prog="tasks.serving.server", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="folder of the model with its tokenizer, or models:/NAME@ALIAS")
    parser.add_argument("--home", type=Path, required=True, help="state folder; its lake gets the request log")
    parser.add_argument("--run", required=True, help="run that the requests belong to")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--ready-file", type=Path, help="written with the address when the server listens")
    parser.add_argument("--version", default="", help="version of the model in the log; default: digest of its weights")
    parser.add_argument("--rows", type=int, default=ROWS, help="texts written side by side at most")
    parser.add_argument("--follow-s", type=float, default=5.0, help="seconds between two looks at the registry")
    parser.add_argument("--flush-s", type=float, default=2.0, help="longest time that a row waits for the lake")
    parser.add_argument("--text", choices=("hashed", "redacted", "plain"), default="hashed", help="texts in the log")
    parser.add_argument("--allow-origin", action="append", default=[], help="web page that may ask from a browser")
    parser.add_argument("--no-log", action="store_true", help="log nothing")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when standard input closes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    serve(
        Serving(
            Source.parse(options.model, label=options.version),
            options.home,
            Rules(options.run, options.text, flush_s=options.flush_s, enabled=not options.no_log),
            port=options.port,
            origins=tuple(options.allow_origin),
            rows=options.rows,
            follow_s=options.follow_s,
            ready=options.ready_file,
            stop_with_parent=options.stop_with_parent,
        )
    )


if __name__ == "__main__":
    main()

"""The process of the gateway.

`python -m tasks.serving.gateway.server --upstream URL --home DIR --port 0 --ready-file F` serves on loopback;
`ketcycle serve --upstream URL` is the same for people.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware

from infra.access import read_secret
from infra.errors import BadInput
from infra.shared import open_lake
from tasks.serving.edge import Edge, Limits, cors
from tasks.serving.gateway.app import Gateway, Upstream
from tasks.serving.gateway.shares import Shares, source_of
from tasks.serving.listen import Place, listen
from tasks.serving.request_log import RequestLog, Rules

log = logging.getLogger("ketcycle.serving")

BODY_BYTES = 64 << 20  # images and audio are sent in bodies
STREAMS = 1024  # requests at once
WAITING = 8192  # rows that wait for the log


@dataclass(frozen=True)
class Fronting:
    """What stands behind the gateway, and where it listens.

    Attributes:
        upstream: address of an OpenAI-compatible server, with or without /v1.
        home: state folder; its lake gets the request log.
        rules: what the log keeps.
        place: where the gateway listens.
        key_file: file with the key that the upstream asks for, None = the clients' keys are passed on.
        model: version in the log where neither request nor answer names a model.
        meter: address of a page of Prometheus metrics with the upstream's CPU seconds or joules, empty = none.
    """

    upstream: str
    home: Path
    rules: Rules
    place: Place = field(default_factory=Place)
    key_file: Path | None = None
    model: str = ""
    meter: str = ""


def front(asked: Fronting) -> None:
    """Serve until told to stop; requests received before are answered, and the log is written.

    Raises:
        BadInput: an address or a key that cannot be used, or a port that is taken.
    """
    for address in (asked.upstream, asked.meter):
        if address and (urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname):
            raise BadInput(f"a server is named http://HOST:PORT or https://HOST, not {address!r}")
    key = read_secret(asked.key_file) if asked.key_file else None
    upstream = Upstream.of(asked.upstream, key, asked.model)

    def make(limits: Limits) -> Any:
        source = source_of(upstream.url, asked.meter)
        log.info("upstream %s; energy: %s", upstream.url, source.name if source else "not known, no --meter given")
        gateway = Gateway(
            upstream,
            RequestLog(open_lake(asked.home), asked.rules),
            Shares(source) if source else None,
            own_key=limits.key is not None,
        )
        wider = Limits(limits.key, STREAMS, BODY_BYTES, limits.per_minute, limits.origins)
        edge = Edge(gateway, wider, lambda status: gateway.figures.responses.labels(str(status)).inc())
        return CORSMiddleware(edge, **cors(limits.origins)) if limits.origins else edge

    listen(asked.place, make)


def main(arguments: list[str] | None = None) -> None:
    """Serve for a test or a stage."""
    parser = argparse.ArgumentParser(prog="tasks.serving.gateway.server")
    parser.add_argument("--upstream", required=True, help="address of an OpenAI-compatible server")
    parser.add_argument("--home", type=Path, required=True, help="state folder; its lake gets the request log")
    parser.add_argument("--run", default="serve", help="run that the requests belong to")
    parser.add_argument("--port", type=int, default=0, help="0 = a free one")
    parser.add_argument("--ready-file", type=Path, help="written with the address when the server listens")
    parser.add_argument("--key-file", type=Path, help="file with the key that the upstream asks for")
    parser.add_argument("--meter", default="", help="page of Prometheus metrics of the upstream")
    parser.add_argument("--flush-s", type=float, default=2.0, help="longest time that a row waits for the lake")
    parser.add_argument("--text", choices=("hashed", "redacted", "plain"), default="hashed", help="texts in the log")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when standard input closes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    front(
        Fronting(
            options.upstream,
            options.home,
            Rules(options.run, options.text, flush_s=options.flush_s, capacity=WAITING),
            Place(port=options.port, ready=options.ready_file, stop_with_parent=options.stop_with_parent),
            options.key_file,
            meter=options.meter,
        )
    )


if __name__ == "__main__":
    main()

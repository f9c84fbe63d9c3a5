"""The process of the gateway.

`python -m tasks.serving.gateway.server --upstream URL --home DIR --port 0 --ready-file F` serves on loopback;
`ketcycle serve --upstream URL` is the same for people.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware

from infra.access import read_secret
from infra.errors import BadInput
from infra.shared import open_lake
from tasks.serving.edge import Edge, Limits, cors
from tasks.serving.gateway.app import Gateway, Upstream
from tasks.serving.gateway.engines import Engine, Started, follow
from tasks.serving.gateway.shares import Shares, source_of
from tasks.serving.listen import Place, listen
from tasks.serving.request_log import RequestLog, Rules

log = logging.getLogger("ketcycle.serving")

BODY_BYTES = 64 << 20  # images and audio are sent in bodies
STREAMS = 1024  # requests at once
SWITCH_S = 2e-4  # that the log's thread keeps the interpreter while an answer waits; Python's default is 25 times that
WAITING = 8192  # rows that wait for the log


@dataclass(frozen=True)
class Fronting:
    """The upstream of the gateway, and where it listens.

    Attributes:
        upstream: address of an OpenAI-compatible server, with or without /v1, or an engine to be started.
        home: state folder; its lake gets the request log.
        rules: what the log keeps.
        place: where the gateway listens.
        key_file: file with the key that the upstream asks for, None = the clients' keys are passed on.
        model: version in the log where neither request nor answer names a model.
        meter: address of a page of Prometheus metrics with the upstream's CPU seconds or joules, empty = none.
        follow_s: seconds between two looks whether an engine's model has changed.
    """

    upstream: str | Engine
    home: Path
    rules: Rules
    place: Place = field(default_factory=Place)
    key_file: Path | None = None
    model: str = ""
    meter: str = ""
    follow_s: float = 5.0


def front(asked: Fronting) -> None:
    """Serve until told to stop; requests received before are answered, and the log is written.

    Raises:
        BadInput: an address or a key that cannot be used, or a port that is taken.
    """
    sys.setswitchinterval(SWITCH_S)
    logging.getLogger("uvicorn.error").addFilter(_not_broken_off)
    address = asked.upstream if isinstance(asked.upstream, str) else ""
    for given in (address, asked.meter):
        if given and (urlsplit(given).scheme not in ("http", "https") or not urlsplit(given).hostname):
            raise BadInput(f"a server is named http://HOST:PORT or https://HOST, not {given!r}")
    key = read_secret(asked.key_file) if asked.key_file else None
    if isinstance(asked.upstream, Engine):
        asked.upstream.check()
        started = asked.upstream.start(asked.upstream.source.find())
        with ExitStack() as stack:
            make = partial(_application, asked, _upstream(started), stack=stack, started=started)
            stack.callback(started.stop)
            listen(asked.place, make)
    else:
        listen(asked.place, partial(_application, asked, Upstream.of(address, key, asked.model)))


def _not_broken_off(record: logging.LogRecord) -> bool:
    """Leave out that an answer is not complete: the gateway says itself where an upstream broke off, and why."""
    return "without completing response" not in record.getMessage()


def _upstream(started: Started) -> Upstream:
    return Upstream(started.url, model=started.version, ours=True)


def _application(
    asked: Fronting,
    upstream: Upstream,
    limits: Limits,
    stack: ExitStack | None = None,
    started: Started | None = None,
) -> Any:
    """Return the gateway with its limits; `stack` ends what follows the registry for a started engine."""
    shares = _shares(upstream, asked.meter)
    gateway = Gateway(upstream, RequestLog(open_lake(asked.home), asked.rules), shares, own_key=limits.key is not None)
    if started and stack and isinstance(asked.upstream, Engine) and asked.upstream.source.moves:

        def switch(successor: Started) -> None:
            present = _upstream(successor)
            fresh = _shares(present, asked.meter)
            if fresh:
                fresh.read()
            gateway.switch(present, fresh)

        stack.callback(follow(asked.upstream, started, switch, asked.follow_s).set)
    wider = Limits(limits.key, STREAMS, BODY_BYTES, limits.per_minute, limits.origins)
    edge = Edge(gateway, wider, lambda status: gateway.figures.responses.labels(str(status)).inc())
    whole = {**cors(limits.origins), "allow_methods": ["*"]}  # the upstream has others than ours
    return CORSMiddleware(edge, **whole) if limits.origins else edge


def _shares(upstream: Upstream, meter: str) -> Shares | None:
    source = source_of(upstream.url, meter)
    log.info("upstream %s; energy: %s", upstream.url, source.name if source else "not known, no --meter given")
    return Shares(source) if source else None


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

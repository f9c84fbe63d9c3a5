"""The process of the completion server.

`python -m tasks.serving.server --model DIR --home DIR --run ID --port 0 --ready-file F` serves on loopback for a stage
of a run; `ketcycle serve` is the same server for people.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from fastapi import FastAPI

import infra.processes.warm  # noqa: F401  (before torch and transformers)
from infra.shared import open_lake
from tasks.model.recipe import Form
from tasks.serving.app import create_app
from tasks.serving.edge import Limits
from tasks.serving.engine import ROWS, Engine
from tasks.serving.listen import Place, listen
from tasks.serving.request_log import RequestLog, Rules
from tasks.serving.service import Service
from tasks.serving.source import Found, Source

log = logging.getLogger("ketcycle.serving")


@dataclass(frozen=True)
class Serving:
    """What is served, and where.

    Attributes:
        source: the model.
        home: state folder; its lake gets the request log.
        rules: what the log keeps.
        place: where it listens.
        threads: torch threads.
        rows: texts written side by side at most.
        follow_s: seconds between two looks at the registry.
        form: number format of the weights, None = what the model card chose.
    """

    source: Source
    home: Path
    rules: Rules
    place: Place = field(default_factory=Place)
    threads: int = 1
    rows: int = ROWS
    follow_s: float = 5.0
    form: Form | None = None


def serve(asked: Serving) -> None:
    """Serve until told to stop; requests received before are answered, and the log is written.

    Raises:
        BadInput: the address is not loopback and there is no certificate or no key, the port is taken, or the model
            cannot be found.
    """

    def load(found: Found) -> Engine:
        return Engine(found.folder, asked.threads, found.version, asked.rows, asked.form or found.form)

    def make(limits: Limits) -> FastAPI:
        engine = load(asked.source.find())
        log.info("%s, version %s, %d texts side by side", asked.source.name, engine.version, engine.rows)
        service = Service(engine, RequestLog(open_lake(asked.home), asked.rules), asked.source, load)
        return create_app(service, limits, asked.follow_s)

    listen(asked.place, make)


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
    parser.add_argument("--form", choices=get_args(Form), help="number format of the weights; default: the card's")
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
            Place(
                port=options.port,
                origins=tuple(options.allow_origin),
                ready=options.ready_file,
                stop_with_parent=options.stop_with_parent,
            ),
            rows=options.rows,
            follow_s=options.follow_s,
            form=options.form,
        )
    )


if __name__ == "__main__":
    main()

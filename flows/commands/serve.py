"""The command that serves a model: `serve`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from flows.commands.console import Home, clear_errors, err
from flows.commands.standing import Port
from infra import settings
from infra.settings import LogText

MODEL = "models:/ketcycle@champion"


def serve(
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a folder in the transformers format.")
    ] = MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; not loopback: needs TLS and a key.")] = "127.0.0.1",
    port: Port = None,
    name: Annotated[str, typer.Option(help="Name of the model in the API; default: the registry's.")] = "",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Texts written side by side at most.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    follow: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks whether the alias moved.")] = 5.0,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Log requests to the lake.")] = True,
    log_text: Annotated[LogText | None, typer.Option(help="Texts in the log; default: setting log_text.")] = None,
    log_days: Annotated[float | None, typer.Option(min=0, help="Days that the log is kept; 0 = for ever.")] = None,
    log_flush: Annotated[float, typer.Option(min=0.05, help="Seconds that a row waits for the lake at most.")] = 2.0,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web page that may ask from a browser (CORS); several times, * = all.")
    ] = None,
    rate: Annotated[int, typer.Option(min=0, help="Requests of one caller a minute, 0 = no limit.")] = 0,
    tls: Annotated[bool, typer.Option("--tls", help="TLS and key on loopback too.")] = False,
    home: Home = None,
) -> None:
    """Serve a model by the OpenAI API: completions, batched, streamed and logged; Ctrl-C stops it."""
    with clear_errors():
        loaded = settings.load(home=home, serve_port=port, log_text=log_text, log_days=log_days)
        settings.quiet_libraries(loaded.home)
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("ketcycle").setLevel(logging.INFO)
        from infra.access import Guard, is_loopback
        from tasks.serving.request_log import Rules
        from tasks.serving.server import Serving
        from tasks.serving.server import serve as run
        from tasks.serving.source import Source

        guard = Guard.of(loaded.home) if tls or not is_loopback(host) else Guard()
        asked = Serving(
            Source.parse(model, name),
            loaded.home,
            Rules("serve", loaded.log_text, loaded.log_days, log_flush, enabled=log),
            host=host,
            port=_port(loaded),
            guard=Guard(guard.certificate, loaded.api_key_file or guard.key_file),
            origins=tuple(allow_origin or ()),
            per_minute=rate,
            threads=threads,
            rows=batch,
            follow_s=follow,
        )
        try:
            run(asked)
        except KeyboardInterrupt:
            err.print("stopped; all requests are answered and logged", highlight=False)


def _port(loaded: settings.Settings) -> int:
    """Return the port that was asked for, or another where nobody asked for just that one."""
    from infra.standing import choose_port

    return choose_port(loaded, "serve_port")

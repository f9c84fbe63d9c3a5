"""Command `serve`: serve a model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.console import Home, clear_errors, err
from flows.commands.up import Port
from infra import settings
from infra.settings import LogText
from tasks.model.recipe import Form

MODEL = "models:/ketcycle@champion"
EngineName = Literal["builtin", "transformers", "llama.cpp", "vllm"]


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, or a folder in the transformers format; with --upstream "
            f"the version to log for answers that name none. Default {MODEL}."
        ),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Inference engine; all but builtin need an extra.")] = "builtin",
    upstream: Annotated[
        str | None, typer.Option(help="Proxy this OpenAI-compatible server instead: http://HOST:PORT.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with the API key of the upstream.")] = None,
    meter: Annotated[str, typer.Option(help="Prometheus page with the upstream's CPU seconds or joules.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; not loopback: needs TLS and a key.")] = "127.0.0.1",
    port: Port = None,
    name: Annotated[str, typer.Option(help="Name of the model in the API; default: the registry's.")] = "",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Maximum number of texts generated at once.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Threads; texts are split among them.")] = 1,
    form: Annotated[
        Form | None, typer.Option(help="Number format of the weights (builtin); default: what the model card chose.")
    ] = None,
    follow: Annotated[float, typer.Option(min=0.1, help="Seconds between checks of the alias.")] = 5.0,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Log requests to the lake.")] = True,
    log_text: Annotated[LogText | None, typer.Option(help="Texts in the log; default: setting log_text.")] = None,
    log_days: Annotated[float | None, typer.Option(min=0, help="Days to keep the log; 0 = for ever.")] = None,
    log_flush: Annotated[float, typer.Option(min=0.05, help="Maximum seconds before a row is written.")] = 2.0,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin that CORS allows; may be repeated, * = all.")
    ] = None,
    rate: Annotated[int, typer.Option(min=0, help="Maximum requests per caller and minute, 0 = no limit.")] = 0,
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS and a key on loopback too.")] = False,
    home: Home = None,
) -> None:
    """Serve a model by the OpenAI API, or proxy a server that does, and log requests; Ctrl-C stops it."""
    with clear_errors():
        loaded = settings.load(home=home, serve_port=port, log_text=log_text, log_days=log_days)
        settings.quiet_libraries(loaded.home)
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("ketcycle").setLevel(logging.INFO)
        from infra.access import Guard, is_loopback
        from infra.errors import BadInput
        from tasks.serving.listen import Place
        from tasks.serving.request_log import Rules

        guard = Guard.of(loaded.home) if tls or not is_loopback(host) else Guard()
        place = Place(
            host,
            _port(loaded),
            Guard(guard.certificate, loaded.api_key_file or guard.key_file),
            tuple(allow_origin or ()),
            rate,
        )
        rules = Rules("serve", loaded.log_text, loaded.log_days, log_flush, capacity=8192, enabled=log)
        if upstream and engine != "builtin":
            raise BadInput("give --upstream for a running server, or --engine to start one, not both")
        if upstream is None and (key_file or meter):
            raise BadInput("--key-file and --meter belong to --upstream")
        run: Callable[[], None]
        if upstream is None and engine == "builtin":
            from tasks.serving.server import Serving
            from tasks.serving.server import serve as run_builtin
            from tasks.serving.source import Source

            source = Source.parse(model or MODEL, name)
            run = partial(run_builtin, Serving(source, loaded.home, rules, place, threads, batch, follow, form))
        else:
            from tasks.serving.gateway.engines import Engine
            from tasks.serving.gateway.server import Fronting, front
            from tasks.serving.source import Source

            behind: str | Engine = upstream or Engine(
                engine, Source.parse(model or MODEL, name), loaded.home / "engines", threads, batch
            )
            run = partial(front, Fronting(behind, loaded.home, rules, place, key_file, model or "", meter, follow))
        try:
            run()
        except KeyboardInterrupt:
            err.print("stopped; all requests are answered and logged", highlight=False)


def _port(loaded: settings.Settings) -> int:
    """Return the configured port; if only the default is configured and taken, a free one."""
    from infra.installation.services import choose_port

    return choose_port(loaded, "serve_port")

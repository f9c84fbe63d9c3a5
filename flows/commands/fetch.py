"""Command `fetch`: web pages into WARC files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, out, print_value
from flows.commands.display import PlainLines
from infra import settings


def fetch(
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the WARC files; an earlier crawl there is continued.")
    ],
    urls: Annotated[Path | None, typer.Option(help="Text file, one address a line.")] = None,
    sitemap: Annotated[
        list[str] | None, typer.Option(help="Address of a sitemap, or of a robots.txt that names one; may be repeated.")
    ] = None,
    contact: Annotated[
        str | None,
        typer.Option(help="Your web or mail address, sent in the user agent; default: the setting `contact`."),
    ] = None,
    delay: Annotated[float, typer.Option(min=0.01, help="Pause in seconds after each response of a host.")] = 1.0,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="Largest page in bytes, compressed and decompressed.")
    ] = 5_000_000,
    max_pages: Annotated[int, typer.Option(min=1, help="Most pages of one host.")] = 10_000,
    max_total: Annotated[int, typer.Option(min=1, help="Most pages of all hosts.")] = 100_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Timeout of one page in seconds.")] = 30.0,
    retries: Annotated[int, typer.Option(min=0, help="Retries of a failed page.")] = 2,
    allow_loopback: Annotated[
        bool,
        typer.Option(
            "--allow-loopback", help="Allow addresses of this machine; the default is the public internet only."
        ),
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the pages of a list or a sitemap into WARC files, which --corpus reads.

    robots.txt is obeyed, a host gets one request at a time, and only hosts named by the list or by the address of a
    sitemap are requested. Links are not followed. urls.csv in the folder has the outcome of each address.
    """
    from tasks.corpus.crawling.fetch import Order, fetch, render

    with clear_errors():
        loaded = settings.load(home=home)
        limits: dict[str, float | int | bool] = {
            "delay_s": delay,
            "timeout_s": timeout,
            "retries": retries,
            "max_bytes": max_bytes,
            "max_pages": max_pages,
            "max_total": max_total,
            "loopback": allow_loopback,
        }
        lines = PlainLines(lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
        chosen = loaded.contact if contact is None else contact
        found = fetch(Order(out_folder, chosen, urls, tuple(sitemap or ()), limits), lines.say)
        if as_json:
            print_value(found, as_json)
        else:
            out.print(render(found), highlight=False, markup=False, soft_wrap=True)

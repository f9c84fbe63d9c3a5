"""The command that gets pages from the web: `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, out, print_value
from infra import settings


def fetch(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the WARC files; again = go on there.")],
    urls: Annotated[Path | None, typer.Option(help="Text file with an address a line.")] = None,
    sitemap: Annotated[
        list[str] | None, typer.Option(help="Address of a sitemap (or robots.txt that names it); may be repeated.")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(help="Web or mail address of yours for the user agent; default the setting.")
    ] = None,
    delay: Annotated[float, typer.Option(min=0.01, help="Seconds of pause after each answer of a host.")] = 1.0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a page, packed and unpacked.")] = 5_000_000,
    max_pages: Annotated[int, typer.Option(min=1, help="Pages of one host.")] = 10_000,
    max_total: Annotated[int, typer.Option(min=1, help="Pages of all hosts.")] = 100_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one page.")] = 30.0,
    retries: Annotated[int, typer.Option(min=0, help="Further tries of a page that could not be had.")] = 2,
    allow_loopback: Annotated[
        bool, typer.Option("--allow-loopback", help="Also ask this machine; else only the public internet is asked.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the pages of a list or a sitemap politely into WARC files, which --corpus reads.

    robots.txt is obeyed, one request at a time goes to a host, and no host is asked that the list or the sitemap's own
    address does not name. Links are not followed. urls.csv in the folder says of each address what became of it.
    """
    from infra import progress
    from tasks.corpus.fetch import Order, fetch, render

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
        show = progress.console(lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
        chosen = loaded.contact if contact is None else contact
        found = fetch(Order(out_folder, chosen, urls, tuple(sitemap or ()), limits), show)
        if as_json:
            print_value(found, as_json)
        else:
            out.print(render(found), highlight=False, markup=False, soft_wrap=True)

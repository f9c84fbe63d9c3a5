"""Fetch web pages into a folder of WARC files, in a child process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.errors import BadInput, FetchFailed
from infra.lake import check_folder
from tasks.corpus.crawling.archive import summary

HEAD = 2**16
STOP_S = 30.0  # for an interrupted crawl to finish its file


@dataclass(frozen=True)
class Order:
    """What to fetch, and the limits; see `tasks.corpus.crawling.crawl.Plan`.

    Attributes:
        out: output folder of the WARC files and the table.
        contact: web or mail address of the operator of the crawl.
        urls: text file, one address a line.
        sitemaps: addresses of sitemaps.
        limits: the other fields of the plan.
    """

    out: Path
    contact: str
    urls: Path | None
    sitemaps: tuple[str, ...]
    limits: dict[str, float | int | bool]


def fetch(order: Order, show: Callable[[str], None]) -> dict[str, Any]:
    """Fetch the pages that the folder does not hold yet; return a summary of the folder.

    Raises:
        BadInput: a missing or unusable option.
        FetchFailed: the crawl stopped early, or no page was fetched.
    """
    plan = _plan(order)
    command = [sys.executable, "-m", "infra.processes.child", "tasks.corpus.crawling.crawl"]
    pipe = subprocess.PIPE
    # A session of its own: Ctrl-C reaches only this process, which then terminates the crawl gracefully.
    with subprocess.Popen(  # noqa: S603
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(plan))
            process.stdin.close()
            for line in process.stdout:
                show(line.rstrip())
            said = process.stderr.read().strip()
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if code:
        reason = said.rpartition("\n")[2] or f"the crawl ended with {code}"
        raise (BadInput if code == 2 else FetchFailed)(f"{reason}; the pages fetched so far are kept")
    found = summary(order.out)
    if not found["fetched"]:
        why = ", ".join(f"{n} {outcome}" for outcome, n in found["skipped"].items()) or "no address was given"
        raise FetchFailed(f"no page could be fetched ({why}); {found['table']} has the reason for each address")
    return found


def render(found: dict[str, Any]) -> str:
    """Return the summary as text."""
    lines = [
        f"{found['fetched']} pages, {found['bytes'] / 1e6:.3g} MB, in {len(found['files'])} files of {found['folder']}"
    ]
    lines += [
        f"  {host}: {h['pages']} pages, {h['bytes'] / 1e6:.3g} MB, {h['seconds']:.1f} s"
        for host, h in found["hosts"].items()
    ]
    if found["skipped"]:
        lines.append("skipped: " + ", ".join(f"{n} {outcome}" for outcome, n in found["skipped"].items()))
        lines.append(f"the reason of each: {found['table']}")
    if found["again"]:
        lines.append(f"{found['again']} failed temporarily: run the same command again to retry them")
    lines.append(f"next: ketcycle stage curation --corpus {found['folder']} --out DIR")
    return "\n".join(lines)


def _plan(order: Order) -> dict[str, Any]:
    if find_spec("scrapy") is None:
        raise BadInput("`ketcycle fetch` needs Scrapy, which is not installed: pip install 'ketcycle[crawl]'")
    if order.urls is None and not order.sitemaps:
        raise BadInput("nothing to fetch: give --urls FILE, --sitemap URL, or both")
    contact = order.contact.strip()
    mail = bool(re.fullmatch(r"[^@\s<>()]+@[^@\s<>()]+\.[^@\s<>()]+", contact))
    if not contact.isascii() or not (mail or re.fullmatch(r"https?://[^\s()<>@]+", contact)):
        raise BadInput(
            f"--contact must be a web or mail address at which a site's owner reaches you, not {contact!r}; "
            "it is sent in the user agent; the setting `contact` is its default"
        )
    if order.urls is not None:
        _check_list(order.urls)
    check_folder(order.out)
    agent = f"ketcycle/{version('ketcycle')} (+{'mailto:' if mail else ''}{contact})"
    return {
        "folder": str(order.out.expanduser().absolute()),
        "urls": str(order.urls.absolute()) if order.urls else "",
        "sitemaps": order.sitemaps,
        "agent": agent,
        "mail": contact if mail else "",
        **order.limits,
    }


def _check_list(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise BadInput(
            f"--urls {path} cannot be read ({error.strerror}); it is a text file with an address a line"
        ) from None
    if not head.strip() or b"\0" in head:
        found = "is binary" if head.strip() else "is empty"
        raise BadInput(f"--urls {path} {found}; it must be a text file with an address a line")

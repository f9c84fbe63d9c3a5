"""Templates of all pages, and their filters for figures."""

from __future__ import annotations

import re
from functools import partial

import jinja2
from markupsafe import Markup, escape

from flows.reports.text import band, best_arm, break_even, number, plain, qpu_joules, too_easy


def templates() -> jinja2.Environment:
    """Return the templates of all pages, with their filters for figures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "band": band, "break_even": break_even, "qpu_joules": qpu_joules}
    environment.filters |= {"best_arm": best_arm, "too_easy": too_easy, "anchor": anchor, "code": code}
    environment.filters |= {"plain": partial(plain, digits=2)}
    return environment


def code(text: str) -> Markup:
    """Return a text as HTML, with backticked parts as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  (escaped before)


def anchor(name: str) -> str:
    """Return the identifier of a column's meaning on the page."""
    return "m-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

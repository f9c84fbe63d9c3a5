"""Sphinx builds the documentation as a site: `make docs`. Reference pages are made from the code at each build."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "ketcycle"
author = "The ketcycle authors"
copyright = author  # noqa: A001  (Sphinx' name)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "ketcycle"
html_show_sphinx = False
html_copy_source = False
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_ivar = True

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def write_reference(_: Any) -> None:
    """Write the pages that are made from the code."""
    from flows.reports.documentation.reference import PAGES

    for name, make in PAGES.items():
        path = Path(__file__).parent / "reference" / f"{name}.md"
        text = make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def without_links_outside(app: Any, page: str, source: list[str]) -> None:
    """Turn links to files of the repository that are no pages into their names; links to nothing stay, and fail."""

    def plain(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path = ((Path(app.srcdir) / page).parent / target).resolve()
        outside = path.exists() and not path.is_relative_to(app.srcdir)
        return f"{text} (`{path.relative_to(ROOT)}`)" if outside else found[0]

    source[0] = OUTSIDE.sub(plain, source[0])


def setup(app: Any) -> None:
    """Connect both to the build."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", without_links_outside)

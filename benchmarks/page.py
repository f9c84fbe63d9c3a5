"""Puts what a benchmark printed into a page of the documentation, between its marks."""

from __future__ import annotations

import re
from pathlib import Path

from infra.lake import write_atomic


def write_part(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- benchmark: NAME -->` and `<!-- /benchmark -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    before = page.read_text(encoding="utf-8")
    mark = f"<!-- benchmark: {name} -->"
    pattern = re.compile(re.escape(mark) + r".*?<!-- /benchmark -->", re.DOTALL)
    if len(pattern.findall(before)) != 1:
        raise ValueError(f"{page} should have the mark {mark} and its end once")
    part = f"{mark}\n{text.strip()}\n<!-- /benchmark -->"
    write_atomic(page, pattern.sub(lambda _: part, before))

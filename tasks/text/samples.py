"""Passages of the corpus that ships with the project: the real text behind examples, probes and tests."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

from tasks.text.windows import passages

DOMAINS = ("base", "second")


@cache
def sample_documents(domain: str) -> tuple[tuple[str, str], ...]:
    """Return (label, text) of every shipped document of a domain, in the order of the file.

    Raises:
        ValueError: the domain does not exist.
    """
    if domain not in DOMAINS:
        raise ValueError(f"the shipped corpus has the domains {', '.join(DOMAINS)}, not {domain!r}")
    import pyarrow.parquet as pq  # imported here so that modules of arms load without it

    with as_file(files("deployments.sample") / f"{domain}.parquet") as path:
        table = pq.read_table(path, columns=["label", "text"])
    return tuple(zip(table["label"].to_pylist(), table["text"].to_pylist(), strict=True))


@cache
def sample_passages(domain: str, words: int = 48, per_label: int = 1) -> tuple[tuple[str, str], ...]:
    """Return (label, passage): up to `per_label` passages of each label, each from a different document."""
    taken: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for label, text in sample_documents(domain):
        if taken.get(label, 0) < per_label and (cut := passages(text, words)):
            # Many documents begin with the same title or preamble, so the passage is taken from the middle.
            found.append((label, cut[len(cut) // 2]))
            taken[label] = taken.get(label, 0) + 1
    return tuple(found)

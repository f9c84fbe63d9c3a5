"""Inputs of the stage: the model to be served, and the text windows for calibration and evaluation."""

from __future__ import annotations

import numpy as np

from infra.errors import BadInput
from tasks.inference.options import Options
from tasks.model.examples import DATA, ROWS, read_examples
from tasks.model.mixture import mixed
from tasks.model.windows import Windows, count_windows, read_windows
from tasks.stage import Context

SOURCES = ("finetuning/model", "training/model")


def domains_with(context: Context, split: str) -> dict[str, int]:
    """Return the number of windows of a split for each domain of the option `domains` that has any.

    Raises:
        BadInput: none of the domains has windows in the split.
    """
    domains = context.parsed(Options).domains
    counts = count_windows(context.lake, context.require("preprocessing/shards"))
    found = {domain: counts[domain, split] for domain in domains if counts.get((domain, split))}
    if not found:
        there = ", ".join(sorted("/".join(pair) for pair in counts)) or "nothing"
        raise BadInput(f"there is no {split} text of {', '.join(domains)}, only {there}; set inference.domains")
    return found


def mixed_windows(context: Context, split: str, limit: int | None) -> Windows:
    """Return the same number of windows of each domain, the domains alternating."""
    counts = domains_with(context, split)
    count = min(*counts.values(), -(-limit // len(counts)) if limit else 1 << 62)
    parts = [
        read_windows(context.lake, context.require("preprocessing/shards"), domain, split, count) for domain in counts
    ]
    length = parts[0].tokens.shape[1]
    tokens = np.stack([part.tokens for part in parts], axis=1).reshape(-1, length)
    return Windows(tokens, np.stack([part.n_bytes for part in parts], axis=1).reshape(-1))


def rows_of(context: Context, split: str, limit: int | None = None) -> dict[str, Windows]:
    """Return windows of the rows that the model was fine-tuned to, by the name they have in figures; or nothing."""
    return {DATA: read_examples(context.lake, context.inputs[ROWS], split, limit)} if ROWS in context.inputs else {}


def recovery_windows(context: Context, count: int) -> Windows:
    """Return training windows of each domain, and as many of the rows that the model was fine-tuned to."""
    texts = mixed_windows(context, "train", count)
    share = 1 - 1 / (1 + len(domains_with(context, "train")))
    return next((mixed(rows, texts, share, count) for rows in rows_of(context, "train").values()), texts)


def context_length(context: Context) -> int:
    """Return the tokens of a window."""
    return int(context.lake.meta(context.require("preprocessing/shards"))["context"])

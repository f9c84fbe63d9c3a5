"""Passages: runs of whole words cut from documents, the unit in which text is embedded and prompts are sent."""

from __future__ import annotations

from collections.abc import Sequence


def passages(text: str, words: int, minimum: int | None = None) -> list[str]:
    """Cut a text into consecutive passages of `words` words, single-spaced.

    The last passage may be shorter; it is dropped if it has fewer than `minimum` words, by default `words`.

    Raises:
        ValueError: `words` is less than 1.
    """
    if words < 1:
        raise ValueError(f"a passage has at least 1 word, not {words}")
    tokens = text.split()
    least = words if minimum is None else minimum
    cut = [tokens[i : i + words] for i in range(0, len(tokens), words)]
    return [" ".join(part) for part in cut if len(part) >= least]


def spread(documents: Sequence[Sequence[str]], count: int) -> list[str]:
    """Choose up to `count` passages in rounds over the documents, so that no long document dominates."""
    taken: list[str] = []
    for turn in range(max((len(parts) for parts in documents), default=0)):
        for parts in documents:
            if turn < len(parts):
                taken.append(parts[turn])
                if len(taken) == count:
                    return taken
    return taken

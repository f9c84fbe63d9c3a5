"""The problem of `largest`: the lengths of some documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """Lengths in bytes."""

    values: tuple[int, ...]


def quality(problem: Lengths, chosen: int) -> tuple[float, ...]:
    """Return the chosen length over the longest one."""
    return (problem.values[chosen] / max(problem.values),)

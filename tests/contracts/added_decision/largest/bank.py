"""The instance bank of `largest`: groups of real texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.curation.largest.problem import Lengths

SIZE, GROUPS = 8, 16


def bank(material: Material, rng: Generator) -> Iterator[Instance[Lengths]]:
    """Yield groups of eight texts, sources in turns."""
    yield from in_turns([_of_source(name, texts, rng) for name, texts in sorted(material.texts.items())])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> Iterator[Instance[Lengths]]:
    order = rng.permutation(len(texts))[: SIZE * GROUPS]
    for start in range(0, len(order) - SIZE + 1, SIZE):
        problem = Lengths(tuple(len(texts[i].encode()) for i in order[start : start + SIZE]))
        yield Instance(source, f"texts from {start}", SIZE, partial(_as_is, problem))


def _as_is(problem: Lengths) -> Lengths:
    return problem


def example(rng: Generator) -> Lengths:
    """Return eight lengths."""
    return Lengths(tuple(int(n) for n in rng.integers(100, 10_000, SIZE)))

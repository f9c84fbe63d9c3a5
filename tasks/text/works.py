"""The division of a source's texts among the instances of a bank: by works, by sections or by passages.

A work is the texts that belong together: those of one manual page, licence or module resemble each other more than
texts of different ones. Instances that share no text are the units of independence of a bank: whole works, sections of
consecutive text, or passages drawn from all works of a source. They still share the source.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from tasks.contract import Material
from tasks.text.windows import passages

T = TypeVar("T")
TUNING = 5  # every fifth work, by the hash of its name, is kept for tuning and is in no bank


def works_of(material: Material, source: str, *, tuning: bool = False) -> list[tuple[str, ...]]:
    """Return the texts of each work of a source, in the order in which the works begin.

    Args:
        material: the texts and their works.
        source: the source; one without known works is one work, and nothing of it is kept for tuning.
        tuning: return the works that are kept for tuning instead of those of the banks.
    """
    texts = material.texts[source]
    names = material.works.get(source)
    if names is None:
        return [] if tuning else [tuple(texts)]
    found: dict[str, list[str]] = {}
    for name, text in zip(names, texts, strict=True):
        found.setdefault(name, []).append(text)
    return [tuple(its) for name, its in found.items() if (zlib.crc32(name.encode()) % TUNING == 0) == tuning]


def dealt(works: Sequence[Sequence[T]], need: int) -> Iterator[list[T]]:
    """Yield runs of whole works with at least `need` items each; what is left at the end is not used."""
    hand: list[T] = []
    for work in works:
        hand += work
        if len(hand) >= need:
            yield hand
            hand = []


def joined(texts: Sequence[str]) -> bytes:
    """Return the texts of a source as one."""
    return "\n\n".join(texts).encode()


def sections(texts: Sequence[str], size: int) -> list[bytes]:
    """Return the consecutive sections of `size` bytes of a source's text; what is left at the end is not used."""
    text = joined(texts)
    return [text[start : start + size] for start in range(0, len(text) - size + 1, size)]


def hands(texts: Sequence[str], words: int, size: int) -> list[list[str]]:
    """Return the different passages of `words` words of a source, dealt into hands of `size` at random.

    The hands are the same at each call, so that those of two draws of a bank are equal or disjoint.
    """
    found = list(dict.fromkeys(passage for text in texts for passage in passages(text, words)))
    order = np.random.default_rng(0).permutation(len(found)).tolist()
    return [[found[i] for i in order[at : at + size]] for at in range(0, len(found) - size + 1, size)]


def opponent(source: str, turn: int, names: Sequence[str]) -> str:
    """Return the other source whose turn it is; at one turn no two sources have the same one."""
    return names[(names.index(source) + 1 + turn % (len(names) - 1)) % len(names)]


def smaller(source: str, number: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the size at which an instance is posed once more, smaller; every second instance of a source is.

    Costs can then be fitted against size. The smaller instance has the texts of the larger one and shares its unit, so
    it adds nothing to the number of independent observations.

    Args:
        source: the source; different ones begin with different sizes.
        number: of the instance within the source, from 0.
        sizes: the smaller sizes, which take turns.
    """
    turn, odd = divmod(number, 2)
    return (in_turn(source, turn, sizes),) if odd else ()


def in_turn(source: str, turn: int, sizes: Sequence[int]) -> int:
    """Return the size whose turn it is; different sources begin with different sizes."""
    return sizes[(turn + zlib.crc32(source.encode())) % len(sizes)]

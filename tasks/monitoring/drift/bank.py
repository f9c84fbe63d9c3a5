"""The instance bank of drift: single windows of known truth, without drift or with one of five planted shifts.

Each instance deals disjoint passages of one source to reference, window and background, so a window without drift is
exchangeable with its reference. Every second instance has none; the others take turns in

* `half other`: half of the window's passages are from another source, as in the default replay;
* `quarter other`: a quarter of them;
* `topic`: the window is one stretch of the source, a few manual pages or modules;
* `cut`: every second passage ends after a fifth of its words, as prompts do when a client truncates them;
* `typos`: in every third word two letters are exchanged, as recorded in the name of the instance by its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.monitoring.drift.problem import Drift
from tasks.text.embeddings import embed
from tasks.text.windows import passages, spread

WORDS = 48
WINDOW, BACKGROUND = 40, 200
FOREIGN = {"half other": 0.5, "quarter other": 0.25}
LONGEST = 12  # instances of a source

Texts = tuple[str, ...]


def bank(material: Material, rng: Generator) -> Iterator[Instance[Drift]]:
    """Yield single windows, sources in turns; sizes as in the default replay (40 + 40, background 200)."""
    names = sorted(material.texts)
    cut = {name: [passages(text, WORDS) for text in material.texts[name]] for name in names}
    yield from in_turns([_of_source(name, cut, rng) for name in names])


def _of_source(source: str, cut: dict[str, list[list[str]]], rng: Generator) -> Iterator[Instance[Drift]]:
    parts = cut[source]
    own = spread(parts, sum(map(len, parts)))
    others = [name for name in cut if name != source]
    in_order = [text for part in parts for text in part]
    dealt = [own[i] for i in rng.permutation(len(own))]
    need = 2 * WINDOW + BACKGROUND
    kinds = cycle((*FOREIGN, "topic", "cut", "typos"))
    for number in range(min(LONGEST, len(dealt) // need)):
        mine = dealt[number * need : (number + 1) * need]
        reference, window, background = mine[:WINDOW], mine[WINDOW : 2 * WINDOW], mine[2 * WINDOW :]
        kind = "no drift" if number % 2 == 0 else next(kinds)
        seed = int(rng.integers(2**31))
        other = cut[others[number // 2 % len(others)]]
        taken = set(mine)
        stretches = [text for text in in_order if text not in taken]
        shifted = SHIFTS[kind](window, stretches, other, np.random.default_rng(seed))
        pose = partial(_pose, tuple(reference), tuple(shifted), tuple(background), kind != "no drift")
        yield Instance(source, f"{number}: {kind}, seed {seed}", 2 * WINDOW, pose)


def _pose(reference: Texts, window: Texts, background: Texts, drifted: bool) -> Drift:
    return Drift(embed(reference), (embed(window),), embed(background), (drifted,))


Shift = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[str]], Generator], list[str]]


def _none(window: Sequence[str], _stretches: object, _other: object, _rng: Generator) -> list[str]:
    return list(window)


def _foreign(
    share: float, window: Sequence[str], _stretches: object, other: Sequence[Sequence[str]], rng: Generator
) -> list[str]:
    alien = [text for part in other for text in part]
    count = round(share * len(window))
    return [*window[count:], *(alien[i] for i in rng.permutation(len(alien))[:count])]


def _topic(window: Sequence[str], stretches: Sequence[str], _other: object, rng: Generator) -> list[str]:
    begin = int(rng.integers(len(stretches) - len(window)))
    return list(stretches[begin : begin + len(window)])


def _cut(window: Sequence[str], _stretches: object, _other: object, _rng: Generator) -> list[str]:
    return [" ".join(text.split()[: WORDS // 5]) if i % 2 else text for i, text in enumerate(window)]


def _typos(window: Sequence[str], _stretches: object, _other: object, rng: Generator) -> list[str]:
    return [" ".join(_mistyped(word, rng) if i % 3 == 0 else word for i, word in enumerate(t.split())) for t in window]


def _mistyped(word: str, rng: Generator) -> str:
    if len(word) < 4:
        return word
    at = int(rng.integers(1, len(word) - 2))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


SHIFTS: dict[str, Shift] = {
    "no drift": _none,
    **{name: partial(_foreign, share) for name, share in FOREIGN.items()},
    "topic": _topic,
    "cut": _cut,
    "typos": _typos,
}

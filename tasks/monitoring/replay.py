"""Prompts that the demo replays: windows of held-out text with known drift. No side effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.text.windows import passages, spread

SHORTEST = 0.8


@dataclass(frozen=True)
class Stream:
    """Prompts that are sent one after the other as one window.

    Attributes:
        label: name of the window; the request log keeps it.
        prompts: prompts of the window; no prompt is in two streams.
        drifted: whether the window contains passages of the second domain.
    """

    label: str
    prompts: tuple[str, ...]
    drifted: bool


@dataclass(frozen=True)
class Replay:
    """All windows of a replay and the passages that are only embedded.

    Attributes:
        background: passages of the base domain that are in no stream.
        alien: passages of the second domain that are in no stream.
        streams: windows, the reference window first.
    """

    background: tuple[str, ...]
    alien: tuple[str, ...]
    streams: tuple[Stream, ...]


def cut_prompts(texts: Sequence[str], words: int) -> list[str]:
    """Cut held-out documents into distinct passages, in rounds over the documents."""
    cut = [passages(text, words, minimum=round(SHORTEST * words)) for text in texts]
    return list(dict.fromkeys(spread(cut, sum(map(len, cut)))))


def plan_replay(
    base: Sequence[str],
    second: Sequence[str],
    rng: np.random.Generator,
    *,
    reference: int,
    window: int,
    mixture: float,
    drifted: int,
    background: int,
) -> Replay:
    """Deal disjoint prompts to the reference, one base window and `drifted` windows mixed with the second domain.

    All base prompts are shuffled together before they are dealt, so that the reference, the base window and the
    background are exchangeable. Without a second domain there is no drifted window.

    Raises:
        ValueError: fewer prompts than the streams need; the message says how many.
    """
    alien = round(mixture * window)
    drifted = drifted if second else 0
    needed = reference + window + drifted * (window - alien)
    if len(base) < needed or len(second) < drifted * alien:
        raise ValueError(
            f"the replay needs {needed} prompts of the base and {drifted * alien} of the second domain; the held-out "
            f"text gives {len(base)} and {len(second)}; give a larger corpus or set smaller windows"
        )
    own = [base[i] for i in rng.permutation(len(base))]
    other = [second[i] for i in rng.permutation(len(second))]
    streams = [
        Stream("reference", tuple(own[:reference]), drifted=False),
        Stream("base-1", tuple(own[reference : reference + window]), drifted=False),
    ]
    at = reference + window
    for number in range(drifted):
        mixed = own[at : at + window - alien] + other[number * alien : (number + 1) * alien]
        at += window - alien
        prompts = tuple(mixed[i] for i in rng.permutation(len(mixed)))
        streams.append(Stream(f"mixture-{number + 1}", prompts, drifted=True))
    left = other[drifted * alien : drifted * alien + background]
    return Replay(tuple(own[at : at + background]), tuple(left), tuple(streams))

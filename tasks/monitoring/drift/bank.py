"""The instance bank of drift: single windows of known truth, without drift or with one of five planted shifts.

Each instance deals passages of its own works (manual pages, licences, modules) of one source to reference and window,
so a window without drift is exchangeable with its reference, and no two instances share a work: each is a unit of its
own. For every second one a smaller window of the same texts stands beside it, in the same unit, so that costs can be
fitted against size. Background, and foreign passages, come from works that are kept apart for all instances of a
source. Every second instance has no drift; the others take turns in

* `half other`: half of the window's passages are from another source, as in the default replay;
* `quarter other`: a quarter of them;
* `topic`: reference and window are from different works of the source;
* `cut`: every second passage ends after a fifth of its words, as prompts do when a client truncates them;
* `typos`: in every third word two letters are exchanged, as recorded in the name of the instance by its seed.

Bandwidths are tuned on the same kinds of instances of works that the bank never uses (`tuning`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle

import numpy as np
from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.monitoring.drift.arms import pool_grams
from tasks.monitoring.drift.mmd import by_kernels, distances
from tasks.monitoring.drift.problem import Drift, Vectors
from tasks.monitoring.two_sample import median_distance
from tasks.text.embeddings import embed
from tasks.text.samples import sample_passages
from tasks.text.windows import passages
from tasks.text.works import dealt, smaller, works_of

WORDS = 48
WINDOW, BACKGROUND, FOREIGNERS = 40, 200, 400
SMALLER = (8, 16, 24, 32)  # texts of the smaller windows
FOREIGN = {"half other": 0.5, "quarter other": 0.25}
LONGEST = 60  # instances of a source
MOST = 40  # passages of one work, so that an instance has several

Texts = tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """Passages of a source: those kept for all instances, and those of each other work, in order."""

    background: Texts
    foreign: Texts
    works: tuple[Texts, ...]


def bank(material: Material, rng: Generator) -> Iterator[Instance[Drift]]:
    """Yield single windows, sources in turns; most have the size of the default replay (40 + 40, background 200)."""
    yield from _planted(material, rng, tuning=False)


def tuning(material: Material, rng: Generator) -> Iterator[Instance[Drift]]:
    """Yield instances of works that the bank never uses, for choosing bandwidths."""
    yield from (found for found in _planted(material, rng, tuning=True) if found.size == 2 * WINDOW)


def _planted(material: Material, rng: Generator, *, tuning: bool) -> Iterator[Instance[Drift]]:
    found = {name: _source(works_of(material, name, tuning=tuning), rng) for name in sorted(material.texts)}
    found = {name: source for name, source in found.items() if source.works}
    yield from in_turns([_of_source(name, found, rng) for name in found])


def _source(works: Sequence[Texts], rng: Generator) -> _Source:
    cut = [tuple(p for text in texts for p in passages(text, WORDS)) for texts in works]
    parts = [cut[i] for i in rng.permutation(len(cut)) if cut[i]]
    kept: list[str] = []
    while parts and len(kept) < min(BACKGROUND + FOREIGNERS, sum(map(len, cut)) // 4):
        kept += parts.pop()[:MOST]
    share = max(1, len(kept) * BACKGROUND // (BACKGROUND + FOREIGNERS))
    return _Source(tuple(kept[:share]), tuple(kept[share:]), tuple(parts))


def _of_source(source: str, found: Mapping[str, _Source], rng: Generator) -> Iterator[Instance[Drift]]:
    mine, others = found[source], [other for name, other in found.items() if name != source]
    kinds = cycle((*FOREIGN, "topic", "cut", "typos"))
    hands = dealt([part[:MOST] for part in mine.works], 2 * WINDOW)
    for number, hand in zip(range(LONGEST), hands, strict=False):
        kind, seed = "no drift" if number % 2 == 0 or not others else next(kinds), int(rng.integers(2**31))
        draw = np.random.default_rng(seed)
        own = hand if kind == "topic" else [hand[i] for i in draw.permutation(len(hand))]
        reference, window = own[:WINDOW], own[-WINDOW:]
        foreign = others[number // 2 % len(others)].foreign if others else ()
        name = f"{number}: {kind}, seed {seed}"
        for size in (WINDOW, *smaller(source, number, SMALLER)):
            shifted = SHIFTS[kind](window[-size:], foreign, draw)
            pose = partial(_pose, tuple(reference[:size]), tuple(shifted), mine.background, kind != "no drift")
            label = name if size == WINDOW else f"{name}, {size} texts"
            yield Instance(source, label, 2 * size, pose, unit=f"{source} {name}")


def _pose(reference: Texts, window: Texts, background: Texts, drifted: bool) -> Drift:
    return Drift(embed(reference), (embed(window),), embed(background), (drifted,))


Shift = Callable[[Sequence[str], Sequence[str], Generator], list[str]]


def _as_dealt(window: Sequence[str], _foreign: object, _rng: Generator) -> list[str]:
    return list(window)


def _foreign(share: float, window: Sequence[str], foreign: Sequence[str], rng: Generator) -> list[str]:
    count = round(share * len(window))
    return [*window[count:], *(foreign[i] for i in rng.permutation(len(foreign))[:count])]


def _cut(window: Sequence[str], _foreign: object, _rng: Generator) -> list[str]:
    return [" ".join(text.split()[: WORDS // 5]) if i % 2 else text for i, text in enumerate(window)]


def _typos(window: Sequence[str], _foreign: object, rng: Generator) -> list[str]:
    return [" ".join(_mistyped(word, rng) if i % 3 == 0 else word for i, word in enumerate(t.split())) for t in window]


def _mistyped(word: str, rng: Generator) -> str:
    if len(word) < 4:
        return word
    at = int(rng.integers(1, len(word) - 2))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


SHIFTS: dict[str, Shift] = {
    "no drift": _as_dealt,
    **{name: partial(_foreign, share) for name, share in FOREIGN.items()},
    "topic": _as_dealt,
    "cut": _cut,
    "typos": _typos,
}


RATES = (0.0, 0.0, 0.15, 0.3, 0.5, 1.0)


def probes(problem: Drift, rng: np.random.Generator, count: int = 4) -> list[Drift]:
    """Plant windows of known truth from the problem's own vectors: null ones and mixtures of four rates.

    Normal vectors are reference, background and windows without drift. What is mixed in is the alien traffic; in
    every second probe, or where there is none, a topic of the normal vectors (the extreme fifth of a principal axis),
    so that another kind of shift is asked for too. Reference, background and windows of a probe are disjoint.
    """
    flags = problem.truth or (True,) * len(problem.windows)
    calm = [problem.reference, *([problem.background] if len(problem.background) else [])]
    normal = np.vstack([*calm, *(w for w, drifted in zip(problem.windows, flags, strict=True) if not drifted)])
    alien = _alien(problem)
    planted = []
    for index in range(count):
        topic = index % 2 == 1 or not len(alien)
        inside, outside = _topic_probe(normal, index // 2) if topic else (normal, alien)
        planted.append(_plant(problem, inside, outside, rng))
    return planted


def _alien(problem: Drift) -> Vectors:
    drifted = [w for w, known in zip(problem.windows, problem.truth, strict=False) if known]
    return problem.alien if len(problem.alien) or not drifted else np.vstack(drifted)


def measured_power(problem: Drift, rng: np.random.Generator, trials: int) -> dict[float, float]:
    """Return how often the kernel pool alerts on planted mixtures, by rate; rate 0 is the false-alarm rate.

    The vectors are those of the problem; without alien ones there is nothing to plant.
    """
    if not len(_alien(problem)):
        return {}
    alerts = np.zeros(len(RATES))
    for _ in range(trials):
        (planted,) = probes(problem, rng, count=1)
        grams = pool_grams(planted, median_distance(planted.calm), distances(planted))
        alerts += by_kernels(planted, grams, rng).alerts
    found = {rate: [a / trials for r, a in zip(RATES, alerts, strict=True) if r == rate] for rate in sorted(set(RATES))}
    return {rate: float(np.mean(shares)) for rate, shares in found.items()}


def _topic_probe(vectors: Vectors, axis: int) -> tuple[Vectors, Vectors]:
    """Split off the fifth of the vectors that lies farthest along a principal axis."""
    centred = vectors - vectors.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2]
    scores = centred @ directions[axis % len(directions)]
    order = np.argsort(scores, kind="stable")
    cut = len(vectors) - max(2, len(vectors) // 5)
    return vectors[order[:cut]], vectors[order[cut:]]


def _plant(problem: Drift, inside: Vectors, outside: Vectors, rng: np.random.Generator) -> Drift:
    """Draw reference, windows and background without replacement, windows short of vectors made smaller."""
    shuffled = rng.permutation(inside)
    share = len(shuffled) // 3
    reference = shuffled[: min(len(problem.reference), share)]
    windows, truth = [], []
    for rate in RATES:
        fresh = rng.permutation(shuffled[len(reference) : 2 * share])
        m = min(len(problem.windows[0]), len(fresh), len(outside)) if problem.windows else len(fresh)
        alien = round(rate * m)
        windows.append(np.vstack([fresh[: m - alien], rng.permutation(outside)[:alien]]))
        truth.append(rate > 0)
    background = shuffled[2 * share :] if len(problem.background) else problem.background
    return replace(problem, reference=reference, windows=tuple(windows), truth=tuple(truth), background=background)


def example(rng: np.random.Generator) -> Drift:
    """12 passages of documentation, a window of the same and two of licences, in 8 principal dimensions."""
    texts = [rng.permutation([text for _, text in sample_passages(domain)]) for domain in ("base", "second")]
    base, second = embed([*map(str, texts[0][:104])]), embed([*map(str, texts[1][:64])])
    background = base[24:104]
    axes = np.linalg.svd(background - background.mean(axis=0), full_matrices=False)[2][:8].T
    parts = [base[:12], base[12:24], second[:12], second[12:24], background, second[24:64]]
    reference, same, other, another, calm, alien = (np.asarray(part @ axes, np.float32) for part in parts)
    return Drift(reference, (same, other, another), calm, truth=(False, True, True), components=3, alien=alien)

"""Verdicts on a published claim, and the score of what was predicted of them. Plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.evaluation.paired import Paired

REPRODUCED = ("reproduced", "not reproduced", "cannot be judged")
BETTER = ("yes", "no", "undecided")
UNIFORM = 2 / 3  # score of one who gives each of three answers the same probability
LEAST_UNITS = 8  # independent units below which no difference is decided


@dataclass(frozen=True)
class Compared:
    """A published number beside ours.

    Attributes:
        name: what the number is.
        arm: the arm that was compared.
        published: the published value, None for a bar of ours.
        ours: our value, None where no instance was run.
        interval: its two-sided 95 % Student interval, clustered by unit.
        n: instances.
        units: independent units among them.
        bar: what counts as reproduced, in words.
        met: whether it is; None where our value is missing or nothing was asked for.
        judged: whether the verdict rests on it.
    """

    name: str
    arm: str
    published: float | None
    ours: float | None
    interval: tuple[float, float] | None
    n: int
    units: int
    bar: str
    met: bool | None
    judged: bool


@dataclass(frozen=True)
class Verdict:
    """An answer with its reason."""

    answer: str
    reason: str


def meets(ours: float | None, published: float | None, within: float | None, least: float | None) -> bool | None:
    """Return whether a value reproduces a published one: at most `within` from it, or at least `least`."""
    if ours is None:
        return None
    if within is not None and published is not None:
        return abs(ours - published) <= within + 1e-12
    return None if least is None else ours >= least - 1e-12


def reproduced(numbers: Sequence[Compared], unjudgeable: str = "") -> Verdict:
    """Return whether the claim is reproduced: all numbers that are judged are met.

    Args:
        numbers: published numbers beside ours.
        unjudgeable: why the claim cannot be judged whatever the numbers are.
    """
    judged = [n for n in numbers if n.judged]
    known = [n for n in judged if n.met is not None]
    met = sum(bool(n.met) for n in known)
    said = f"{met} of {len(judged)} numbers met"
    if unjudgeable:
        return Verdict("cannot be judged", f"{unjudgeable}; {said}")
    missed = [n.name for n in known if not n.met]
    if missed:
        return Verdict("not reproduced", f"{said}; missed: {'; '.join(missed)}")
    if len(known) < len(judged) or not judged:
        return Verdict("cannot be judged", f"{said}, the others were not run")
    return Verdict("reproduced", said)


def better(challenger: Paired, tolerance: float) -> Verdict:
    """Return whether the named quantum arm is better than the best classical arm.

    Yes if the interval of the mean paired difference lies above 0; no if it lies below the tolerance, which is the
    smallest difference that matters; else undecided.
    """
    if challenger.mean is None or challenger.interval is None:
        return Verdict("undecided", f"too few instances ({challenger.n})")
    low, high = challenger.interval
    said = (
        f"{challenger.arm} against {challenger.other}: {challenger.mean:+.4f} [{low:+.4f}, {high:+.4f}], "
        f"n={challenger.n} in {challenger.units} independent units, tolerance {tolerance:g}"
    )
    if challenger.units < LEAST_UNITS:
        return Verdict("undecided", f"{said}; {LEAST_UNITS} independent units are needed")
    if low > 0:
        return Verdict("yes", said)
    return Verdict("no" if high < tolerance else "undecided", said)


def score(predicted: Mapping[str, float], answer: str) -> float:
    """Return the sum of squared errors over all answers (Brier, Monthly Weather Review 78, 1950): 0 best, 2 worst."""
    return sum((probability - (name == answer)) ** 2 for name, probability in predicted.items())

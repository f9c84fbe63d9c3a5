"""The best classical arm of a decision at matched quality, defined once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.evaluation.figures import CLASSICAL, CONTROL, ArmFigures
from tasks.evaluation.paired import paired

ROUNDING = 1e-12


@dataclass(frozen=True)
class BestClassical:
    """The cheapest classical arm whose quality is within the tolerance of the best classical quality.

    Attributes:
        arm: the arm.
        reference: the classical arm of best mean quality that the others are measured against.
        is_control: whether the arm is a control: chance or doing nothing is then as good as the best method.
        matched: names of all arms of matched quality, that arm included; at other sizes another may be the cheapest.
    """

    arm: ArmFigures
    reference: ArmFigures
    is_control: bool
    matched: tuple[str, ...]


def best_classical(arms: Sequence[ArmFigures], tolerance: float) -> BestClassical | None:
    """Return the cheapest arm that no quantum method is needed for, at matched quality; None where none was scored.

    The reference is the classical or dequantised arm of best mean quality. Every classical, dequantised or control arm
    qualifies that solved all instances of the reference and loses no more than the tolerance on the mean of the paired
    differences to it; of those the one of least energy is the best classical arm. Twins do not qualify: they compute
    a quantum arm's estimate and are shown as the cost of simulating it.
    """
    done = [a for a in arms if a.status == "done" and a.solved]
    classical = [a for a in done if a.kind in CLASSICAL]
    if not classical:
        return None
    most = max(len(a.solved) for a in classical)
    reference = max((a for a in classical if len(a.solved) == most), key=lambda a: (a.quality or 0.0, -a.energy_j))
    matched = [a for a in done if a.kind in CLASSICAL | {CONTROL} and _as_good(a, reference, tolerance)]
    cheapest = min(matched, key=lambda a: a.energy_j)
    return BestClassical(cheapest, reference, cheapest.kind == CONTROL, tuple(a.arm for a in matched))


def matches(best: BestClassical, arm: ArmFigures, tolerance: float) -> bool:
    """Return whether the best classical arm is as good as another arm, within the tolerance."""
    found = paired(best.arm, arm)
    return found.mean is None or found.mean >= -tolerance - ROUNDING


def as_good_as(arm: ArmFigures, arms: Sequence[ArmFigures], tolerance: float) -> tuple[str, ...]:
    """Return the classical arms and controls that solved what an arm solved and lose at most the tolerance to it."""
    done = [a for a in arms if a.status == "done" and a.solved and a.kind in CLASSICAL | {CONTROL}]
    return tuple(a.arm for a in done if _as_good(a, arm, tolerance))


def saturated_by(arms: Sequence[ArmFigures], tolerance: float) -> tuple[str, ...]:
    """Return the controls that are as good as the best classical arm: the instances are too easy to tell arms apart."""
    best = best_classical(arms, tolerance)
    if best is None:
        return ()
    controls = [a for a in arms if a.kind == CONTROL and a.status == "done" and a.solved]
    return tuple(a.arm for a in controls if _as_good(a, best.reference, tolerance))


def _as_good(arm: ArmFigures, reference: ArmFigures, tolerance: float) -> bool:
    found = paired(arm, reference)
    return found.n == len(reference.solved) and found.mean is not None and found.mean >= -tolerance - ROUNDING

"""Paired differences between arms on the same instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.evaluation.figures import ArmFigures
from tasks.statistics import mean_interval


@dataclass(frozen=True)
class Paired:
    """One arm against another on the instances that both solved.

    Attributes:
        arm: name of the first arm.
        other: name of the second arm.
        n: instances.
        units: independent units among them.
        mean: mean difference, first minus second; None where no instance is shared.
        interval: its two-sided 95 % Student interval, clustered by unit; None for fewer than two units.
        wins: instances on which the first is better by more than the tolerance.
        losses: instances on which it is worse by more than the tolerance.
    """

    arm: str
    other: str
    n: int
    units: int
    mean: float | None
    interval: tuple[float, float] | None
    wins: int
    losses: int


def paired(arm: ArmFigures, other: ArmFigures, tolerance: float = 0.0) -> Paired:
    """Return the paired difference of two arms."""
    theirs = {s.instance: s.quality for s in other.solved}
    both = [(s.quality - theirs[s.instance], s.unit) for s in arm.solved if s.instance in theirs]
    difference, units = np.array([d for d, _ in both]), [unit for _, unit in both]
    return Paired(
        arm=arm.arm,
        other=other.arm,
        n=len(both),
        units=len(set(units)),
        mean=float(difference.mean()) if both else None,
        interval=mean_interval(difference, units),
        wins=int((difference > tolerance).sum()),
        losses=int((difference < -tolerance).sum()),
    )


def quality_interval(arm: ArmFigures) -> tuple[float, float] | None:
    """Return the two-sided 95 % Student interval of the mean quality, clustered by unit."""
    return mean_interval(np.array([s.quality for s in arm.solved]), [s.unit for s in arm.solved])

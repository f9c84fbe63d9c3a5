"""What any solver on any hardware could save at a decision (PROTOCOL section 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.figures import ArmFigures


@dataclass(frozen=True)
class Share:
    """The share of a decision in the energy of a complete run.

    Attributes:
        run: the run.
        profile: its profile.
        joules: median joules of the chosen arm, narrow boundary.
        whole: median joules of the run without the arms that ran beside.
    """

    run: str
    profile: str
    joules: float
    whole: float

    @property
    def share(self) -> float:
        """Joules of the decision over joules of the run."""
        return self.joules / self.whole


@dataclass(frozen=True)
class Headroom:
    """What a perfect decision at no energy would be worth.

    Attributes:
        oracle: mean best quality.
        gap: mean distance of the incumbent to it.
        effect: the gap relative to the best quality.
        share: the share of the decision in a run's energy; None where no run is complete.
        bound: effect x share.
    """

    oracle: float | None
    gap: float | None
    effect: float | None
    share: Share | None

    @property
    def bound(self) -> float | None:
        """A solver of no energy saves at most the share; a perfect solution changes what follows by at most this."""
        return self.effect * self.share.share if self.effect is not None and self.share else None


def headroom(incumbent: ArmFigures | None, best: Mapping[str, float], share: Share | None) -> Headroom:
    """Return the headroom of a decision.

    Args:
        incumbent: the incumbent, None where it has no evidence.
        best: the best quality of each instance, see `best_values`.
        share: the share of the decision in a run.
    """
    solved = incumbent.solved if incumbent else ()
    if not solved:
        return Headroom(None, None, None, share)
    optimum = np.array([best[s.instance] for s in solved])
    gap = float((optimum - np.array([s.quality for s in solved])).mean())
    mean = float(optimum.mean())
    return Headroom(mean, gap, gap / abs(mean) if mean else None, share)


def best_values(arms: Mapping[str, ArmFigures]) -> dict[str, float]:
    """Return the proven optimum of each instance, or the best value that any arm reached."""
    proven = {s.instance: s.best for a in arms.values() for s in a.solved if s.best is not None}
    seen: dict[str, float] = {}
    for arm in arms.values():
        for s in arm.solved:
            seen[s.instance] = max(s.quality, seen.get(s.instance, -math.inf))
    return {instance: proven.get(instance, value) for instance, value in seen.items()}


def two_qubit_error(gates_per_circuit: float) -> float | None:
    """Return the error of a two-qubit gate that leaves half the shots without one; None for no gates."""
    return -math.expm1(math.log(0.5) / gates_per_circuit) if gates_per_circuit > 0 else None

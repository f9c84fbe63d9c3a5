"""Scores of the verdicts that were predicted before a study ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.figures import ArmFigures
from tasks.evaluation.paired import paired

ALWAYS_HALF = 0.25  # Brier score of one who always says one half


@dataclass(frozen=True)
class Predicted:
    """What was expected of one arm.

    Attributes:
        arm: the arm.
        difference: mean paired quality difference to the incumbent.
        certified: probability that it is certified; None for a control that may never be chosen.
    """

    arm: str
    difference: float
    certified: float | None = None


@dataclass(frozen=True)
class Scored:
    """A prediction beside what was seen; outcome 1 if the arm was certified, 0 if not, None if it was not judged."""

    predicted: Predicted
    difference: float
    outcome: float | None

    @property
    def error(self) -> float | None:
        """Squared error of the predicted probability."""
        if self.predicted.certified is None or self.outcome is None:
            return None
        return (self.predicted.certified - self.outcome) ** 2


def score(
    predicted: Mapping[str, Predicted],
    arms: Mapping[str, ArmFigures],
    incumbent: str,
    certified: Mapping[str, bool],
) -> tuple[Scored, ...]:
    """Return each prediction beside what was seen; arms that solved no instance with the incumbent are left out.

    Args:
        predicted: the predictions by arm.
        arms: what the arms reached.
        incumbent: name of the incumbent.
        certified: the verdict on each arm that was judged.
    """
    if incumbent not in arms:
        return ()
    found = []
    for name, expected in predicted.items():
        seen = paired(arms[name], arms[incumbent]).mean if name in arms else None
        if seen is not None:
            found.append(Scored(expected, seen, float(certified[name]) if name in certified else None))
    return tuple(found)


def brier(scored: tuple[Scored, ...]) -> float | None:
    """Return the mean squared error of the predicted probabilities (Brier, Monthly Weather Review 78, 1950)."""
    errors = [s.error for s in scored if s.error is not None]
    return float(np.mean(errors)) if errors else None

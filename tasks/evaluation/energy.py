"""Energy to solution, the cost of simulating an arm's circuits, and the break-even with the best classical arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluation.figures import ArmFigures, Boundary, Draws, Solved, Spending

CONFIDENCE = 0.99


def repeats_to_solution(p_hit: float, confidence: float = CONFIDENCE) -> float:
    """Return how often a method must run to hit with the confidence: ln(1 - c) / ln(1 - p), at least once.

    The time-to-solution measure of Ronnow et al., Science 345 (2014); infinite for p = 0.
    """
    if p_hit <= 0:
        return math.inf
    return 1.0 if p_hit >= confidence else math.log(1 - confidence) / math.log1p(-p_hit)


@dataclass(frozen=True)
class ToSolution:
    """Energy to solution over the instances whose best quality is known.

    Attributes:
        energy_j: mean over the solved instances of joules x repeats; None where none was solved.
        solved: instances that an execution can hit.
        unsolved: instances that no execution hit; they are in no mean.
        hit_rate: mean over all instances of the probability that one execution hits.
    """

    energy_j: float | None
    solved: int
    unsolved: int
    hit_rate: float | None


def energy_to_solution(solved: Sequence[Solved]) -> ToSolution:
    """Return the energy until the best quality is met within the tolerance with 99 % certainty.

    The hit rate belongs to one instance and the method's own randomness; the energies are averaged over instances.
    """
    known = [s for s in solved if s.hit_rate is not None]
    hit = [s.energy_j * repeats_to_solution(s.hit_rate) for s in known if s.hit_rate]
    rates = [s.hit_rate for s in known if s.hit_rate is not None]
    mean = float(np.mean(hit)) if hit else None
    return ToSolution(mean, len(hit), len(known) - len(hit), float(np.mean(rates)) if rates else None)


@dataclass(frozen=True)
class Simulation:
    """The cheapest noiseless way to the samples of an arm without a device.

    Attributes:
        by: the arm's twin, or `simulator` for its circuits as they were simulated.
        spending: what that takes, by boundary.
    """

    by: str
    spending: dict[Boundary, Draws]


def cheapest_simulation(arm: ArmFigures, arms: Sequence[ArmFigures]) -> Simulation | None:
    """Return the cheapest noiseless simulation of this very arm; None where there was none.

    That is its own simulated circuits, if they ran without noise, or the twin that the arm names; never the twin of
    another arm.
    """
    found = []
    if arm.noiseless and float(np.max(arm.energy["narrow"].simulation)) > 0:
        found.append(Simulation("simulator", {b: e.simulation for b, e in arm.energy.items()}))
    found += [
        Simulation(other.arm, {b: e.here for b, e in other.energy.items()})
        for other in arms
        if arm.twin and other.arm == arm.twin and other.status == "done"
    ]
    return min(found, key=lambda s: float(np.median(s.spending["narrow"])), default=None)


@dataclass(frozen=True)
class BreakEven:
    """Where an arm on a device would cost as little as the best classical arm, in one currency.

    Attributes:
        at: the rate of the device (W, USD per second, seconds per projected second) at which both cost the same, draw
            by draw; where it is not positive the classical arm is cheaper at any rate.
        without_own: the same if everything that the arm needs beside the device cost nothing.
        to_save: what the arm's own part exceeds the best classical arm by; negative where it does not.
        own: the arm's own part, simulation left out.
        best: what the best classical arm takes.
    """

    at: Draws
    without_own: Draws
    to_save: Draws
    own: Draws
    best: Draws

    @property
    def exists(self) -> bool:
        """Whether there is a break-even: the arm's own part is below the best classical arm in most draws."""
        return float(np.median(self.at)) > 0


def break_even(arm: Spending, best: Spending) -> BreakEven | None:
    """Return the break-even of an arm on a device against a classical arm; None where the device does nothing.

    Every part of both sides counts: what the arm needs beside the device (preparing, repairing, a surrogate) and the
    host of the device are taken off what the classical arm takes, before the rest is divided by the device's seconds.
    """
    if float(np.max(arm.device_seconds)) <= 0:
        return None
    left = best.here - arm.device_fixed
    return BreakEven(
        at=(left - arm.own) / arm.device_seconds,
        without_own=left / arm.device_seconds,
        to_save=arm.own - left,
        own=arm.own,
        best=best.here,
    )

"""What one arm of a decision reached and took: the values that all other figures are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Draws = NDArray[np.float64]
Boundary = Literal["narrow", "wide", "marginal"]

CLASSICAL = frozenset({"classical", "dequantised"})
CONTROL, QUANTUM, TWIN = "control", "quantum", "twin"


@dataclass(frozen=True)
class Solved:
    """One arm on one instance, its repetitions averaged.

    Attributes:
        instance: content key of the problem and the position in it.
        quality: higher is better.
        unit: unit of independence; instances of one unit are clustered.
        best: proven best quality, None where it is not known.
        hit_rate: probability that one execution comes within the tolerance of the best quality, by the method's own
            randomness; 0 or 1 for a deterministic method; None where no best quality is known.
        energy_j: median joules of one execution, narrow boundary.
    """

    instance: str
    quality: float
    unit: str
    best: float | None = None
    hit_rate: float | None = None
    energy_j: float = 0.0


@dataclass(frozen=True)
class Spending:
    """What a mean solve takes in one currency (joules within a boundary, USD, seconds), draw by draw.

    All arms share the draws: the same position is the same draw of every coefficient.

    Attributes:
        own: everything on this side of the device but the simulation of circuits.
        simulation: simulating circuits.
        device_fixed: what using the device takes whatever its rate, such as its host.
        device_seconds: seconds for which the device is held; times its rate (W, USD/s, s/s) this is its part.
    """

    own: Draws
    simulation: Draws
    device_fixed: Draws
    device_seconds: Draws

    @property
    def here(self) -> Draws:
        """What was spent on this side of the device, simulation included."""
        return self.own + self.simulation


@dataclass(frozen=True)
class ArmFigures:
    """One arm of a decision.

    Attributes:
        arm: name of the arm.
        kind: kind of the arm.
        role: `incumbent`, `challenger` or empty.
        status: `done` if any execution finished, else what became of it.
        solved: the instances it was scored on.
        energy: joules of a mean solve by boundary.
        price: USD of a mean solve.
        time: elapsed seconds of a mean solve.
        twin: the arm that gives the same samples or values without circuits, empty if there is none.
        noiseless: whether its circuits ran without noise, so that simulating them is a way to the same samples.
        circuits: circuits of a mean solve.
        shots: shots of a mean solve.
        two_qubit_gates: two-qubit gates of a mean solve, once per circuit, as compiled for the device.
    """

    arm: str
    kind: str
    role: str
    status: str
    solved: tuple[Solved, ...]
    energy: Mapping[Boundary, Spending]
    price: Spending
    time: Spending
    twin: str = ""
    noiseless: bool = True
    circuits: int = 0
    shots: int = 0
    two_qubit_gates: int = 0

    @property
    def quality(self) -> float | None:
        """Mean quality over the instances."""
        return float(np.mean([s.quality for s in self.solved])) if self.solved else None

    @property
    def energy_j(self) -> float:
        """Median joules of a mean solve here, narrow boundary."""
        return float(np.median(self.energy["narrow"].here))

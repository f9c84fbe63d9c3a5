"""What a device would have to be for an arm to break even: power, shot time, price, gate error. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What an arm asks of a device for one solve, and what it may cost, draw by draw.

    Attributes:
        left: what the rival takes minus the arm's own part, in joules (or USD).
        jobs: jobs sent.
        shots: shots over all circuits.
        gates: two-qubit gates of a circuit.
        job_s: seconds that a job holds the device beside its shots.
        shot_s: seconds of a shot.
        rate: W of the system (or USD per second).
        failed: factor for jobs that are sent again.
    """

    left: Array
    jobs: Array
    shots: Array
    gates: Array
    job_s: Array
    shot_s: Array
    rate: Array
    failed: Array

    @property
    def seconds(self) -> Array:
        """Seconds for which the device is held, gate errors aside."""
        return (self.jobs * self.job_s + self.shots * self.shot_s) * self.failed


def possible(work: Work) -> bool:
    """Return whether any device would do: in most draws the rival takes more than the arm's own part."""
    return bool(np.median(work.left) > 0)


def needed_rate(work: Work) -> Array:
    """Return the W (or USD per second) at which both take the same on a device as fast as assumed, without errors."""
    return np.maximum(work.left, 0.0) / work.seconds


def needed_shot_s(work: Work) -> Array:
    """Return the seconds of a shot at which both take the same at the assumed rate; 0 where jobs take too long."""
    spare_s = np.maximum(work.left, 0.0) / work.rate / work.failed - work.jobs * work.job_s
    return np.maximum(spare_s, 0.0) / work.shots


def needed_job_s(work: Work) -> Array:
    """Return the seconds of a job at which both take the same if shots took no time."""
    return np.maximum(work.left, 0.0) / work.rate / work.failed / work.jobs


def needed_gate_s(work: Work) -> Array:
    """Return the seconds of a two-qubit gate if the whole time of a shot went to gates one after another."""
    return needed_shot_s(work) / np.maximum(work.gates, 1.0)


def needed_error(work: Work) -> Array:
    """Return the error of a two-qubit gate at which shots, repeated until enough survive, still break even.

    Shots are divided by (1 - error) ^ gates; 0 where not even a device without errors would do.
    """
    spare_s = np.maximum(work.left, 0.0) / work.rate / work.failed - work.jobs * work.job_s
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.where(spare_s > 0, work.shots * work.shot_s / spare_s, np.inf)
        error = -np.expm1(np.log(survival) / np.maximum(work.gates, 1.0))
    return np.where(survival < 1, error, 0.0)

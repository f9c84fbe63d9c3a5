"""The problem of drift: windows of request embeddings to be judged against one reference. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Drift:
    """Windows to be judged against one reference.

    Attributes:
        reference: (r, d) embeddings of normal traffic.
        windows: one (m, d) for each window.
        background: (b, d) further embeddings of normal traffic, in neither sample; empty: reference and windows
            together serve.
        truth: whether each window has drifted, or empty where that is not known.
        level: false-alarm probability of one decision.
        permutations: of each test.
        shots: for each circuit of the quantum kernel.
        components: principal components that the IQP kernels encode, a qubit each.
        least_gain: share of the square root of the number of background texts that the geometric difference of a
            quantum kernel must reach, or its arm is skipped; 0 = no kernel is skipped.
        alien: (a, d) embeddings of other traffic, in no window, from which probes plant mixtures; no arm looks at
            them. Empty: the windows known to have drifted serve.

    Raises:
        ValueError: shapes that do not fit, samples of fewer than two, or a level outside (0, 1).
    """

    reference: Vectors
    windows: tuple[Vectors, ...]
    background: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    truth: tuple[bool, ...] = ()
    level: float = 0.05
    permutations: int = 499
    shots: int = 128
    components: int = 8
    least_gain: float = 0.0
    alien: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32), compare=False)

    def __post_init__(self) -> None:
        if self.truth and len(self.truth) != len(self.windows):
            raise ValueError(f"{len(self.truth)} truths should be as many as the windows ({len(self.windows)})")
        if not 0 < self.level < 1:
            raise ValueError(f"the level is a probability between 0 and 1, not {self.level}")
        samples = [self.reference, *self.windows, *(extra for extra in (self.background, self.alien) if len(extra))]
        if any(s.ndim != 2 or len(s) < 2 or s.shape[1] != self.reference.shape[1] for s in samples):
            raise ValueError(f"samples of at least 2 equally long vectors expected, got {[s.shape for s in samples]}")

    @property
    def calm(self) -> Vectors:
        """What centre and bandwidth are fixed on; never the reference alone.

        Centred on the reference alone, it lies nearer to the origin than a window of the same distribution, and the
        false-alarm rate at the 5 % level was .09 to .11 (1,000 nulls of 40 + 40 real texts) in place of .05.
        """
        return self.background if len(self.background) else np.vstack([self.reference, *self.windows])


@dataclass(frozen=True)
class Verdicts:
    """The decision on every window.

    Attributes:
        p_values: of no drift.
        alerts: p-value at or below the level.
        statistics: of the arm's own test; not comparable between arms.
    """

    p_values: tuple[float, ...]
    alerts: tuple[bool, ...]
    statistics: tuple[float, ...]


def quality(problem: Drift, solution: Verdicts) -> tuple[float, ...]:
    """1 for each window judged rightly, else 0; empty where the truth is not known."""
    pairs = zip(problem.truth, solution.alerts, strict=True) if problem.truth else ()
    return tuple(float(truth == alert) for truth, alert in pairs)

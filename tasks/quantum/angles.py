"""The ramps that QAOA arms use: tuned on problems that no study has, kept beside the arms with their source.

`angles.yaml` in the folder of a decision is written by `python -m benchmarks.angles STAGE/DECISION --write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from tasks.quantum.qaoa import Angles, linear_ramp


@dataclass(frozen=True)
class Ramp:
    """A linear ramp of angles.

    Attributes:
        layers: number of layers that it was tuned for.
        gamma: angle of the last phase.
        beta: angle of the first mixer.
        source: command, tuning set and number of trials it comes from.
    """

    layers: int
    gamma: float
    beta: float
    source: str

    def angles(self, layers: int | None = None) -> Angles:
        """Return the gammas and betas; for another number of layers than the tuned one, between the same peaks."""
        return linear_ramp(layers or self.layers, self.gamma, self.beta)


@cache
def tuned_ramp(key: str, name: str) -> Ramp:
    """Return a tuned ramp of a decision, given as `stage/name`.

    Raises:
        KeyError: the decision has no ramp of that name.
    """
    stored = _stored(key)
    return Ramp(**stored["ramps"][name], source=stored["source"])


def tuned_temperatures(key: str, name: str) -> tuple[float, float]:
    """Return the first and the last temperature of an annealing, tuned with as many trials as the ramps.

    Raises:
        KeyError: the decision has no annealing of that name.
    """
    first, last = _stored(key)["annealing"][name]
    return float(first), float(last)


@cache
def _stored(key: str) -> dict[str, Any]:
    stage, _, decision = key.partition("/")
    path = resources.files("tasks") / stage / decision / "angles.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found

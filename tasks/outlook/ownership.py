"""What adopting a quantum method costs beside what it saves: total cost of ownership. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


Name = Literal[
    "volume", "years", "adoption", "upkeep", "classical", "own", "device", "device_s", "subscription", "subscription_s"
]


@dataclass(frozen=True)
class Plan:
    """Adoption of a method at a site.

    Attributes:
        get: returns the draws of a quantity; only what a total needs is asked for. `volume`: decisions a year; `years`
            that are looked at; `adoption`: USD spent once, for integration and training; `upkeep`: USD a year;
            `classical`: USD of a decision on the classical road; `own`: USD of a decision of the quantum arm beside the
            device; `device`: USD of a decision for the device at the list price; `device_s`: seconds of it;
            `subscription`: USD a year of a reserved plan; `subscription_s`: seconds a year in that plan.
    """

    get: Callable[[Name], Array]

    @property
    def total_classical(self) -> Array:
        """USD of the classical road."""
        return self.get("years") * self.get("volume") * self.get("classical")

    @property
    def total_as_you_go(self) -> Array:
        """USD of the quantum road, every second or shot at the list price."""
        return self.get("adoption") + self.get("years") * (
            self.get("upkeep") + self.get("volume") * (self.get("own") + self.get("device"))
        )

    @property
    def total_subscribed(self) -> Array:
        """USD of the quantum road with the reserved plan; what does not fit into it is paid at the list price."""
        beyond = np.maximum(
            0.0, 1.0 - self.get("subscription_s") / np.maximum(self.get("volume") * self.get("device_s"), 1e-300)
        )
        device = self.get("subscription") + self.get("volume") * self.get("device") * beyond
        return self.get("adoption") + self.get("years") * (
            self.get("upkeep") + self.get("volume") * self.get("own") + device
        )

    @property
    def break_even_volume(self) -> Array:
        """Decisions a year from which paying as you go is cheaper; infinite where no volume is enough."""
        saved = self.get("classical") - self.get("own") - self.get("device")
        fixed = self.get("adoption") / self.get("years") + self.get("upkeep")
        with np.errstate(divide="ignore"):
            return np.where(saved > 0, fixed / np.maximum(saved, 1e-300), np.inf)

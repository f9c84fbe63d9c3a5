"""The state of monitored traffic: ok, warning, alert, or too few requests to say.

Pure: a watch and a window give the next watch. A single window never raises an alert (debounce), an alert is
announced once (not once a window), and a new one not before the cool-down has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """What is known about the traffic."""

    OK = "ok"
    WARNING = "warning"
    ALERT = "alert"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True)
class Rules:
    """When the state changes.

    Attributes:
        level: p-value at or below which a window counts as drifted.
        minimum: requests that a window needs to count at all.
        debounce: drifted windows in a row until an alert.
        recovery: quiet windows in a row until an alert is over.
        cool_down: windows after an announcement in which no further one is made.

    Raises:
        ValueError: a rule that can never be met.
    """

    level: float = 0.05
    minimum: int = 20
    debounce: int = 2
    recovery: int = 2
    cool_down: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"the level is a probability between 0 and 1, not {self.level}")
        if min(self.minimum, self.debounce, self.recovery) < 1 or self.cool_down < 0:
            raise ValueError("minimum, debounce and recovery are at least 1, the cool-down at least 0")


@dataclass(frozen=True)
class Watch:
    """What a watch knows after a window.

    Attributes:
        level: what is shown for the window.
        standing: ok, warning or alert as last known; an insufficient window does not change it.
        drifted: drifted windows in a row.
        quiet: quiet windows in a row.
        cooling: windows, this one included, until the next announcement may be made.
        pending: an alert that has not been announced yet.
        announced: `drift.detected` and the like, to be emitted for this window, or None.
    """

    level: Level = Level.OK
    standing: Level = Level.OK
    drifted: int = 0
    quiet: int = 0
    cooling: int = 0
    pending: bool = False
    announced: str | None = None


def step(watch: Watch, requests: int, p_value: float, rules: Rules) -> Watch:
    """Return the watch after a window of `requests` requests with the p-value of no drift.

    Raises:
        ValueError: the p-value is no probability.
    """
    if not 0 <= p_value <= 1:
        raise ValueError(f"a p-value lies between 0 and 1, not {p_value}")
    cooling = max(0, watch.cooling - 1)
    if requests < rules.minimum:
        return replace(watch, level=Level.INSUFFICIENT, cooling=cooling, announced=None)
    drifted = watch.drifted + 1 if p_value <= rules.level else 0
    quiet = 0 if drifted else watch.quiet + 1
    standing, pending, announced = watch.standing, watch.pending, None
    if drifted >= rules.debounce:
        pending = pending or standing is not Level.ALERT
        standing = Level.ALERT
    elif drifted:
        if standing is Level.OK:
            standing, announced = Level.WARNING, "drift.warning"
    elif standing is Level.WARNING:
        standing = Level.OK
    elif standing is Level.ALERT and quiet >= rules.recovery:
        # An alert that the cool-down kept silent is over just as silently.
        standing, announced, pending = Level.OK, None if pending else "drift.cleared", False
    if pending and drifted and not cooling:
        pending, announced, cooling = False, "drift.detected", rules.cool_down + 1
    return Watch(standing, standing, drifted, quiet, cooling, pending, announced)


def follow(windows: Sequence[tuple[int, float]], rules: Rules) -> list[Watch]:
    """Return the watch after each (requests, p-value), from an ok start."""
    watch, passed = Watch(), []
    for requests, p_value in windows:
        watch = step(watch, requests, p_value, rules)
        passed.append(watch)
    return passed


def average_run_length(rules: Rules, alarm_rate: float | None = None) -> float:
    """Return the mean number of windows until a false alert, if windows raise false alarms independently.

    The waiting time for `debounce` successes in a row, (1 - a^k) / ((1 - a) a^k) (Feller, volume 1, XIII.7). Windows
    judged against one reference are not quite independent, so what is measured is shorter.

    Args:
        rules: their level is the alarm rate of a window and their debounce the number in a row.
        alarm_rate: of a window, where it is not the level.
    """
    a, k = rules.level if alarm_rate is None else alarm_rate, rules.debounce
    return (1 - a**k) / ((1 - a) * a**k)

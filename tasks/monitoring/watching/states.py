"""The state of monitored traffic: ok, warning, alert, or insufficient (too few requests).

A state machine without side effects: a watch and a window give the next watch. A single window never raises an alert
(debounce). An alert is announced once, not in every window, and a new alert only after the cool-down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Level(StrEnum):
    """State of the traffic."""

    OK = "ok"
    WARNING = "warning"
    ALERT = "alert"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True)
class Rules:
    """Thresholds of the state machine.

    Attributes:
        level: p-value at or below which a window counts as drifted.
        minimum: minimum number of requests of a window; smaller windows do not change the state.
        debounce: consecutive drifted windows that raise an alert.
        recovery: consecutive windows without drift that end an alert.
        cool_down: number of windows after an announcement without another announcement.

    Raises:
        ValueError: a threshold is out of range.
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
    """The state of the monitored traffic after a window.

    Attributes:
        level: state of the window.
        standing: last known state: ok, warning or alert; an insufficient window does not change it.
        drifted: number of consecutive drifted windows.
        quiet: number of consecutive windows without drift.
        cooling: number of windows, this one included, until the next announcement is allowed.
        pending: whether an alert has not been announced yet.
        announced: event to be emitted for this window, such as `drift.detected`, or None.
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
        ValueError: the p-value is not between 0 and 1.
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
        # The end of an alert that was never announced is not announced either.
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
    tested against the same reference are not independent, so the measured run length is shorter.

    Args:
        rules: thresholds; `level` is the default alarm rate, `debounce` the number of consecutive windows.
        alarm_rate: false-alarm rate of a window, if it differs from `level`.
    """
    a, k = rules.level if alarm_rate is None else alarm_rate, rules.debounce
    return (1 - a**k) / ((1 - a) * a**k)

"""What is known after each window: the watches on drift and on quality, and the event that follows from both. Pure.

The only place where windows are followed: the stage and the hourly watch both use `Standing.after`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.monitoring.watching.harm import Harm, Verdict
from tasks.monitoring.watching.states import Level, Rules, Watch, step


@dataclass(frozen=True)
class Standing:
    """All that is kept between two windows; plain values, see `asdict` and `parse`."""

    drift: Watch = field(default_factory=Watch)
    quality: Watch = field(default_factory=Watch)

    def after(self, requests: int, p_value: float, harm: Harm | None, rules: Rules) -> tuple[Standing, str | None]:
        """Return what is known after a window, and the name of the event to be emitted, at most one.

        Args:
            requests: of the window.
            p_value: of no drift; 1 where the window has too few requests to be tested.
            harm: its quality against the reference; None where no quality is known.
            rules: when the states change.

        Raises:
            ValueError: the p-value is no probability.
        """
        drift = step(self.drift, requests, p_value, rules)
        quality = step(self.quality, requests, harm.p_value, rules) if harm else self.quality
        return Standing(drift, quality), decide_event(drift, harm, quality if harm else None)

    def asdict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    @classmethod
    def parse(cls, value: Mapping[str, Any] | None) -> Standing:
        """Read what `asdict` gave; None is the beginning."""
        if not value:
            return cls()
        watches = {
            name: Watch(**{**part, "level": Level(part["level"]), "standing": Level(part["standing"])})
            for name, part in value.items()
        }
        return cls(**watches)


def decide_event(drift: Watch, harm: Harm | None, quality: Watch | None) -> str | None:
    """Return the event of a window, at most one, from the watches on drift and on quality.

    | drift | quality | event |
    |---|---|---|
    | alert begins | held | `drift.warning`: drift without harm does not retrain |
    | alert begins | harmed, unclear or not known | `drift.detected` |
    | alert goes on | alert begins | `drift.detected` |
    | no alert | alert begins | `quality.regressed` |
    | otherwise | | what the watch on drift announced, if anything |
    """
    if drift.announced == "drift.detected":
        return "drift.warning" if harm is not None and harm.verdict is Verdict.HELD else "drift.detected"
    if quality is not None and quality.announced == "drift.detected":
        return "drift.detected" if drift.standing is Level.ALERT else "quality.regressed"
    return drift.announced

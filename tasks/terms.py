"""Tolerance, metric and predictions of a decision, committed in `decision.yaml` before its first study."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Terms:
    """What `decision.yaml` of a decision fixes before its studies.

    Attributes:
        tolerance: quality that may be lost against the best classical arm.
        metric: what the quality measures.
        reason: why the tolerance is that large.
        predictions: the verdict, its probability, and what is expected of each arm.
        published: of a pilot, the published claim (`tasks.pilots.claim.Published`).
        profiles: of a pilot, what each profile gives to its study.
    """

    tolerance: float
    metric: str
    reason: str
    predictions: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)


def terms(key: str) -> Terms:
    """Return the terms of a decision, given as `stage/name`."""
    stage, _, name = key.partition("/")
    path = resources.files("tasks") / stage / name / "decision.yaml"
    return Terms(**yaml.safe_load(path.read_text(encoding="utf-8")))

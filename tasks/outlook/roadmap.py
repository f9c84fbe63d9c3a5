"""The published roadmap beside the evidence: one verdict for each stage, by a stated rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

Verdict = Literal["supported", "contradicted", "undecidable today"]

FILE = Path(__file__).with_name("roadmap.yaml")
SURE = 0.95
WINDOWS = {"near": "1 to 3 years", "medium": "3 to 7 years", "long": "more than 7 years"}

RULE = (
    "Supported: a quantum arm is as good as the best classical arm, within the tolerance, and takes less energy with "
    "probability .95 on a device with gate errors. Contradicted: there is evidence; no quantum arm takes less energy "
    "with probability above .05; every fault-tolerant estimate for the stage takes more energy than the classical "
    "method with probability .95 on both machines; and nothing is named that neither can decide. Otherwise "
    "undecidable today. A verdict is about these decisions and subroutines at these sizes."
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """What the roadmap says of a stage, and what would decide it."""

    stage: str
    idea: str
    window: Literal["near", "medium", "long"]
    potential: Literal["low", "medium", "high"]
    subroutines: tuple[str, ...]
    open: str = ""
    change: str


class Claim(_Strict):
    """A sentence of the source, and what would change the verdict on it."""

    claim: str
    change: str


class Roadmap(_Strict):
    """The whole file."""

    source: str
    energy: Claim
    stages: tuple[Stage, ...]


def load_roadmap() -> Roadmap:
    """Return the roadmap."""
    return Roadmap.model_validate(yaml.safe_load(FILE.read_bytes()))


@dataclass(frozen=True)
class Seen:
    """What the evidence says of one quantum arm.

    Attributes:
        standing: its quality against the best classical arm: `equal`, `better`, `worse` or `unknown`.
        saves: P(it takes less energy than the best classical arm), the best of all devices.
    """

    standing: str
    saves: float


def judge(seen: Sequence[Seen], estimates: Sequence[float], undecided: str) -> Verdict:
    """Return the verdict on a stage by the rule `RULE`.

    Args:
        seen: the quantum arms of the stage's decisions.
        estimates: P(the fault-tolerant subroutine takes more energy than the classical method), for each subroutine
            and machine.
        undecided: what neither can decide, empty if nothing.
    """
    if any(arm.standing in ("equal", "better") and arm.saves >= SURE for arm in seen):
        return "supported"
    against = all(arm.saves <= 1 - SURE for arm in seen) and all(p >= SURE for p in estimates)
    return "contradicted" if seen and against and not undecided else "undecidable today"

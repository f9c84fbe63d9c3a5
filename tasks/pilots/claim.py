"""What a publication claimed, in the form in which `decision.yaml` of a pilot holds it, and what its page is made from.

A pilot `tasks.pilots.<name>` is a decision like any other that is on no stage's road. It may offer, in a module
`sections`, a function `sections(seen) -> tuple[Section, ...]` with further tables for its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.contract import PILOTS
from tasks.evaluation.claims import BETTER, REPRODUCED
from tasks.sections import plain
from tasks.terms import terms


class Strict(BaseModel):
    """A part of the claim, as people write it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(Strict):
    """One published number, and what it is compared with.

    Attributes:
        name: what the number is, for people.
        arm: the arm that is compared with it.
        against: arm whose value is subtracted, for a published difference.
        relative: whether the difference is divided by the value of `against`.
        measure: name of a measure; empty = the quality.
        source: only instances of this source.
        contains: only instances whose name holds this text.
        published: the published value; None for a bar of ours.
        within: largest distance from the published value at which it counts as reproduced.
        least: smallest value at which it counts as reproduced.
        noisy: whether the rows with the noise of a device are meant, not the others.
        judged: whether the verdict rests on it.
    """

    name: str
    arm: str
    against: str = ""
    relative: bool = False
    measure: str = ""
    source: str = ""
    contains: str = ""
    published: float | None = None
    within: float | None = Field(None, gt=0)
    least: float | None = None
    noisy: bool = False
    judged: bool = True

    @model_validator(mode="after")
    def _has_a_bar(self) -> Number:
        if self.judged and (self.within is None) == (self.least is None):
            raise ValueError(f"{self.name}: a number that is judged has one of `within` and `least`")
        if self.within is not None and self.published is None:
            raise ValueError(f"{self.name}: `within` needs the published value")
        if self.relative and not self.against:
            raise ValueError(f"{self.name}: a relative difference needs `against`")
        return self


class Data(Strict):
    """A data set that the pilot uses.

    Attributes:
        name: the data set.
        licence: under which it may be used and passed on.
        origin: where it is from.
        left_out: columns that were dropped, with the reason; such as those that tell the outcome.
    """

    name: str
    licence: str
    origin: str
    left_out: str = ""


class Published(Strict):
    """What was published, what was not, and how it is judged.

    Attributes:
        title: the case in one line.
        claim: the claim.
        source: the publication.
        url: where it is.
        stated: what was published about the set-up.
        unstated: what was not, and what we took instead.
        omitted: what the published comparison left out.
        data: the data sets used here.
        unjudgeable: why the claim itself cannot be judged, whatever the numbers are; empty if it can.
        all_features: classical arms that see all features; the others see what the circuits see.
        numbers: published numbers and bars.
        predicted: probability of each verdict, committed before the full run, by `reproduced` and `better`.
    """

    title: str
    claim: str
    source: str
    url: str
    stated: tuple[str, ...]
    unstated: tuple[str, ...]
    omitted: tuple[str, ...]
    data: tuple[Data, ...]
    unjudgeable: str = ""
    all_features: tuple[str, ...] = ()
    numbers: tuple[Number, ...]
    predicted: dict[str, dict[str, float]]

    @model_validator(mode="after")
    def _predicts_all_verdicts(self) -> Published:
        known = {"reproduced": REPRODUCED, "better": BETTER}
        if unknown := sorted(self.predicted.keys() - known):
            raise ValueError(f"predicted has {', '.join(unknown)}; it should have {' and '.join(known)} only")
        for name, answers in known.items():
            given = self.predicted.get(name, {})
            if set(given) != set(answers) or abs(sum(given.values()) - 1) > 1e-9:
                raise ValueError(f"predicted.{name} should give {', '.join(answers)} probabilities that add up to 1")
        return self


@dataclass(frozen=True)
class Seen:
    """One executed arm on one instance, its repetitions averaged.

    Attributes:
        source: source of the instance.
        name: its name.
        unit: its unit of independence.
        size: its size.
        arm: the arm.
        kind: kind of the arm.
        quality: the quality reached.
        measures: further values by name.
        circuits: circuits of a solve.
        shots: shots of a solve.
        two_qubit_gates: two-qubit gates of a solve.
        qpu_s: projected seconds of a solve on a QPU.
        noisy: whether it ran with the noise of a device.
    """

    source: str
    name: str
    unit: str
    size: int
    arm: str
    kind: str
    quality: float
    measures: Mapping[str, float] = field(default_factory=dict)
    circuits: int = 0
    shots: int = 0
    two_qubit_gates: int = 0
    qpu_s: float = 0.0
    noisy: bool = False


@cache
def published(name: str) -> Published:
    """Return the claim of a pilot."""
    return Published.model_validate(terms(f"{PILOTS}/{name}").published)


def profile(name: str, which: str) -> dict[str, Any]:
    """Return what a profile gives to the study of a pilot.

    Raises:
        KeyError: no such profile; the message lists those there are.
    """
    found = terms(f"{PILOTS}/{name}").profiles
    if which not in found:
        raise KeyError(f"{PILOTS}/{name} has no profile {which!r}; it has {', '.join(found)}")
    return dict(found[which])


def plain_sections(name: str, seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Return the further tables of a pilot's page as plain values; none where it offers none."""
    if not (resources.files("tasks") / PILOTS / name / "sections.py").is_file():
        return []
    return plain(import_module(f"tasks.{PILOTS}.{name}.sections").sections(seen))

"""Limits of what one job may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

I = TypeVar("I", bound="Sized")  # noqa: E741


class Sized(Protocol):
    """A part of a call that travels in a job."""

    @property
    def manner(self) -> str:
        """What all parts of a job must have in common on a device that runs them alike."""
        ...

    @property
    def executions(self) -> int:
        """Circuits times shots."""
        ...


@dataclass(frozen=True)
class Limits:
    """What one job of a backend may hold.

    Attributes:
        executions: circuits times shots, or None.
        parts: PUBs or ranges of them.
        sets: parameter sets of one PUB; a larger one is cut into parts.
        samples: parameter sets times shots of one part, or None.
        alike: whether all parts of a job must agree on primitive, shots and options.
        step_s: smallest step of a job's time limit, QPU seconds; what is reserved for a job is rounded up to it.
            0 = the service takes no time limit.
    """

    executions: int | None = None
    parts: int = 256
    sets: int = 512
    samples: int | None = None
    alike: bool = False
    step_s: float = 0.0

    def sets_per_part(self, shots: int) -> int:
        """Return how many parameter sets of a PUB travel together."""
        bounds = [limit // max(1, shots) for limit in (self.executions, self.samples) if limit is not None]
        return max(1, min([self.sets, *bounds]))

    def admit(self, count: int, executions: int) -> bool:
        """Say whether so many parts with so many executions fit into one job."""
        return count <= self.parts and (self.executions is None or executions <= self.executions)

    def mix(self, items: Sequence[Sized]) -> bool:
        """Say whether parts may share a job, whatever their number."""
        return not self.alike or len({item.manner for item in items}) <= 1

    def reserve_s(self, needed_s: float, allowed_s: float = 0.0) -> float:
        """Return the time limit of a job: the largest step within what is allowed, and never below what it needs.

        Args:
            needed_s: QPU seconds that the job is expected to be billed.
            allowed_s: QPU seconds that it may be billed.
        """
        if self.step_s <= 0:
            return max(needed_s, allowed_s)
        least = self.step_s * max(1, math.ceil(needed_s / self.step_s - 1e-9))
        return max(least, self.step_s * math.floor(allowed_s / self.step_s + 1e-9))

    def split(self, items: Sequence[I]) -> list[tuple[I, ...]]:
        """Cut items into groups that fit; an item too large on its own travels alone."""
        groups: list[list[I]] = []
        load = 0
        for item in sorted(items, key=lambda item: item.manner) if self.alike else items:
            full = not groups or not self.admit(len(groups[-1]) + 1, load + item.executions)
            if full or not self.mix((groups[-1][0], item)):
                groups.append([])
                load = 0
            groups[-1].append(item)
            load += item.executions
        return [tuple(group) for group in groups]

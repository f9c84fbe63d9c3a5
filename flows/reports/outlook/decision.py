"""A decision with models of its arms over size, and the rivals of each quantum arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from flows.reports.figures import Arm, arms_of
from infra.energy.model import Boundary, Coefficients
from infra.evidence import EvidenceRow
from tasks.evaluation.classical import BestClassical, as_good_as, best_classical
from tasks.evaluation.energy import cheapest_simulation
from tasks.evaluation.figures import QUANTUM
from tasks.evaluation.paired import paired
from tasks.outlook.assumptions import Assumptions
from tasks.outlook.spending import ArmModel, Currency, fits_of

Array = NDArray[np.float64]

MEDIAN_DRAWS = 101  # where only medians are used


@dataclass(frozen=True)
class Rival:
    """A classical method that a quantum arm is compared with.

    Attributes:
        key: `best classical` or `simulation`.
        name: the arm, or `simulator`.
        model: the arm's model; that of the quantum arm itself for `simulator`.
        others: further classical arms as good as the best classical arm or as the quantum arm; one of them may be the
            cheapest at other sizes.
    """

    key: str
    name: str
    model: ArmModel
    others: tuple[ArmModel, ...] = ()

    def takes(self, sizes: Array, currency: Currency, boundary: Boundary) -> Array:
        """Return draws of the cost of the rival."""
        return self.model.all_here(sizes, currency, boundary)

    def least(self, sizes: Array, currency: Currency, boundary: Boundary) -> Array:
        """Return draws of the lowest cost among the rival and the others, at each size and in each draw."""
        each = [model.all_here(sizes, currency, boundary) for model in (self.model, *self.others)]
        return reduce(np.minimum, each)


@dataclass(frozen=True)
class Decision:
    """A decision with the models of its arms.

    Attributes:
        key: `stage/name`.
        rows: the evidence.
        arms: the arms with their figures.
        models: the arms at any size.
        best: the best classical arm at matched quality, None where no classical arm was scored.
    """

    key: str
    rows: tuple[EvidenceRow, ...]
    arms: dict[str, Arm]
    models: dict[str, ArmModel]
    best: BestClassical | None

    @classmethod
    def of(cls, key: str, rows: Sequence[EvidenceRow], assumptions: Assumptions) -> Decision:
        """Return a decision from its rows."""
        arms = arms_of(rows, Coefficients.load(n=MEDIAN_DRAWS))  # only medians are used
        by_arm = {name: [row for row in rows if row.arm == name] for name in arms}
        models = {
            name: ArmModel(key, name, fits_of(its), arms[name].source, assumptions) for name, its in by_arm.items()
        }
        best = best_classical([arm.figures for arm in arms.values()], rows[0].tolerance)
        return cls(key, tuple(rows), arms, models, best)

    @property
    def quantum(self) -> list[str]:
        """Names of the arms that run circuits, the challenger first."""
        found = [arm.figures for arm in self.arms.values() if arm.figures.kind == QUANTUM and arm.figures.circuits]
        return [a.arm for a in sorted(found, key=lambda a: (a.role != "challenger", a.arm))]

    @cached_property
    def sizes(self) -> list[int]:
        """The different sizes in the evidence."""
        return sorted({max(1, row.size) for row in self.rows})

    def difference(self, arm: str) -> float | None:
        """Return the mean paired difference in quality of an arm to the best classical arm."""
        if self.best is None:
            return None
        return paired(self.arms[arm].figures, self.best.arm).mean

    def standing(self, arm: str) -> str:
        """Return whether an arm's quality is `equal`, `better` or `worse` than the best classical, by the tolerance."""
        difference = self.difference(arm)
        if difference is None:
            return "unknown"
        tolerance = self.rows[0].tolerance
        return "worse" if difference < -tolerance - 1e-12 else "better" if difference > tolerance else "equal"

    def rivals(self, arm: str) -> list[Rival]:
        """Return the best classical arm and the cheapest simulation, as far as there are any."""
        found = []
        figures = [a.figures for a in self.arms.values()]
        if self.best is not None:
            name = self.best.arm.arm
            matched = {*self.best.matched, *as_good_as(self.arms[arm].figures, figures, self.rows[0].tolerance)}
            others = tuple(self.models[other] for other in sorted(matched - {name}))
            found.append(Rival("best classical", name, self.models[name], others))
        simulation = cheapest_simulation(self.arms[arm].figures, figures)
        if simulation is not None:
            mine = simulation.by == "simulator"
            found.append(Rival("simulation", simulation.by, self.models[arm if mine else simulation.by]))
        return found

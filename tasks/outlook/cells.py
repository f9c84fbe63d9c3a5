"""Every figure of the outlook as a cell that names the assumptions it depends on and the evidence it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.outlook.assumptions import Assumptions

Kind = Literal["measured", "modelled", "projected", "assumed"]
Band = tuple[float, float, float]


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        key: where it stands, parts separated by `/`, e.g. `inference/pruning/qaoa/superconducting/energy/narrow`.
        unit: unit of value and band.
        kind: how the figure came about.
        value: the figure, None where there is none.
        band: 5 %, 50 % and 95 % points.
        text: the figure in words, where a number does not say it.
        rows: key of the set of evidence rows it was made from; empty for a figure of assumptions alone.
        depends: names of the assumptions it was computed from.
    """

    key: str
    unit: str
    kind: Kind
    value: float | None = None
    band: Band | None = None
    text: str = ""
    rows: str = ""
    depends: tuple[str, ...] = ()

    def asdict(self) -> dict[str, Any]:
        """Return the cell as it is stored; what is not finite is left out."""
        found: dict[str, Any] = dict(vars(self))
        found["value"] = _finite(self.value)
        found["band"] = [_finite(point) for point in self.band] if self.band else None
        return found


@dataclass(frozen=True)
class Figure:
    """What a cell shows: a number, a band or words."""

    value: float | None = None
    band: Band | None = None
    text: str = ""


@dataclass
class Cells:
    """The cells computed so far, in order.

    Attributes:
        assumptions: what they are computed from.
    """

    assumptions: Assumptions
    _cells: dict[str, Cell] = field(default_factory=dict)

    def add(self, key: str, unit: str, kind: Kind, rows: str, make: Callable[[], Figure]) -> Cell:
        """Compute a figure and keep it with what it depends on."""
        with self.assumptions.reading() as names:
            figure = make()
        cell = Cell(key, unit, kind, figure.value, figure.band, figure.text, rows, tuple(sorted(names)))
        self._cells[key] = cell
        return cell

    def __getitem__(self, key: str) -> Cell:
        return self._cells[key]

    def get(self, key: str) -> Cell | None:
        """Return a cell, None where it was not computed."""
        return self._cells.get(key)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def below(self, prefix: str) -> Iterable[Cell]:
        """Yield the cells whose key begins with a prefix."""
        return (cell for key, cell in self._cells.items() if key.startswith(prefix))


def banded(draws: NDArray[np.float64]) -> Figure:
    """Return the median of draws with its 5 % and 95 % points."""
    low, middle, high = (float(q) for q in np.quantile(draws, (0.05, 0.5, 0.95), method="nearest"))
    return Figure(middle, (low, middle, high))


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None

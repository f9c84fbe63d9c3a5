"""The instance bank of `flights`: searches in stored tables of real fits of a delay model.

The tables (`fits.parquet`, made by `python -m benchmarks.flights`) hold one fit of every setting of gradient boosting
and of a small network on the flights of an airport. An instance is a cell: a table and a start design. Cells of one
table share its fits, so their unit of independence is the start design and the random numbers of the arms.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from tasks.architecture.hyperparameters.problem import Search
from tasks.architecture.hyperparameters.runs import Stored
from tasks.contract import Instance, Material, in_turns

if TYPE_CHECKING:
    from numpy.random import Generator

TRIALS, START, PARALLEL = 40, 5, 5
SHORT = 10  # fits of one more instance of each table, which says how costs grow
CELLS = 20  # of a table
RESOURCE = "fits.parquet"


@cache
def stored_fits() -> dict[str, Stored]:
    """Return the stored fits by model and airport."""
    with resources.as_file(resources.files("tasks.pilots.flights") / RESOURCE) as path:
        table = pq.read_table(path).sort_by("setting")
    found = {}
    for source in sorted(set(table["source"].to_pylist())):
        rows = table.filter(np.asarray(table["source"]) == source)
        curves = [np.array(rows[name].to_pylist(), np.float64) for name in ("validation", "cpu_s")]
        test = rows["test"].to_numpy().astype(np.float64)
        for part in (*curves, test):
            part.setflags(write=False)
        found[source] = Stored(curves[0], test, curves[1])
    return found


def bank(_: Material, rng: Generator) -> Iterator[Instance[Search]]:
    """Yield the cells of every table, in turns."""
    cells = rng.permutation(10_000)[:CELLS].tolist()
    yield from in_turns([_of_table(source, cells) for source in stored_fits()])


def _of_table(source: str, cells: list[int]) -> Iterator[Instance[Search]]:
    for trials, cell in [*((TRIALS, cell) for cell in cells), (SHORT, cells[0])]:
        name = f"{trials} fits, start design {cell}"
        yield Instance(source, name, trials, partial(_pose, source, trials, cell), unit=f"{source} {cell}")


def _pose(source: str, trials: int, cell: int) -> Search:
    return Search(stored_fits()[source], trials, START, PARALLEL, cell)


def example(rng: Generator) -> Search:
    """Return a search of 10 fits in the first table."""
    return Search(next(iter(stored_fits().values())), 10, START, PARALLEL, int(rng.integers(10_000)))

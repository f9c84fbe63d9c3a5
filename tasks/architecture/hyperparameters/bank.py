"""The instance bank of `hyperparameters`: searches in stored tables of real training runs.

The tables (`runs.parquet`, made by `python -m benchmarks.hpo`) hold one run of every setting on each of the two shipped
domains. An instance is a cell: a table and a start design. Cells of one table share its runs, so their unit of
independence is the start design and the random numbers of the arms, not the training text. Beside every second cell the
same search has fewer trials.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from tasks.architecture.hyperparameters.problem import Search
from tasks.architecture.hyperparameters.runs import Stored, default_setting
from tasks.contract import Instance, Material, in_turns
from tasks.text.works import smaller

if TYPE_CHECKING:
    from numpy.random import Generator

TRIALS, START, PARALLEL = 40, 10, 2
SMALLER = (12, 16, 24, 32)  # trials
CELLS = 110  # of a table
RESOURCE = "runs.parquet"
NUMBERS = (b"tokens", b"context", b"windows")  # of the metadata of the table
BYTES = 256  # tokens of the vocabulary


@cache
def stored_runs() -> dict[str, Stored]:
    """Return the stored runs by the source of their text."""
    with resources.as_file(resources.files("tasks.architecture.hyperparameters") / RESOURCE) as path:
        table = pq.read_table(path).sort_by("setting")
    about = {name.decode(): json.loads(value) for name, value in table.schema.metadata.items() if name in NUMBERS}
    unique = about["windows"]["training"] * about["context"]
    default = default_setting(BYTES, about["context"], about["tokens"], unique)
    found = {}
    for source in sorted(set(table["source"].to_pylist())):
        rows = table.filter(np.asarray(table["source"]) == source)
        curves = [np.array(rows[name].to_pylist(), np.float64) for name in ("validation", "cpu_s")]
        for part in curves:
            part.setflags(write=False)
        test = rows["test"].to_numpy().astype(np.float64)
        test.setflags(write=False)
        found[source] = Stored(curves[0], test, curves[1], default)
    return found


def bank(material: Material, rng: Generator) -> Iterator[Instance[Search]]:
    """Yield the cells of every table whose text is among the sources, in turns."""
    cells = rng.permutation(10_000)[:CELLS].tolist()
    yield from in_turns([_of_table(source, cells) for source in sorted(stored_runs()) if source in material.texts])


def _of_table(source: str, cells: list[int]) -> Iterator[Instance[Search]]:
    for number, cell in enumerate(cells):
        name = f"table of {source}, start design {cell}"
        for trials in (TRIALS, *smaller(source, number, SMALLER)):
            label = name if trials == TRIALS else f"{name}, {trials} trials"
            yield Instance(source, label, trials, partial(_pose, source, cell, trials), unit=f"{source} {cell}")


def _pose(source: str, cell: int, trials: int) -> Search:
    return Search(stored_runs()[source], trials, START, PARALLEL, cell)


def example(rng: Generator) -> Search:
    """Return a search of 11 runs in the stored table of the documentation."""
    return Search(stored_runs()["documentation"], 11, START, PARALLEL, int(rng.integers(10_000)))

"""The instance bank of `tuning_policy`: campaigns in stored tables of real fine-tuning runs.

The tables (`runs.parquet`, made by `python -m benchmarks.tuning table`) hold every setting with several seeds for each
source of text: a model trained on another source is tuned to this one. An instance is a cell with a number of episodes:
a table, the seed that comes first, and the random numbers of the arms. Cells of one table share its runs, so their unit
of independence is the cell, not the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from importlib import resources
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.tuning_policy.problem import Campaign
from tasks.finetuning.tuning_policy.runs import Stored

if TYPE_CHECKING:
    from numpy.random import Generator

EPISODES, PARALLEL, SHOTS = 48, 4, 256
SIZES = (48, 16, 32, 24, 64)  # episodes of the cells in turn
CELLS = 66  # of a table
RESOURCE = "runs.parquet"


@cache
def stored_runs() -> dict[str, Stored]:
    """Return the stored runs by the source of the text that was tuned to."""
    with resources.as_file(resources.files("tasks.finetuning.tuning_policy") / RESOURCE) as path:
        table = pq.read_table(path).sort_by([("setting", "ascending"), ("seed", "ascending")])
    found = {}
    for source in sorted(set(table["source"].to_pylist())):
        rows = table.filter(np.asarray(table["source"]) == source)
        seeds = len(set(rows["seed"].to_pylist()))
        columns = [
            rows[name].to_numpy().astype(np.float64).reshape(-1, seeds) for name in ("validation", "test", "cpu_s")
        ]
        for column in columns:
            column.setflags(write=False)
        found[source] = Stored(*columns)
    return found


def best_elsewhere(source: str = "") -> int:
    """Return the setting with the highest mean share of the best reward over the tables, one source left out."""
    tables = [runs for name, runs in stored_runs().items() if name != source]
    return int(np.mean([runs.worth / runs.worth.max() for runs in tables], axis=0).argmax())


def bank(material: Material, rng: Generator) -> Iterator[Instance[Campaign]]:
    """Yield the cells of every table whose text is among the sources, in turns."""
    cells = rng.permutation(10_000)[:CELLS].tolist()
    yield from in_turns([_of_table(source, cells) for source in sorted(stored_runs()) if source in material.texts])


def _of_table(source: str, cells: list[int]) -> Iterator[Instance[Campaign]]:
    for cell, size in zip(cells, cycle(SIZES), strict=False):
        pose = partial(campaign, source, cell, size)
        yield Instance(source, f"cell {cell}, {size} episodes", size, pose, unit=f"{source} {cell}")


def campaign(source: str, cell: int, episodes: int = EPISODES) -> Campaign:
    """Return a campaign in the table of a source."""
    return Campaign(stored_runs()[source], episodes, PARALLEL, best_elsewhere(source), SHOTS, cell)


def example(rng: Generator) -> Campaign:
    """Return a campaign of 16 episodes in the table of the documentation."""
    return campaign("documentation", int(rng.integers(10_000)), 16)

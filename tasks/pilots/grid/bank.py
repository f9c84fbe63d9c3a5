"""The instance bank of `grid`: draws of days of one year or load profile, in three sizes, and whole years.

The 2^q - 1 first principal components of a draw and a constant amplitude fill q qubits. Draws of one group share no
day. Unit of independence: the draw. On a whole year only forms with up to 400 circuits an iteration are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.contract import Instance, Material, in_turns
from tasks.pilots.grid.days import Days, groups
from tasks.pilots.grid.problem import Grid

DRAWS = ((16, 3, 3), (24, 7, 4), (32, 15, 1))  # days, components, and how many such draws a source has
YEAR, YEAR_SHOTS = 7, 262_144  # components of a whole year, and shots of its iterations


def bank(_: Material, rng: Generator) -> Iterator[Instance[Grid]]:
    """Yield the instances, the sources in turns."""
    yield from in_turns([_of_source(source, found, rng) for source, found in groups().items()])


def _of_source(source: str, found: dict[str, Days], rng: Generator) -> Iterator[Instance[Grid]]:
    orders = {name: rng.permutation(len(days.values)) for name, days in found.items()}
    used, names, number = dict.fromkeys(found, 0), list(found), 0
    for days, components, draws in DRAWS:
        for _ in range(draws):
            name = names[number % len(names)]
            chosen = np.sort(orders[name][used[name] : used[name] + days])
            used[name] += days
            pose = partial(_pose, source, name, chosen, components, int(rng.integers(2**31)))
            label = f"{number}: {days} days of {name}, {components} components"
            yield Instance(source, label, days, pose, unit=f"{source} draw {number}")
            number += 1
    whole = np.arange(len(found[names[-1]].values))
    pose = partial(_pose, source, names[-1], whole, YEAR, int(rng.integers(2**31)), shots=YEAR_SHOTS)
    yield Instance(source, f"year {names[-1]}, {YEAR} components", len(whole), pose, unit=f"{source} year")


def _pose(source: str, group: str, chosen: NDArray[np.intp], components: int, start: int, **sizes: int) -> Grid:
    days = groups()[source][group]
    return grid_of(days, chosen, components, start, **sizes)


def grid_of(days: Days, chosen: NDArray[np.intp], components: int, start: int, **sizes: int) -> Grid:
    """Return the problem of clustering some days by their first principal components."""
    values = days.values[chosen]
    standard = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    left, singular, _ = np.linalg.svd(standard, full_matrices=False)
    points = (left * singular)[:, :components]
    points = points * np.where(np.abs(points).max(axis=0) == points.max(axis=0), 1.0, -1.0)  # a sign that any SVD has
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    return Grid(points, standard, days.weekend[chosen], days.season[chosen], start=start, **sizes)


def example(rng: Generator) -> Grid:
    """Return 12 days of households by three components, few shots."""
    days = groups()["load"]["H0-A"]
    chosen = np.sort(rng.permutation(len(days.values))[:12])
    return grid_of(days, chosen, 3, int(rng.integers(2**31)), iterations=3, shots=2048)

"""Further tables of the grid pilot's page: agreement and shots of every form by size, truth from outside, and noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tasks.pilots.claim import Seen
from tasks.sections import Cell, Section

HEADER = ("days", "arm", "n", "balanced accuracy", "adjusted Rand index", "balanced accuracy, best of ten starts",
          "silhouette", "inertia", "weekend, Rand", "season, Rand")  # fmt: skip
WHAT = ("agreement", "rand", "agreement_best", "silhouette", "inertia", "rand_weekend", "rand_season")
COSTS = ("days", "arm", "circuits an iteration", "shots an iteration", "iterations", "two-qubit gates a circuit",
         "QPU s an iteration, projected")  # fmt: skip


def sections(seen: Sequence[Seen]) -> tuple[Section, ...]:
    """Return all tables."""
    ideal = _by_size([entry for entry in seen if not entry.noisy])
    return (*_agreement(ideal), *_costs(ideal), *_noise([entry for entry in seen if entry.noisy]))


def _by_size(seen: Sequence[Seen]) -> dict[tuple[str, str], list[Seen]]:
    found: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for entry in seen:
        found[f"{entry.size}" if " days of " in entry.name else "a year", entry.arm].append(entry)
    return dict(sorted(found.items(), key=lambda item: (len(item[0][0]), item[0][0])))


def _mean(entries: Sequence[Seen], measure: str) -> float:
    return float(np.mean([entry.measures[measure] for entry in entries]))


def _agreement(found: dict[tuple[str, str], list[Seen]]) -> tuple[Section, ...]:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (*key, len(same), *(_mean(same, name) for name in WHAT)) for key, same in found.items()
    )
    sentence = (
        "Balanced accuracy (clusters matched by the Hungarian method) and adjusted Rand index against Lloyd's method "
        "with exact distances from the same first centroids; a tie with it is the best possible outcome. Weekend and "
        "season: adjusted Rand index against the calendar."
    )
    return (Section("Agreement, objective and truth from outside", sentence, HEADER, rows),) if rows else ()


def _costs(found: dict[tuple[str, str], list[Seen]]) -> tuple[Section, ...]:
    rows = []
    for key, same in found.items():
        circuits, made = _mean(same, "circuits"), _mean(same, "iterations")
        if circuits:
            gates = float(np.mean([entry.two_qubit_gates / entry.circuits for entry in same]))
            seconds = float(np.mean([entry.qpu_s for entry in same])) / made
            rows.append((*key, round(circuits), round(_mean(same, "shots")), made, gates, seconds))
    sentence = "What an iteration takes in each form; gates and seconds as compiled for the projection device."
    return (Section("An iteration on a device", sentence, COSTS, tuple(rows)),) if rows else ()


def _noise(seen: Sequence[Seen]) -> tuple[Section, ...]:
    rows = tuple(
        (entry.size, entry.name.rpartition(", ")[2], entry.arm, entry.measures["agreement"], entry.measures["rand"],
         round(entry.measures["shots"]))
        for entry in sorted(seen, key=lambda entry: (entry.size, entry.arm))
    )  # fmt: skip
    header = ("days", "features", "arm", "balanced accuracy", "adjusted Rand index", "shots an iteration")
    sentence = (
        "With the noise model of a heavy-hex device, one instance of each size: 3, 7 and 15 components are 2, 3 and 4 "
        "qubits for the amplitude forms. The bar is .95 at no more than 500,000 shots an iteration."
    )
    return (Section("Balanced accuracy with the noise of a device", sentence, header, rows),) if rows else ()

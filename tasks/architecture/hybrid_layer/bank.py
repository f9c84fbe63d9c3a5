"""The instance bank of `hybrid_layer`: cells of seed and place, each with its own section of real text.

The models are byte-level, of two blocks of width 32; training text, test text and seed differ from cell to cell. Each
cell is a unit of independence: the texts of a study hold 871 units, a verdict needs 180 (`ketcycle study --list`).
Beside every second cell the same model reads the first part of its text only, in the same unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tasks.architecture.hybrid_layer.fillings import PLACES
from tasks.architecture.hybrid_layer.problem import Layer
from tasks.contract import Instance, Material, in_turns
from tasks.model.windows import Windows
from tasks.text.works import sections, smaller

if TYPE_CHECKING:
    from numpy.random import Generator

CONTEXT, TRAINING, TEST = 32, 1024, 24  # windows
WIDTH, LAYERS, SHOTS, HIDDEN, BATCH = 6, 2, 256, 32, 8
SMALLER = (128, 256, 512, 768)  # training windows
SECTION = (TRAINING + TEST) * (CONTEXT + 1)  # bytes of a cell


def bank(material: Material, rng: Generator) -> Iterator[Instance[Layer]]:
    """Yield the cells, the sources alternating and the places within a source."""
    yield from in_turns([_of_source(name, material.texts[name], rng) for name in sorted(material.texts)])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> Iterator[Instance[Layer]]:
    parts = sections(texts, SECTION)
    for number, at in enumerate(rng.permutation(len(parts)).tolist()):
        seed, place = int(rng.integers(2**31)), PLACES[number % len(PLACES)]
        name = f"{place}, text from byte {at * SECTION}, seed {seed}"
        # Places alternate by cells: of four, the second and the third have a smaller one, so both places have them.
        turned = number + (number % 4 == 2) - (number % 4 == 3)
        for windows in (TRAINING, *smaller(source, turned, SMALLER)):
            pose = partial(_pose, parts[at], windows, place, seed)
            label = name if windows == TRAINING else f"{name}, {windows} windows"
            yield Instance(source, label, windows * CONTEXT, pose, unit=f"{source} {at}")


def _pose(text: bytes, windows: int, place: str, seed: int) -> Layer:
    rows = np.frombuffer(text, np.uint8).reshape(-1, CONTEXT + 1).astype(np.int64)
    training, test = _windows(rows[:windows]), _windows(rows[TRAINING:])
    tokens = windows * CONTEXT
    return Layer(training, test, 256, place, WIDTH, LAYERS, SHOTS, HIDDEN, tokens, BATCH, seed)


def _windows(rows: np.ndarray) -> Windows:
    return Windows(rows, np.full(len(rows), rows.shape[1] - 1, np.int64))


def example(rng: Generator) -> Layer:
    """Return a model of width 16 that is trained for a moment on a licence, with four qubits in question."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    rows = np.frombuffer(text, np.uint8)[: 17 * (len(text) // 17)].reshape(-1, 17).astype(np.int64)
    rows = rows[rng.permutation(len(rows))[:132]]
    training, test = _windows(rows[:128]), _windows(rows[128:])
    return Layer(training, test, 256, PLACES[0], 4, 2, 64, 16, 2048, 32, int(rng.integers(2**31)))

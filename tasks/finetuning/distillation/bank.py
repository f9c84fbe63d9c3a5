"""The instance bank of `distillation`: small models teach students of half their width and depth.

Every cell has a section of text of its own, in which teacher, students and test have disjoint parts, and is a unit of
independence: the texts of a study hold 196 units, a verdict needs 185 (`ketcycle study --list`). The teacher has read
more text, several times; students have little text that their arithmetic covers 15 or 5 times. Every cell is posed once
more with a narrower or wider student, in the same unit, so that costs can be fitted against size. Every fifth work is
kept for tuning (`tuning`) and is in no cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.distillation.problem import Distillation
from tasks.finetuning.models import (
    CONTEXT,
    DEPTH,
    RECIPE,
    TRAINED,
    WIDTH,
    WINDOW,
    byte_config,
    byte_windows,
    example_model,
)
from tasks.model.small import trained_model
from tasks.text.works import in_turn, sections, works_of

OTHER_WIDTHS = (24, 40, 48, 56)
TEXT = 128, 384  # settings: windows of little and of more text
TOKENS = 15 * TEXT[0] * CONTEXT  # of a student without a teacher: 15 and 5 times its text
TEACHER = replace(RECIPE, tokens=4 * RECIPE.tokens)
TEST = 64  # windows


def bank(material: Material, rng: Generator) -> Iterator[Instance[Distillation]]:
    """Yield the cells, the sources alternating; a teacher is trained when it is first needed."""
    yield from _cells(material, rng, tuning=False)


def tuning(material: Material, rng: Generator) -> Iterator[Instance[Distillation]]:
    """Yield cells of works that the bank never uses, for choosing the settings of the arms."""
    yield from _cells(material, rng, tuning=True)


def _cells(material: Material, rng: Generator, *, tuning: bool) -> Iterator[Instance[Distillation]]:
    texts = {name: [t for work in works_of(material, name, tuning=tuning) for t in work] for name in material.texts}
    yield from in_turns([_of_source(name, texts[name], material.folder, rng) for name in sorted(texts)])


def _of_source(source: str, texts: Sequence[str], folder: Path, rng: Generator) -> Iterator[Instance[Distillation]]:
    first, second = (_section(windows) for windows in TEXT)
    cells = [(part[:first], part[first:]) for part in sections(texts, first + second)]
    order = rng.permutation(len(cells)).tolist()
    # The settings alternate: first one cell of every pair, then the other.
    turns = [(at, (number + half) % 2) for half in range(2) for number, at in enumerate(order)]
    for number, (at, setting) in enumerate(turns):
        seed = int(rng.integers(2**31))
        name = f"{TEXT[setting]} windows, text of pair {at}, seed {seed}"
        for width in (WIDTH // 2, in_turn(source, number, OTHER_WIDTHS)):
            label = name if width == WIDTH // 2 else f"{name}, width {width}"
            pose = partial(_pose, cells[at][setting], TEXT[setting], width, seed, folder)
            yield Instance(source, label, width, pose, unit=f"{source} {at} {setting}")


def _section(windows: int) -> int:
    """Return the bytes of a cell: training text of the teacher, of the student, and test text."""
    return (TRAINED + windows + TEST) * WINDOW


def _pose(text: bytes, count: int, width: int, seed: int, folder: Path) -> Distillation:
    teacher = trained_model(byte_config(), byte_windows(text, 0, TRAINED), TEACHER, seed, folder)
    windows = byte_windows(text, TRAINED, count + TEST)
    train_on, test = windows.take(slice(0, -TEST)), windows.take(slice(-TEST, None))
    return Distillation(teacher, width, DEPTH // 2, train_on, test, TOKENS)


def example(rng: Generator) -> Distillation:
    """Return the distillation of a model of 8,000 weights, trained for a fraction of a second on a licence."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    windows = byte_windows(text, int(rng.integers(8)), 40)
    teacher = example_model(int(rng.integers(2**31)), text, 2)
    return Distillation(
        teacher, 8, 1, windows.take(slice(0, 32)), windows.take(slice(32, None)), 4096, batch=8, draws=4, shots=32
    )

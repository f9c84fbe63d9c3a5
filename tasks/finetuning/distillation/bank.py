"""The instance bank of `distillation`: the model of each source teaches students of half its width and depth.

Every cell is posed once more with a narrower or wider student, so that costs can be fitted against size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import resources

from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.distillation.problem import Distillation
from tasks.finetuning.models import (
    CONTEXT,
    DEPTH,
    TRAINED,
    WIDTH,
    byte_windows,
    example_model,
    joined,
    source_model,
)
from tasks.text.works import in_turn

CELLS_OF_SOURCE = 6
OTHER_WIDTHS = (24, 40, 48, 56)
TOKENS = 30_000, 60_000  # settings: little and more arithmetic
TEST = 64  # windows


def bank(material: Material, rng: Generator) -> Iterator[Instance[Distillation]]:
    """Yield the cells, the sources alternating; a teacher is trained when it is first needed."""
    first = int(rng.integers(CONTEXT))
    yield from in_turns([_of_source(name, first, material) for name in sorted(material.texts)])


def _of_source(source: str, first: int, material: Material) -> Iterator[Instance[Distillation]]:
    for number in range(CELLS_OF_SOURCE):
        tokens = TOKENS[number % len(TOKENS)]
        for width in (WIDTH // 2, in_turn(source, number, OTHER_WIDTHS)):
            pose = partial(_pose, material, source, number, tokens, first, width)
            label = f"cell {number}: {tokens} tokens"
            yield Instance(source, label if width == WIDTH // 2 else f"{label}, width {width}", width, pose)


def _pose(material: Material, source: str, number: int, tokens: int, first: int, width: int) -> Distillation:
    text = joined(material.texts[source])
    count = tokens // CONTEXT + TEST
    room = max(1, len(text) // (CONTEXT + 1) - count)
    windows = byte_windows(text, (TRAINED + first + number * count) % room, count)
    teacher = source_model(material.texts[source], material.folder)
    train_on, test = windows.take(slice(0, count - TEST)), windows.take(slice(count - TEST, None))
    return Distillation(teacher, width, DEPTH // 2, train_on, test, tokens)


def example(rng: Generator) -> Distillation:
    """Return the distillation of a model of 8,000 weights, trained for a fraction of a second on a licence."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    windows = byte_windows(text, int(rng.integers(8)), 40)
    teacher = example_model(int(rng.integers(2**31)), text, 2)
    return Distillation(
        teacher, 8, 1, windows.take(slice(0, 32)), windows.take(slice(32, None)), 4096, batch=8, draws=4, shots=32
    )

"""The instance bank of `adapter`: cells of model, setting and text.

Settings: `domain` adapts the model of one source to the text of another; `svd` and `removed` recover the model on its
own source's text after every projection was cut to a quarter of its rank, or after one block was removed. The site of
an instance is the projection that a rotation of its input helps most, by one backward pass on the training text. Every
cell is posed once more with fewer or more windows to be tested, so that costs can be fitted against size.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import resources

from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.adapter.problem import Adaptation
from tasks.finetuning.adapter.sites import Sizes, at_best_site
from tasks.finetuning.models import (
    CONTEXT,
    TRAINED,
    byte_windows,
    example_model,
    joined,
    source_model,
    truncated,
    without_block,
)
from tasks.model.small import stored_model
from tasks.text.works import in_turn

SETTINGS = ("domain", "svd", "removed")
CELLS_OF_SOURCE = 6
TRAIN, VALIDATION, TEST = 96, 16, 4  # windows
OTHER_TESTS = (1, 2, 3, 6)  # tested windows of the cells that are posed once more
SIZES = Sizes(steps=10, batch=8, rates=(0.003, 0.01, 0.03), block=4, shots=1024)
RANK_SHARE = 0.25


def bank(material: Material, rng: Generator) -> Iterator[Instance[Adaptation]]:
    """Yield the cells, the sources alternating; a model is trained when its first cell is posed."""
    names = sorted(material.texts)
    first = int(rng.integers(TRAIN))
    yield from in_turns([_of_source(name, names, first, material) for name in names])


def _of_source(source: str, names: list[str], first: int, material: Material) -> Iterator[Instance[Adaptation]]:
    others = [name for name in names if name != source]
    for number in range(CELLS_OF_SOURCE):
        setting = SETTINGS[number % len(SETTINGS)]
        target = others[number // len(SETTINGS) % len(others)] if setting == "domain" else source
        name = f"cell {number}: {setting}, text of {target}"
        for tested in (TEST, in_turn(source, number, OTHER_TESTS)):
            pose = partial(_pose, material, source, target, setting, number, first, tested)
            label = name if tested == TEST else f"{name}, {tested} windows tested"
            yield Instance(source, label, tested * CONTEXT, pose)


def _pose(
    material: Material, source: str, target: str, setting: str, number: int, first: int, tested: int
) -> Adaptation:
    base = source_model(material.texts[source], material.folder)
    model = base
    if setting != "domain":
        make = partial(truncated, base, RANK_SHARE) if setting == "svd" else partial(without_block, base, 1)
        model = stored_model(base.with_name(f"{base.name}-{setting}"), make)
    text = joined(material.texts[target])
    # A source with little text gives overlapping cells; the settings of one text differ all the same.
    kept_apart = TRAIN + VALIDATION
    count = kept_apart + max(tested, TEST)
    room = len(text) // (CONTEXT + 1) - count - TRAINED
    start = TRAINED + ((first + number * count) % max(1, room))
    windows = byte_windows(text, start, count)
    train, validation, test = (
        windows.take(slice(a, b)) for a, b in ((0, TRAIN), (TRAIN, kept_apart), (kept_apart, kept_apart + tested))
    )
    return at_best_site(model, (train, validation, test), SIZES)


def example(rng: Generator) -> Adaptation:
    """Return the adaptation of a model of 8,000 weights, trained for a fraction of a second, to another licence."""
    licences = resources.files("deployments") / "sample" / "licences"
    own, other = ((licences / name).read_bytes() for name in ("PSF-2.0.txt", "CC-BY-4.0.txt"))
    seed = int(rng.integers(2**31))
    windows = byte_windows(other, int(rng.integers(40)), 24)
    texts = windows.take(slice(0, 16)), windows.take(slice(16, 22)), windows.take(slice(22, 23))
    sizes = Sizes(steps=3, batch=4, rates=(0.02,), block=4, shots=64)
    return at_best_site(example_model(seed, own, 1), texts, sizes)

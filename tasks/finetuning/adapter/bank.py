"""The instance bank of `adapter`: cells of model, setting and text.

Settings: `domain` adapts a model of one source to the text of another; `svd` and `removed` recover the model on text
of its own source after every projection was cut to a quarter of its rank, or after one block was removed. Every cell
has a model and texts of its own and is a unit of independence; the bank ends where the first source has no text left:
the texts of a study hold 228 units, a verdict needs 218 (`ketcycle study --list`). The site of an instance is the
projection that a rotation of its input helps most, by one backward pass on the training text. Every cell is posed once
more with fewer or more windows to be tested, in the same unit, so that costs can be fitted against size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path

from numpy.random import Generator

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.adapter.problem import Adaptation
from tasks.finetuning.adapter.sites import Sizes, at_best_site
from tasks.finetuning.models import (
    CONTEXT,
    TRAINED,
    WINDOW,
    byte_windows,
    example_model,
    source_model,
    truncated,
    without_block,
)
from tasks.model.small import stored_model
from tasks.text.works import in_turn, opponent, sections

SETTINGS = ("domain", "svd", "removed")
TRAIN, VALIDATION, TEST = 96, 16, 4  # windows
OTHER_TESTS = (1, 2, 3, 6)  # tested windows of the cells that are posed once more
KEPT_APART = TRAIN + VALIDATION
SIZES = Sizes(steps=10, batch=8, rates=(0.003, 0.01, 0.03), block=4, shots=1024)
RANK_SHARE = 0.25
MODEL = TRAINED * WINDOW  # bytes of a section that its model is trained on; a model is adapted to the text behind them
SECTION = MODEL + (KEPT_APART + max(OTHER_TESTS)) * WINDOW


def bank(material: Material, rng: Generator) -> Iterator[Instance[Adaptation]]:
    """Yield the cells, the sources alternating; a model is trained when its first cell is posed."""
    texts = sorted(material.texts.items())
    parts = {source: found for source, its in texts if (found := sections(its, SECTION))}
    rows = rng.permutation(min(map(len, parts.values()))).tolist()
    yield from in_turns([_of_source(name, parts, rows, material.folder, rng) for name in parts])


def _of_source(
    source: str, parts: Mapping[str, Sequence[bytes]], rows: Sequence[int], folder: Path, rng: Generator
) -> Iterator[Instance[Adaptation]]:
    for number, row in enumerate(rows):
        setting, seed = SETTINGS[number % len(SETTINGS)], int(rng.integers(2**31))
        target = opponent(source, row, list(parts)) if setting == "domain" else source
        own, text = parts[source][row][:MODEL], parts[target][row][MODEL:]
        name = f"{setting}, text of {target}, section {row}, seed {seed}"
        for tested in (TEST, in_turn(source, number, OTHER_TESTS)):
            label = name if tested == TEST else f"{name}, {tested} windows tested"
            pose = partial(_pose, own, text, setting, tested, seed, folder)
            yield Instance(source, label, tested * CONTEXT, pose, unit=f"{source} {row}")


def _pose(own: bytes, text: bytes, setting: str, tested: int, seed: int, folder: Path) -> Adaptation:
    model = base = source_model(own, seed, folder)
    if setting != "domain":
        make = partial(truncated, base, RANK_SHARE) if setting == "svd" else partial(without_block, base, 1)
        model = stored_model(base.with_name(f"{base.name}-{setting}"), make)
    windows = byte_windows(text, 0, KEPT_APART + tested)
    train, validation, test = (
        windows.take(part) for part in (slice(0, TRAIN), slice(TRAIN, KEPT_APART), slice(KEPT_APART, None))
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

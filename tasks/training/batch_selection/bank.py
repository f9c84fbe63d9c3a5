"""The instance bank of `batch_selection`: cells of a seed and a pool, byte-level models trained for a second each.

A pool is a section of one source's text in windows of 64 bytes; the text behind it is held out. A selection keeps a
fifth of the pool, which the training then reads about five times; everything is read about once. No two pools share
text: each is a unit of independence, of which the texts of a study hold 603, and a verdict needs 185 (`ketcycle study
--list`). Beside every second pool the same windows are cut into smaller blocks, in the same unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from tasks.contract import Instance, Material, in_turns
from tasks.model.windows import Windows
from tasks.text.works import sections, smaller
from tasks.training.batch_selection.problem import Pool

if TYPE_CHECKING:
    from numpy.random import Generator

CONTEXT = 64
POOL, HELD_OUT = 640, 128  # windows
BLOCK, KEEP = 10, 2
SMALLER = (4, 5, 6, 8)  # windows of a block, of which about a fifth is kept, too
STEPS = 40
SECTION = (POOL + HELD_OUT) * (CONTEXT + 1)  # bytes of a cell


def bank(material: Material, rng: Generator) -> Iterator[Instance[Pool]]:
    """Yield cells of seed x pool, the sources alternating."""
    yield from in_turns([_of_source(name, material.texts[name], rng) for name in sorted(material.texts)])


def _of_source(source: str, texts: Sequence[str], rng: Generator) -> Iterator[Instance[Pool]]:
    parts = sections(texts, SECTION)
    for number, at in enumerate(rng.permutation(len(parts)).tolist()):
        seed = int(rng.integers(2**31))
        name = f"pool {number}, text from byte {at * SECTION}, seed {seed}"
        for block in (BLOCK, *smaller(source, number, SMALLER)):
            pose = partial(_pose, parts[at], block, seed)
            label = name if block == BLOCK else f"{name}, blocks of {block}"
            yield Instance(source, label, block, pose, unit=f"{source} {at}")


def _pose(text: bytes, block: int, seed: int) -> Pool:
    windows = np.frombuffer(text, np.uint8).reshape(-1, CONTEXT + 1)
    held_out = windows[POOL:].astype(np.int64)
    return Pool(
        tokens=windows[: POOL // block * block].astype(np.uint16),
        vocabulary=256,
        keep=round(KEEP * block / BLOCK),
        block=block,
        held_out=Windows(held_out, np.full(len(held_out), CONTEXT, np.int64)),
        steps=STEPS,
        seed=seed,
    )


def example(rng: Generator) -> Pool:
    """Return a pool of 48 windows of a shipped licence and a model of 20,000 weights trained for 12 steps."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    context, starts = 32, rng.permutation(len(text) // 33)[:72] * 33
    windows = np.stack([np.frombuffer(text, np.uint8, context + 1, int(start)) for start in starts])
    held_out = windows[48:].astype(np.int64)
    return Pool(
        tokens=windows[:48].astype(np.uint16),
        vocabulary=256,
        keep=2,
        block=6,
        shots=32,
        held_out=Windows(held_out, np.full(len(held_out), context, np.int64)),
        steps=12,
        seed=int(rng.integers(2**31)),
        width=16,
    )

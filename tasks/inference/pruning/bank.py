"""The instance bank of pruning: small Llama models, each trained for seconds on its own section of real text.

They are byte-level models of about 0.2 M weights and four blocks, not the model of a run: an instance shows how the
methods perform on such a model with twelve units, of which half or, as in the demo profile, a third is removed. With
a third a random choice often ties the best one; with half it clearly loses. Every model has its own training text and
seed and is a unit of independence; its calibration and selection text follow the training text. Beside each problem one
of fewer units stands in the same unit of independence, so that costs can be fitted against size. A trained model is
kept in the bank's folder under a name derived from text, seed and recipe; training is deterministic on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from transformers import LlamaConfig

from tasks.contract import Instance, Material, in_turns
from tasks.inference.pruning.problem import Pruning
from tasks.inference.pruning.units import Layout, choose_units, make_units
from tasks.model.causal import save_model
from tasks.model.recipe import Recipe
from tasks.model.small import example_folder, new_model, small_config, trained_model
from tasks.model.training.loop import train
from tasks.model.windows import Windows
from tasks.text.works import in_turn, sections

if TYPE_CHECKING:
    from numpy.random import Generator


CONTEXT = 64
TRAINING, CALIBRATION, SELECTION = 1500, 64, 128  # windows
UNIT_LIMIT, SHARES, ALLOWANCE = 14, (1 / 2, 1 / 3), 0.1
LONGEST = 55  # models of a source; a verdict needs some two hundred
SECTION = (TRAINING + CALIBRATION + SELECTION) * (CONTEXT + 1)  # bytes
RECIPE = Recipe(tokens=TRAINING * CONTEXT, batch=16, matrix_lr=0.05)
CONFIG = small_config(width=64, depth=4, heads=4, channels=160, context=CONTEXT)
UNITS = choose_units(Layout.of(CONFIG), UNIT_LIMIT)
SMALLER = (3, 5, 6, 9)  # units of the smaller problems


def bank(material: Material, rng: Generator) -> Iterator[Instance[Pruning]]:
    """Yield the problems of each model, the sources alternating; a model is trained when its problem is requested.

    The first model of every source comes first with half of its units removed, then with a third, then the second.
    """
    yield from in_turns(
        [_of_source(name, material.texts[name], material.folder, rng) for name in sorted(material.texts)]
    )


def tuning_problems(material: Material, rng: Generator, count: int) -> list[Pruning]:
    """Return problems of other models on text that no model of the bank has, on which angles are tuned."""
    found = []
    for name in sorted(material.texts):
        seed, text = int(rng.integers(2**31)), sections(material.texts[name], SECTION)[-1]  # see `_of_source`
        found += [_pose(text, seed, share, material.folder) for share in SHARES]
    return found[:count]


def _of_source(source: str, texts: Sequence[str], folder: Path, rng: Generator) -> Iterator[Instance[Pruning]]:
    parts = sections(texts, SECTION)
    for number, at in enumerate(rng.permutation(len(parts) - 1)[:LONGEST].tolist()):
        seed = int(rng.integers(2**31))
        name = f"model {number}, text from byte {at * SECTION}, seed {seed}"
        for share in SHARES:
            for limit in (len(UNITS), in_turn(source, number, SMALLER)):
                pose = partial(_pose, parts[at], seed, share, folder, limit)
                label = (
                    f"{name}, {share:.0%} of {limit} units"
                    if limit < len(UNITS)
                    else f"{name}, {share:.0%} of the units"
                )
                yield Instance(source, label, limit, pose, unit=f"{source} {at}")


def _pose(text: bytes, seed: int, share: float, folder: Path, limit: int = UNIT_LIMIT) -> Pruning:
    windows = np.frombuffer(text, np.uint8).reshape(-1, CONTEXT + 1).astype(np.int64)
    trained, calibration, selection = np.split(windows, np.cumsum((TRAINING, CALIBRATION)))
    units = choose_units(Layout.of(CONFIG), limit)
    return Pruning(
        model=trained_model(CONFIG, _windows(trained), RECIPE, seed, folder),
        units=units,
        k=round(share * len(units)),
        calibration=_windows(calibration),
        selection=_windows(selection),
        allowance=ALLOWANCE,
    )


def _windows(tokens: np.ndarray) -> Windows:
    return Windows(tokens, np.full(len(tokens), CONTEXT, np.int64))


def example(rng: Generator) -> Pruning:
    """Return the problem of removing 3 of 8 units of a Llama with 25,000 weights, trained for a second on a licence."""
    text = (resources.files("deployments") / "sample" / "licences" / "PSF-2.0.txt").read_bytes()
    context, starts = 32, rng.permutation(len(text) // 33)[:400] * 33
    tokens = np.stack([np.frombuffer(text, np.uint8, context + 1, int(start)) for start in starts]).astype(np.int64)
    windows = Windows(tokens, np.full(len(tokens), context, np.int64))
    folder = _example_model(int(rng.integers(2**31)), windows.tokens[:320].tobytes())
    return Pruning(
        model=folder,
        units=make_units(Layout.of(LlamaConfig.from_pretrained(folder)), (0, 1), 2, 2),
        k=3,
        calibration=Windows(windows.tokens[:48], windows.n_bytes[:48]),
        selection=Windows(windows.tokens[320:], windows.n_bytes[320:]),
        allowance=0.5,
    )


@lru_cache(maxsize=8)
def _example_model(seed: int, text: bytes) -> Path:
    tokens = np.frombuffer(text, np.int64).reshape(-1, 33)
    model, folder = new_model(small_config(32, 2, 2, 64, 32), seed), example_folder()
    windows = Windows(tokens, np.full(len(tokens), 32, np.int64))
    train(model, windows, Recipe(tokens=60_000, batch=32, matrix_lr=0.05, seed=seed % 1000))
    save_model(model, folder)
    return folder

"""The instance bank of `low_rank`: projections of small models, with what they read.

Every model has a section of text of its own and is a unit of independence: the texts of a study hold 306 units, a
verdict needs 180 (`ketcycle study --list`). Two projections of a model are posed, the whole first one and the leading
rows and columns of the second one, so that costs can be fitted against size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import nn

from tasks.contract import Instance, Material, in_turns
from tasks.finetuning.low_rank.problem import FloatArray, Matrix
from tasks.finetuning.models import DEPTH, TRAINED, WIDTH, WINDOW, byte_windows, source_model
from tasks.model.causal import load_model
from tasks.model.windows import Windows
from tasks.text.works import in_turn, sections

PROJECTIONS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
SITES = tuple(f"layers.{layer}.{name}" for layer in range(DEPTH) for name in PROJECTIONS)
SHARE = 0.25
SMALLER = (16, 24, 32, 48)  # rows and columns of the smaller problems
WINDOWS = 8  # half of their positions weight the error, half measure it
SECTION = (TRAINED + WINDOWS) * WINDOW  # bytes of a model


def bank(material: Material, rng: Generator) -> Iterator[Instance[Matrix]]:
    """Yield the projections, the sources alternating; a model is trained when it is first needed."""
    names = sorted(material.texts)
    yield from in_turns([_of_source(name, material.texts[name], material.folder, rng) for name in names])


def _of_source(source: str, texts: Sequence[str], folder: Path, rng: Generator) -> Iterator[Instance[Matrix]]:
    parts = sections(texts, SECTION)
    for number, at in enumerate(rng.permutation(len(parts)).tolist()):
        seed, sites = int(rng.integers(2**31)), rng.permutation(SITES).tolist()
        for site, size in zip(sites, (WIDTH, in_turn(source, number, SMALLER)), strict=False):
            name = f"{site}, text from byte {at * SECTION}, seed {seed}"
            label = name if size == WIDTH else f"{name}, leading {size} x {size}"
            pose = partial(_pose, parts[at], site, size, seed, folder)
            yield Instance(source, label, size, pose, unit=f"{source} {at}")


def _pose(text: bytes, site: str, size: int, seed: int, folder: Path) -> Matrix:
    model = load_model(source_model(text, seed, folder))
    whole = at_site(model, site, byte_windows(text, TRAINED, WINDOWS), SHARE)
    return whole if size == WIDTH else leading(whole, size)


def leading(problem: Matrix, size: int) -> Matrix:
    """Return the problem of the leading rows and columns of a matrix, at the same share of the rank."""
    inputs, held_out = problem.inputs[:, :size], problem.held_out[:, :size]
    rank = max(1, round(SHARE * size))
    return replace(problem, weight=problem.weight[:size, :size], inputs=inputs, held_out=held_out, rank=rank)


def at_site(model: Any, site: str, text: Windows, share: float, **sizes: int) -> Matrix:
    """Return the problem of a projection of a model with the inputs that it reads from a text."""
    module: nn.Linear = model.model.get_submodule(site)
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(**text.inputs(), use_cache=False)
    handle.remove()
    read = _array(seen[0].flatten(0, 1))
    weight = _array(module.weight)
    rank = max(1, round(share * min(weight.shape)))
    return Matrix(weight, read[0::2], read[1::2], rank, **sizes)


def example(rng: Generator) -> Matrix:
    """Return a matrix of 8 x 16 with falling singular values and correlated inputs."""
    u, v = np.linalg.qr(rng.standard_normal((8, 8)))[0], np.linalg.qr(rng.standard_normal((16, 8)))[0]
    weight = u * 0.6 ** np.arange(8) @ v.T
    inputs = rng.standard_normal((96, 16)) @ (np.eye(16) + 0.5 * rng.standard_normal((16, 16)))
    return Matrix(weight, inputs[:48], inputs[48:], rank=3, block=4, layers=3, steps=25, shots=128)


def _array(tensor: torch.Tensor) -> FloatArray:
    return np.asarray(tensor.detach().double().numpy(), np.float64)

"""The problem of `adapter`: a frozen projection of a model, text to adapt to, and the quality of the adapted model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tasks.contract import Budget
from tasks.model.causal import load_model
from tasks.model.score import nll
from tasks.model.threads import torch_threads
from tasks.model.windows import Windows

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """One projection that gets an adapter; everything else of the model is frozen.

    Attributes:
        model: folder of a Llama-style model.
        site: the projection, such as `layers.2.self_attn.v_proj`.
        train: training windows.
        validation: windows on which each arm chooses its learning rate.
        test: windows on which the arm executes its adapter; their loss is the quality.
        steps: training steps for each learning rate.
        batch: windows of a step.
        rates: learning rates that each arm tries.
        block: block size of the adapters whose circuits are run.
        shots: samples of each circuit.
        budget: training tokens of an arm, over all its learning rates.
        threads: torch threads.
    """

    model: Path
    site: str
    train: Windows
    validation: Windows
    test: Windows
    steps: int
    batch: int
    rates: tuple[float, ...]
    block: int
    shots: int
    budget: Budget
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapted model.

    Attributes:
        weights: parameters that replace those of the model, by name; empty where nothing can be merged.
        outputs: float32, (windows, context, width), outputs of the site on the test text, where the adapter was
            executed elsewhere; None = the weights say everything.
        trained: trained weights.
    """

    weights: Mapping[str, Floats]
    outputs: Floats | None
    trained: int


def layer_of(site: str) -> int:
    """Return the number of the block of a site."""
    return int(site.split(".")[1])


def parts(model: Any, site: str) -> tuple[nn.Module, str]:
    """Return the module that holds the site, and the site's name in it."""
    path, _, name = site.rpartition(".")
    return model.model.get_submodule(path), name


def quality(problem: Adaptation, solution: Adapted) -> tuple[float, ...]:
    """Return minus the bits per byte of the test text."""
    with torch_threads(problem.threads):
        model = load_model(problem.model)
        with changed(model, problem.site, solution):
            nats = nll(model, problem.test, batch_size=len(problem.test)).sum()
    return (-float(nats / (math.log(2) * problem.test.n_bytes.sum())),)


@contextmanager
def changed(model: Any, site: str, solution: Adapted) -> Iterator[None]:
    """Put the solution's weights into the model; while the block runs, its outputs replace those of the site."""
    holder, name = parts(model, site)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for parameter, value in solution.weights.items():
            if parameter in named:
                named[parameter].copy_(torch.from_numpy(np.array(value)))
            else:  # a bias that the architecture does not have
                owner = model.get_submodule(parameter.rpartition(".")[0])
                owner.bias = nn.Parameter(torch.from_numpy(np.array(value)))
    if solution.outputs is None:
        yield
        return
    outputs = torch.from_numpy(solution.outputs)
    handle = getattr(holder, name).register_forward_hook(lambda *_: outputs)
    try:
        yield
    finally:
        handle.remove()

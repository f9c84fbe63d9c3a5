"""Trains an adapter of one site: the blocks before it run once, only those from it on run in every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.contract import Bench
from tasks.finetuning.adapter.maps import Attach
from tasks.finetuning.adapter.problem import Adaptation, Adapted, Floats, layer_of, parts
from tasks.model.causal import load_model
from tasks.model.training.loop import batch_rows
from tasks.model.windows import Windows

CLIP = 1.0
CHUNK = 8  # windows at once where nothing is trained


@dataclass(frozen=True)
class Text:
    """Windows with the hidden states in front of the site's block."""

    windows: Windows
    hidden: torch.Tensor


@dataclass(frozen=True)
class Fitted:
    """A trained adapter at its best learning rate, in a model whose first block is the site's."""

    model: Any
    site: str
    trained: int
    rate: float
    validation: float


def cache_states(problem: Adaptation, bench: Bench) -> Mapping[str, Text]:
    """Return the texts with their hidden states in front of the site's block; shared by the arms."""

    def make() -> dict[str, Text]:
        model: Any = load_model(problem.model)
        model.model.layers = model.model.layers[: layer_of(problem.site)]
        model.model.norm = nn.Identity()
        return {
            name: Text(text, _hidden(model.model, text))
            for name, text in (("train", problem.train), ("validation", problem.validation), ("test", problem.test))
        }

    return bench.once("hidden states", make)


def fit(problem: Adaptation, bench: Bench, attach: Attach) -> Fitted:
    """Train the adapter with every learning rate and return the one with the least validation loss."""
    texts, seed = cache_states(problem, bench), int(bench.rng.integers(2**31))
    best: Fitted | None = None
    for rate in problem.rates:
        model, site = _tail(problem)
        parameters = attach(model, site, seed)
        _train(model, parameters, texts["train"], problem, bench, rate)
        model.train(False)
        loss = _loss(model, texts["validation"])
        if best is None or loss < best.validation:
            best = Fitted(model, site, sum(p.numel() for p in parameters), rate, loss)
    if best is None:
        raise ValueError("no learning rate given")
    return best


def merged(problem: Adaptation, fitted: Fitted, *, norms: bool = False) -> Adapted:
    """Return the trained adapter as weights of the whole model; every adapter that is linear can be merged."""
    name = f"model.{problem.site}"
    if norms:
        later = dict(fitted.model.named_parameters())
        weights = {_renumbered(n, layer_of(problem.site)): _array(p) for n, p in later.items() if "norm" in n}
        return Adapted(weights, None, fitted.trained)
    holder, local = parts(fitted.model, fitted.site)
    module: Any = getattr(holder, local)
    width = getattr(module, "in_features", 0) or module.inner.in_features
    with torch.inference_mode():
        offset = module(torch.zeros(1, width))
        weight = (module(torch.eye(width)) - offset).T
    weights = {f"{name}.weight": _array(weight)}
    if bool(offset.any()):
        weights[f"{name}.bias"] = _array(offset[0])
    return Adapted(weights, None, fitted.trained)


def site_inputs(problem: Adaptation, bench: Bench) -> torch.Tensor:
    """Return what the site reads on the test text, (windows, context, width); nothing in front of it is changed."""
    model, site = _tail(problem)
    holder, name = parts(model, site)
    seen: list[torch.Tensor] = []
    handle = getattr(holder, name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    text = cache_states(problem, bench)["test"]
    with torch.inference_mode():
        model(inputs_embeds=text.hidden, use_cache=False)
    handle.remove()
    return seen[0]


def projected(problem: Adaptation, inputs: torch.Tensor) -> Floats:
    """Return the outputs of the frozen projection for some inputs."""
    holder, name = parts(load_model(problem.model), problem.site)
    with torch.inference_mode():
        return _array(getattr(holder, name)(inputs))


def _tail(problem: Adaptation) -> tuple[Any, str]:
    """Return the frozen model from the site's block on, and the site's name in it."""
    model: Any = load_model(problem.model)
    model.requires_grad_(False)
    first = layer_of(problem.site)
    model.model.layers = model.model.layers[first:]
    return model, ".".join(("layers", "0", *problem.site.split(".")[2:]))


def _renumbered(name: str, first: int) -> str:
    pieces = name.split(".")
    if "layers" in pieces:
        at = pieces.index("layers") + 1
        pieces[at] = str(int(pieces[at]) + first)
    return ".".join(pieces)


def _hidden(body: Any, text: Windows) -> torch.Tensor:
    with torch.inference_mode():
        read = [
            body(**text.take(slice(i, i + CHUNK)).inputs(), use_cache=False).last_hidden_state
            for i in range(0, len(text), CHUNK)
        ]
    return torch.cat(read).clone()


def _train(
    model: Any, parameters: list[nn.Parameter], text: Text, problem: Adaptation, bench: Bench, rate: float
) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    for step in range(problem.steps):
        rows = batch_rows(len(text.windows), problem.batch, step, 0)
        bench.spend(tokens=problem.batch * text.windows.context)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / problem.steps)
        optimizer.zero_grad(set_to_none=True)
        logits = model(inputs_embeds=text.hidden[rows], use_cache=False).logits
        cross_entropy(logits.flatten(0, 1), text.windows.take(rows).labels().flatten()).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()


def _loss(model: Any, text: Text) -> float:
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(text.windows), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = model(inputs_embeds=text.hidden[rows], use_cache=False).logits
            labels = text.windows.take(rows).labels().flatten()
            total += float(cross_entropy(logits.flatten(0, 1), labels, reduction="sum"))
    return total / text.windows.n_predicted


def _array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)

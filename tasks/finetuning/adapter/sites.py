"""Which projection profits most from a rotation of its input, from one backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.contract import Budget
from tasks.finetuning.adapter.problem import Adaptation
from tasks.model.causal import load_model
from tasks.model.threads import torch_threads
from tasks.model.windows import Windows

RANKED = 16  # windows of the backward pass


@dataclass(frozen=True)
class Sizes:
    """How long adapters are trained and how they are executed; fields as in `Adaptation`."""

    steps: int
    batch: int
    rates: tuple[float, ...]
    block: int
    shots: int
    threads: int = 1


def at_best_site(model: Path, texts: tuple[Windows, Windows, Windows], sizes: Sizes) -> Adaptation:
    """Return the problem of the projection that a rotation helps most, for training, validation and test text."""
    train, validation, test = texts
    with torch_threads(sizes.threads):
        site = rank_sites(load_model(model), train.take(slice(0, RANKED)), sizes.block)[0][0]
    tokens = sizes.steps * sizes.batch * train.context * len(sizes.rates)
    return Adaptation(
        model,
        site,
        train,
        validation,
        test,
        steps=sizes.steps,
        batch=sizes.batch,
        rates=sizes.rates,
        block=sizes.block,
        shots=sizes.shots,
        budget=Budget(tokens=tokens),
        threads=sizes.threads,
    )


def rank_sites(model: Any, windows: Windows, block: int) -> list[tuple[str, float]]:
    """Return the projections with the norm of their loss gradient with respect to block rotations, the largest first.

    With `y = W Q x` and Q the identity, the gradient of the loss with respect to Q is `sum_t (W^T d_t) x_t^T`, with d_t
    the gradient at the output; only the skew part of its diagonal blocks moves a rotation. Projections whose input
    width is no multiple of the block size are left out.
    """
    found: dict[str, torch.Tensor] = {}
    handles = []

    def watch(name: str, layer: nn.Linear) -> None:
        def forward(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen = inputs[0].detach()

            def backward(gradient: torch.Tensor) -> None:
                at_input = (gradient @ layer.weight.detach()).flatten(0, -2)
                x = seen.flatten(0, -2)
                width = (len(x), x.shape[1] // block, block)
                found[name] = torch.einsum("tni,tnj->nij", at_input.view(width), x.view(width))

            output.register_hook(backward)

        handles.append(layer.register_forward_hook(forward))

    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("layers.") and module.in_features % block == 0:
            watch(name, module)
    try:
        embedded = model.get_input_embeddings()(windows.inputs()["input_ids"]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        cross_entropy(logits.flatten(0, 1), windows.labels().flatten()).backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    norms = {name: float(torch.linalg.norm(g - g.transpose(1, 2))) / 2 for name, g in found.items()}
    if not all(np.isfinite(list(norms.values()))):
        raise ValueError("the loss gradient of the model is not finite, so its projections cannot be ranked")
    return sorted(norms.items(), key=lambda item: (-item[1], item[0]))

"""Bits per byte of held-out text under a model, comparable between tokenizers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from tasks.model.windows import Windows


BATCH_TOKENS = 1024  # with a vocabulary of 50,000 their logits take 200 MB


def nll(model: torch.nn.Module, windows: Windows, batch_size: int | None = None) -> np.ndarray:
    """Return the negative log-likelihood of each window's predicted tokens.

    Returns:
        float64, (n,), nats, summed over the tokens of a window.
    """
    batch_size = batch_size or max(1, BATCH_TOKENS // windows.context)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    totals = []
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            part = windows.take(slice(start, start + batch_size))
            given = {name: value.to(device) for name, value in part.inputs().items()}
            logits = model(**given, use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1).float(), part.labels().flatten().to(device), reduction="none")
            totals.append(loss.view(len(part), -1).double().sum(1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(totals)


def bits_per_byte(model: torch.nn.Module, windows: Windows) -> float:
    """Return `sum of NLL / (ln 2 * n_bytes)`.

    End-of-text tokens cost bits and have no bytes, so the figure includes the information on where documents end.

    Raises:
        ValueError: the windows contain no byte to predict.
    """
    n_bytes = int(windows.n_bytes.sum())
    if n_bytes == 0:
        raise ValueError(f"{len(windows)} windows predict no byte; bits per byte need text")
    return float(nll(model, windows).sum() / (math.log(2) * n_bytes))

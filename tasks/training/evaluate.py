"""Perplexity and bits per byte of a model on a user's text, as usually reported.

The text is encoded as a whole and cut into windows that do not overlap; the first token of a window is context only.
The pruning and quantisation literature reports figures of this kind (windows of 2,048 or 1,024 tokens).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tasks.model.score import nll
from tasks.model.windows import Windows, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WINDOW_TOKENS = 1024
FIRST = 8


def cut_windows(text: str, tokenizer: PreTrainedTokenizerFast, length: int = WINDOW_TOKENS) -> Windows:
    """Encode a text and cut it into windows of `length` tokens; a text shorter than one window is one window.

    Raises:
        ValueError: the text has fewer than two tokens.
    """
    encoding = tokenizer.backend_tokenizer.encode(text)
    ids = np.asarray(encoding.ids, dtype=np.int64)
    if len(ids) < 2:
        raise ValueError(f"a text of {len(ids)} tokens has nothing to predict")
    length = min(length, len(ids))
    n = len(ids) // length
    sizes = token_bytes(text, [end for _, end in encoding.offsets])
    tokens, n_bytes = ids[: n * length].reshape(n, length), sizes[: n * length].reshape(n, length)
    return Windows(tokens, n_bytes[:, 1:].sum(axis=1))


def score_text(model: PreTrainedModel, windows: Windows, limit: int | None) -> dict[str, float]:
    """Score the first windows and as many evenly spaced ones as the limit allows.

    Returns:
        `bits_per_byte` and `perplexity` over the spaced windows with the `windows`, `tokens` and `bytes` that were
        predicted in them, the same of the first windows under `first_...`, and `windows_in_text`.
    """
    used = np.arange(len(windows)) if limit is None else np.unique(np.arange(limit) * len(windows) // limit)
    first = np.arange(min(FIRST, len(windows)))
    rows = np.union1d(used, first)
    losses = dict(zip(rows.tolist(), nll(model, Windows(windows.tokens[rows], windows.n_bytes[rows])), strict=True))
    figures: dict[str, float] = {"window_tokens": windows.context + 1, "windows_in_text": len(windows)}
    for prefix, chosen in (("", used), ("first_", first)):
        nats = sum(losses[int(row)] for row in chosen)
        tokens, n_bytes = len(chosen) * windows.context, int(windows.n_bytes[chosen].sum())
        figures |= {
            f"{prefix}windows": len(chosen),
            f"{prefix}tokens": tokens,
            f"{prefix}bytes": n_bytes,
            f"{prefix}perplexity": float(math.exp(nats / tokens)),
            f"{prefix}bits_per_byte": float(nats / (math.log(2) * n_bytes)),
        }
    return figures

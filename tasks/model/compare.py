"""Champion against challenger: paired bits per byte on the same documents, also with different tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.statistics import lower_mean

ALPHA = 0.05
FEWEST = 20

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Whether a challenger may replace the champion.

    Attributes:
        passed: whether the challenger may replace the champion.
        reason: the figures that decided, in one line.
        gain: mean of champion minus challenger over all documents, bits per byte; positive = the challenger is better.
        interval: 95 % interval of `gain`.
        documents: number of documents compared.
    """

    passed: bool
    reason: str
    gain: float
    interval: tuple[float, float]
    documents: int

    @property
    def worse(self) -> bool:
        """Whether the challenger is worse beyond doubt."""
        return self.interval[1] < 0


def document_bits(folder: Path, texts: Sequence[str]) -> Array:
    """Return the bits per byte of each text under a model.

    A text is read in pieces of the model's context, each from its own beginning, after the token between documents.

    Args:
        folder: a model with its tokenizer.
        texts: texts, none of them empty.

    Returns:
        (texts,).
    """
    # Imported here because torch and transformers take seconds to import, and judging needs neither.
    from tasks.model.causal import load_model, load_tokenizer, separator
    from tasks.model.generation.generate import context_of
    from tasks.model.score import nll
    from tasks.model.windows import Windows, token_bytes

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    start, length = separator(tokenizer), context_of(model)
    found = []
    for text in texts:
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        ids = np.asarray(encoding.ids, np.int64)
        sizes = token_bytes(text, [end for _, end in encoding.offsets])
        if start is not None:
            ids, sizes = np.append(start, ids), np.append(0, sizes)
        nats, n_bytes = 0.0, 0
        for at in range(0, len(ids) - 1, length):
            piece, counted = ids[at : at + length + 1], sizes[at + 1 : at + length + 1]
            nats += float(nll(model, Windows(piece[None], counted.sum(keepdims=True))).sum())
            n_bytes += int(counted.sum())
        found.append(nats / (math.log(2) * max(1, n_bytes)))
    return np.asarray(found)


def judge(champion: Array, challenger: Array, drifted: Sequence[int], margin: float) -> Verdict:
    """Decide by paired one-sided 95 % Student bounds.

    The challenger must be better on the documents that resemble the drifted requests, where there are any, and over all
    documents not worse than the champion by more than the margin; without such documents it must be better over all.

    Args:
        champion: bits per byte of each document, (documents,).
        challenger: bits per byte of each document under the challenger, (documents,).
        drifted: positions of the documents that resemble the drifted requests.
        margin: largest accepted loss in bits per byte over all documents.
    """
    gains = champion - challenger
    n, mean = len(gains), float(gains.mean()) if len(gains) else 0.0
    low, high = lower_mean(gains, ALPHA / 2), -lower_mean(-gains, ALPHA / 2)
    there = gains[list(drifted)]
    holds = lower_mean(gains, ALPHA) > -margin
    better = lower_mean(there if len(there) else gains, ALPHA) > 0
    reason = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] bits per byte gained over {n} held-out documents"
    if len(there):
        bound = lower_mean(there, ALPHA)
        reason += f", {there.mean():+.4f} (at least {bound:+.4f}) on the {len(there)} like the drifted requests"
    if n < FEWEST:
        return Verdict(False, f"{reason}: at least {FEWEST} documents are needed", mean, (low, high), n)
    verdict = "passes" if holds and better else "not shown to be better" if holds else f"may lose more than {margin:g}"
    return Verdict(holds and better, f"{reason}: {verdict}", mean, (low, high), n)


def nearest(documents: NDArray[np.floating], requests: NDArray[np.floating]) -> list[int]:
    """Return the positions of the documents that are nearest to at least one request, by cosine."""

    def units(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    return sorted(set(np.argmax(units(requests) @ units(documents).T, axis=1).tolist()))

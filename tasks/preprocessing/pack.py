"""Packing: documents one after the other, cut into windows that each predict `context` tokens exactly once."""

from __future__ import annotations

import numpy as np


class Packer:
    """Packs the token stream of one split of one domain.

    The stream is the end-of-text token, a document, the end-of-text token, a document ... A window holds
    `context + 1` tokens and the next one starts with its last, so every token but the very first is predicted once.
    """

    def __init__(self, context: int, lengths: np.ndarray, end_of_text: int) -> None:
        self._context = context
        self._lengths = lengths
        self._end = np.array([end_of_text], dtype=np.uint16)
        self._parts: list[np.ndarray] = [self._end]
        self._size = 1

    def add(self, ids: list[int]) -> None:
        """Append a document."""
        self._parts += [np.asarray(ids, dtype=np.uint16), self._end]
        self._size += len(ids) + 1

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Remove the windows that are complete.

        Returns:
            tokens, uint16, (n, context + 1), and n_bytes, int64, (n,).
        """
        n = (self._size - 1) // self._context
        stream = np.concatenate(self._parts)
        self._parts, self._size = [stream[n * self._context :]], self._size - n * self._context
        rows = np.arange(n)[:, None] * self._context + np.arange(self._context + 1)
        tokens = stream[rows]
        return tokens, self._lengths[tokens[:, 1:]].sum(axis=1, dtype=np.int64)

    @property
    def left(self) -> tuple[int, int]:
        """Tokens and bytes not yet in a window."""
        stream = np.concatenate(self._parts)[1:]
        return len(stream), int(self._lengths[stream].sum())

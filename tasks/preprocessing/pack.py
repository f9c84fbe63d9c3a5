"""Packing: documents one after the other, cut into windows that each predict `context` tokens exactly once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Packer:
    """Packs the token stream of one split of one domain.

    The stream is the end-of-text token, a document, the end-of-text token, a document ... A window holds
    `context + 1` tokens and the next one starts with its last, so every token but the very first is predicted once.
    """

    def __init__(self, context: int, end_of_text: int, vocab_size: int) -> None:
        self._context = context
        self._end = np.array([end_of_text], dtype=np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._parts: list[np.ndarray] = [self._end]
        self._bytes: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._size = 1

    def add(self, ids: Sequence[int] | np.ndarray, n_bytes: np.ndarray) -> None:
        """Append a document: its tokens and the number of bytes of each."""
        self._parts += [np.asarray(ids, dtype=self._end.dtype), self._end]
        self._bytes += [n_bytes, np.zeros(1, np.int64)]
        self._size += len(ids) + 1

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the complete windows and remove them from the stream.

        Returns:
            tokens, uint16 (uint32 for a vocabulary that needs it), (n, context + 1), and n_bytes, int64, (n,).
        """
        n = (self._size - 1) // self._context
        stream, sizes = np.concatenate(self._parts), np.concatenate(self._bytes)
        used = n * self._context
        self._parts, self._bytes, self._size = [stream[used:]], [sizes[used:]], self._size - used
        rows = np.arange(n)[:, None] * self._context + np.arange(self._context + 1)
        return stream[rows], sizes[1 : used + 1].reshape(n, self._context).sum(axis=1)

    @property
    def left(self) -> tuple[int, int]:
        """Tokens and bytes not yet in a window."""
        return self._size - 1, int(np.concatenate(self._bytes)[1:].sum())

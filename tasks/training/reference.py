"""Bits per byte of simpler text models on the same bytes, as references for the language model."""

from __future__ import annotations

import lzma
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.model.windows import Windows


def compressed_bits_per_byte(texts: list[str]) -> dict[str, float]:
    """Return bits per byte of general compressors on the text itself, without training data.

    Raises:
        ValueError: the text is empty.
    """
    data = "".join(texts).encode()
    if not data:
        raise ValueError("there is no text to compress")
    return {
        "zlib": 8 * len(zlib.compress(data, 9)) / len(data),
        "lzma": 8 * len(lzma.compress(data, format=lzma.FORMAT_ALONE, preset=9)) / len(data),
    }


def ngram_bits_per_byte(train: Windows, held_out: Windows, vocab_size: int) -> dict[str, float]:
    """Return bits per byte of interpolated Kneser-Ney models of order 1, 2 and 3 over the same tokens.

    Args:
        train: windows whose n-grams the models count.
        held_out: windows that the models predict; the first token of a window is context only, as in the language
            model.
        vocab_size: tokens in the vocabulary.
    """
    model = KneserNey(train.tokens, vocab_size)
    bits = -np.log2(np.stack([model.probability(held_out.tokens, order) for order in (1, 2, 3)]))
    n_bytes = float(held_out.n_bytes.sum())
    return dict(zip(("unigram", "bigram", "trigram"), (bits.sum(axis=(1, 2)) / n_bytes).tolist(), strict=True))


class KneserNey:
    """Trigrams with interpolated Kneser-Ney smoothing, one discount for each order.

    Chen and Goodman 1999, "An empirical study of smoothing techniques", section 2.7: a discount n1 / (n1 + 2 n2) is
    taken from each count and given to the next lower order, whose counts are numbers of different left neighbours.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int) -> None:
        """Count the n-grams of all orders.

        Args:
            tokens: int64, (n, length); an n-gram never crosses rows.
            vocab_size: number of tokens in the vocabulary.
        """
        self._vocab = vocab_size
        trigrams, counts = np.unique(self._key(tokens, 3), return_counts=True)
        pairs = np.unique(self._key(tokens, 2))
        # A bigram at the start of a row has no left neighbour; it counts once, as if it had one of its own.
        bigrams, left = np.unique(np.concatenate([trigrams % vocab_size**2, pairs]), return_counts=True)
        left = np.maximum(left - 1, 1)
        self._plain = np.bincount(tokens.ravel(), minlength=vocab_size)
        unigrams, left_of_one = np.unique(bigrams % vocab_size, return_counts=True)
        self._orders = {
            1: _Counts(unigrams, left_of_one, vocab_size),
            2: _Counts(bigrams, left, vocab_size),
            3: _Counts(trigrams, counts, vocab_size),
        }

    def probability(self, tokens: np.ndarray, order: int) -> np.ndarray:
        """Return the probability of each token but the first of each row, given up to `order - 1` before it.

        Returns:
            float64, (n, length - 1).
        """
        if order == 1:
            share = (self._plain + 1) / (self._plain.sum() + self._vocab)
            return np.asarray(share[tokens[:, 1:]], dtype=np.float64)
        lower = self._orders[1].interpolate(tokens[:, 1:], np.full(tokens[:, 1:].shape, 1 / self._vocab))
        two = self._orders[2].interpolate(self._key(tokens, 2).reshape(lower.shape), lower)
        if order == 2 or tokens.shape[1] < 3:
            return two
        three = self._orders[3].interpolate(self._key(tokens, 3).reshape(len(tokens), -1), two[:, 1:])
        return np.concatenate([two[:, :1], three], axis=1)

    def _key(self, tokens: np.ndarray, order: int) -> np.ndarray:
        length = tokens.shape[1] - order + 1
        key = np.zeros((len(tokens), max(0, length)), dtype=np.int64)
        for offset in range(order):
            key = key * self._vocab + tokens[:, offset : offset + length]
        return key.ravel()


class _Counts:
    """Counts of one order, looked up by n-gram and by what precedes its last token."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocab_size: int) -> None:
        self._vocab = vocab_size
        self._keys, self._counts = keys, counts
        once, twice = int(np.sum(counts == 1)), int(np.sum(counts == 2))
        self._discount = once / (once + 2 * twice) if once else 0.5
        self._contexts, start = np.unique(keys // vocab_size, return_index=True)
        self._totals = np.add.reduceat(counts, start)
        self._kinds = np.diff(np.append(start, len(keys)))

    def interpolate(self, keys: np.ndarray, lower: np.ndarray) -> np.ndarray:
        count = _look_up(self._keys, self._counts, keys)
        total = _look_up(self._contexts, self._totals, keys // self._vocab)
        kinds = _look_up(self._contexts, self._kinds, keys // self._vocab)
        safe = np.maximum(total, 1)
        own = np.maximum(count - self._discount, 0) / safe
        return np.where(total > 0, own + self._discount * kinds / safe * lower, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def uniform_bits_per_byte(held_out: Windows, vocab_size: int) -> float:
    """Return bits per byte of the uniform model: log2(vocabulary) for each token."""
    return math.log2(vocab_size) * held_out.n_predicted / float(held_out.n_bytes.sum())

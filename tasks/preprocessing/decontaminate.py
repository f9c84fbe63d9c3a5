"""Decontamination: training documents that repeat held-out text, found by shared word n-grams.

Brown et al. 2020 (GPT-3, appendix C) compare 13-grams of lower-cased words, ignore those that many documents share, and
cut out shared passages with 200 characters on both sides; this module does the same. In scripts without spaces between
words a character counts as a word.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import category

import numpy as np

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_MARKS = "".join(chr(point) for point in range(0x300, 0x1E900) if category(chr(point))[0] == "M")
# A word, or a character of a script without spaces between words; marks belong to the letters before them.
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w{re.escape(_MARKS)}])+")
MARGIN = 200  # characters cut on both sides of a passage; a shorter piece between two is cut too
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it can be inverted modulo 2^64: no factor loses information


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def ngram_hashes(text: str, n: int = 13) -> np.ndarray:
    """Return the distinct hashes of a text's n-grams of lower-cased words.

    A text of fewer than n words is one shorter n-gram; one without words has none.

    Returns:
        uint64, sorted.
    """
    return np.unique(_in_order(_WORD.findall(text.lower()), n))


def _in_order(words: list[str], n: int) -> np.ndarray:
    """Return the hash of the n-gram that begins at each word."""
    values = np.array([_word_hash(word) for word in words], dtype=np.uint64)
    if not len(values):
        return values
    n = min(n, len(values))
    hashes = np.zeros(len(values) - n + 1, dtype=np.uint64)
    for offset in range(n):
        hashes = hashes * np.uint64(_MULTIPLIER) + values[offset : offset + len(hashes)]
    return hashes


@dataclass(frozen=True)
class Overlap:
    """The overlap of a document with the held-out documents.

    Attributes:
        own: share of its own distinct n-grams that occur in any held-out document.
        held_out: largest share of the n-grams of one held-out document that the document contains.
        nearest: the name of that held-out document; empty if nothing is shared.
    """

    own: float = 0.0
    held_out: float = 0.0
    nearest: str = ""


@dataclass(frozen=True)
class Span:
    """A passage that a document shares with held-out documents.

    Attributes:
        start: its first character in the document.
        end: the character behind its last one.
        held_out: the name of the held-out document that shares most of it.
    """

    start: int
    end: int
    held_out: str


class HeldOut:
    """The n-grams of all held-out documents: twelve bytes each, whatever the size of the training set."""

    def __init__(self, documents: Iterable[tuple[str, str]], n: int = 13) -> None:
        """Index (name, text) pairs."""
        self.n = n
        self._names: list[str] = []
        parts: list[np.ndarray] = [np.zeros(0, dtype=np.uint64)]
        for name, text in documents:
            self._names.append(name)
            parts.append(ngram_hashes(text, n))
        self._sizes = np.array([len(part) for part in parts[1:]], dtype=np.int64)
        hashes = np.concatenate(parts)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._owners = np.repeat(np.arange(len(self._names), dtype=np.int32), self._sizes)[order]
        first = np.searchsorted(self._hashes, self._hashes, side="left")
        self._first, self._documents = first, np.bincount(first, minlength=len(first))

    def count(self, text: str) -> None:
        """Increment the document count of each held-out n-gram that a training document contains."""
        hashes = ngram_hashes(text, self.n)
        at = np.searchsorted(self._hashes, hashes, side="left")
        there = at < len(self._hashes)
        there[there] = self._hashes[at[there]] == hashes[there]
        self._documents[at[there]] += 1

    def ignore_common(self, most: int) -> int:
        """Ignore n-grams that more than `limit` documents contain, held-out ones included; return their number.

        Such n-grams belong to notices or templates, not to held-out text. Call `count` for all documents first.
        """
        stays = self._documents[self._first] <= most
        ignored = len(np.unique(self._hashes[~stays]))
        self._hashes, self._owners = self._hashes[stays], self._owners[stays]
        self._sizes = np.bincount(self._owners, minlength=len(self._names))
        self._first = np.searchsorted(self._hashes, self._hashes, side="left")
        self._documents = np.bincount(self._first, minlength=len(self._first))
        return ignored

    def spans(self, text: str) -> list[Span]:
        """Return the passages of a text that are in held-out documents, each with the one that shares most of it."""
        words = [found.span() for found in _WORD.finditer(text)]
        hashes = _in_order([text[a:b].lower() for a, b in words], self.n)
        first = np.searchsorted(self._hashes, hashes, side="left")
        count = np.searchsorted(self._hashes, hashes, side="right") - first
        found: list[Span] = []
        at = np.flatnonzero(count)
        for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else ():
            owners = np.concatenate([self._owners[first[k] : first[k] + count[k]] for k in run])
            last = min(int(run[-1]) + self.n, len(words)) - 1
            found.append(Span(words[run[0]][0], words[last][1], self._names[int(np.bincount(owners).argmax())]))
        return found

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text that remain without the passages shared with held-out documents.

        `MARGIN` characters on both sides of a passage are removed too, and pieces shorter than `MARGIN`.
        """
        spans = [found.span() for found in _WORD.finditer(text)]
        hashes = _in_order([text[a:b].lower() for a, b in spans], self.n)
        at = np.searchsorted(self._hashes, hashes, side="left")
        held = at < len(self._hashes)
        held[held] = self._hashes[at[held]] == hashes[held]
        found: list[str] = []
        begin = 0
        for k in np.flatnonzero(held).tolist():
            end = max(begin, spans[k][0] - MARGIN)
            if end - begin >= MARGIN:
                found.append(text[begin:end])
            begin = max(begin, spans[min(k + self.n, len(spans)) - 1][1] + MARGIN)
        if len(text) - begin >= MARGIN:
            found.append(text[begin:])
        return found

    def __len__(self) -> int:
        return len(self._names)

    def overlap(self, text: str) -> Overlap:
        """Return the overlap of a document with the held-out documents."""
        hashes = ngram_hashes(text, self.n)
        first = np.searchsorted(self._hashes, hashes, side="left")
        count = np.searchsorted(self._hashes, hashes, side="right") - first
        if not count.any():
            return Overlap()
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        owners = self._owners[np.repeat(first, count) + inside]
        shares = np.bincount(owners, minlength=len(self._sizes)) / np.maximum(self._sizes, 1)
        nearest = int(shares.argmax())
        return Overlap(float(np.mean(count > 0)), float(shares[nearest]), self._names[nearest])

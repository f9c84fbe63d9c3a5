"""Decontamination: training documents that repeat held-out text, found by shared word n-grams.

Brown et al. 2020 (GPT-3, appendix C) compare 13-grams of lower-cased words, ignore those that many documents share, and
cut out shared passages with 200 characters on both sides; this module does the same. In scripts without spaces between
words a character counts as a word. A held-out text of fewer words is found where all of it is repeated, from `LEAST`
words on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import category, normalize

import numpy as np
from numpy.typing import NDArray

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_MARKS = "".join(chr(point) for point in range(0x300, 0x1E900) if category(chr(point))[0] == "M")
_INVISIBLE = "\u00ad\u200c\u200d\u2060"  # soft hyphens and joiners within words, which copies often lose
_LETTER = rf"(?![{_UNSPACED}])[\w{re.escape(_MARKS)}]"
# A word, or a character of a script without spaces between words; marks belong to the letters before them.
_WORD = re.compile(rf"[{_UNSPACED}]|{_LETTER}(?:{_LETTER}|[{_INVISIBLE}](?={_LETTER}))*")
_CHARACTER = re.compile(rf"[{_UNSPACED}]")
# All marks, invisible characters and scripts without spaces are here; without them words are found 20 times as fast.
_SPECIAL = re.compile("[\u00ad\u0300-\u036f\u0483-\u1dff\u200c\u200d\u2060\u20d0-\u20ff\u2c00-\U0010ffff]")
_PLAIN_WORD = re.compile(r"\w+")
_REMOVED = dict.fromkeys(map(ord, _INVISIBLE))
LEAST = 5  # words of a held-out text that is searched for; two characters count as a word where they have no spaces
MARGIN = 200  # characters cut on both sides of a passage; a shorter piece between two is cut too
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it can be inverted modulo 2^64: no factor loses information


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    plain = normalize("NFKC", word.translate(_REMOVED)).lower()
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little")


def _pattern(text: str) -> re.Pattern[str]:
    """Return what matches the words of a text."""
    return _WORD if _SPECIAL.search(text) else _PLAIN_WORD


def _hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    return np.array([_word_hash(word) for word in words], dtype=np.uint64)


def _in_order(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return the hash of the n-gram that begins at each word."""
    if not len(words):
        return words
    n = min(n, len(words))
    hashes = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for offset in range(n):
        hashes = hashes * np.uint64(_MULTIPLIER) + words[offset : offset + len(hashes)]
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
    """The n-grams of all held-out documents: twelve bytes each, whatever the size of the training set.

    That of a document with fewer than n words is as long as the document. One without `LEAST` words is left out.
    """

    def __init__(self, documents: Iterable[tuple[str, str]], n: int = 13) -> None:
        """Index (name, text) pairs."""
        self._names: list[str] = []
        parts: list[np.ndarray] = [np.zeros(0, dtype=np.uint64)]
        lengths = {n}
        for name, text in documents:
            words = _pattern(text).findall(text)
            self._names.append(name)
            if len(words) - sum(map(len, _CHARACTER.findall(text))) / 2 < LEAST:
                words = []
            elif len(words) < n:
                lengths.add(len(words))
            parts.append(np.unique(_in_order(_hashes(words), n)))
        self._lengths = sorted(lengths)
        self._sizes = np.array([len(part) for part in parts[1:]], dtype=np.int64)
        hashes = np.concatenate(parts)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._owners = np.repeat(np.arange(len(self._names), dtype=np.int32), self._sizes)[order]
        first = np.searchsorted(self._hashes, self._hashes, side="left")
        self._first, self._documents = first, np.bincount(first, minlength=len(first))

    def __len__(self) -> int:
        return len(self._names)

    def count(self, text: str) -> None:
        """Increment the document count of each held-out n-gram that a training document contains."""
        words = _hashes(_pattern(text).findall(text))
        hashes = np.unique(np.concatenate([_in_order(words, n) for n in self._lengths]))
        first, count = self._find(hashes)
        self._documents[first[count > 0]] += 1

    def ignore_common(self, most: int) -> int:
        """Ignore n-grams that more than `most` documents contain, held-out ones included; return their number.

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
        found: list[Span] = []
        places, runs = self._runs(text)
        for begin, end, owners in runs:
            found.append(Span(places[begin][0], places[end - 1][1], self._names[int(np.bincount(owners).argmax())]))
        return found

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text that remain without the passages shared with held-out documents.

        `MARGIN` characters on both sides of a passage are removed too, and pieces shorter than `MARGIN`.
        """
        found: list[str] = []
        begin = 0
        places, runs = self._runs(text)
        for first, last, _ in runs:
            end = max(begin, places[first][0] - MARGIN)
            if end - begin >= MARGIN:
                found.append(text[begin:end])
            begin = max(begin, places[last - 1][1] + MARGIN)
        if len(text) - begin >= MARGIN:
            found.append(text[begin:])
        return found

    def overlap(self, text: str) -> Overlap:
        """Return the overlap of a document with the held-out documents."""
        words = _hashes(_pattern(text).findall(text))
        own, owners = 0.0, [np.zeros(0, np.int32)]
        for n in self._lengths:
            first, count = self._find(np.unique(_in_order(words, n)))
            if count.any():
                own = max(own, float(np.mean(count > 0)))
                owners.append(self._owners_of(first, count))
        if not own:
            return Overlap()
        shares = np.bincount(np.concatenate(owners), minlength=len(self._sizes)) / np.maximum(self._sizes, 1)
        nearest = int(shares.argmax())
        return Overlap(own, float(shares[nearest]), self._names[nearest])

    def _runs(self, text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int, NDArray[np.int32]]]]:
        """Return the places of the words of a text, and its shared passages: first word, last (exclusive), owners."""
        places = [found.span() for found in _pattern(text).finditer(text)]
        words = _hashes([text[a:b] for a, b in places])
        parts: list[tuple[int, int, NDArray[np.int32]]] = []
        for n in self._lengths:
            first, count = self._find(_in_order(words, n))
            at = np.flatnonzero(count)
            for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else ():
                end = min(int(run[-1]) + n, len(words))
                parts.append((int(run[0]), end, self._owners_of(first[run], count[run])))
        found: list[tuple[int, int, NDArray[np.int32]]] = []
        for begin, end, owners in sorted(parts, key=lambda part: part[:2]):
            if found and begin < found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]), np.concatenate([found[-1][2], owners]))
            else:
                found.append((begin, end, owners))
        return places, found

    def _find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return where each n-gram begins among the held-out ones, and how many documents hold it there."""
        first = np.searchsorted(self._hashes, hashes, side="left")
        return first, np.searchsorted(self._hashes, hashes, side="right") - first

    def _owners_of(self, first: NDArray[np.intp], count: NDArray[np.intp]) -> NDArray[np.int32]:
        """Return the documents that hold some n-grams, one after another."""
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.asarray(self._owners[np.repeat(first, count) + inside])

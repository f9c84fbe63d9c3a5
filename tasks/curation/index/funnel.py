"""The one pass over some files: quality rules, exact copies, and the sketches that near-duplicate search needs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count as counting

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.corpus.filters import Rule, Text, first_objection
from tasks.corpus.redact import redacted
from tasks.curation.index.shingles import I64, U32, U64, distinct, signatures, sketch

DROPPED = -1


@dataclass(frozen=True)
class Candidates:
    """The documents of a batch that passed the rules and are no exact copies of earlier ones.

    Attributes:
        rows: their positions in the batch.
        n_words: their numbers of words.
        fingerprints: 128 bits for each text, (n, 2).
        values: their shingle sets one after another, each rising.
        ends: where each set ends.
        signatures: MinHash values, (n, permutations).
    """

    rows: I64
    n_words: I64
    fingerprints: U64
    values: U64
    ends: I64
    signatures: U32


@dataclass
class Funnel:
    """Takes batches of documents in and lets candidates through.

    Attributes:
        rules: the quality rules by name.
        permutations: values of a signature.
        redact: whether personal data are replaced.
        ignore_case: whether texts that differ in case alone are copies.
        read: documents seen.
        rule: of each document seen, the rule that dropped it, or None.
        detail: why.
        slots: of each document seen, the number of the candidate that it is or repeats, or `DROPPED`; an array a batch.
        replaced: characters that could not be decoded, over all documents.
        redacted: personal data that were replaced, by kind.
    """

    rules: Sequence[tuple[str, Rule]]
    permutations: int
    redact: bool = False
    ignore_case: bool = False
    read: int = 0
    rule: list[str | None] = field(default_factory=list)
    detail: list[str | None] = field(default_factory=list)
    slots: list[I64] = field(default_factory=list)
    replaced: int = 0
    redacted: Counter[str] = field(default_factory=Counter)
    _first: defaultdict[bytes, int] = field(default_factory=lambda: defaultdict(counting().__next__))

    def take(self, texts: pa.Array, replaced: pa.Array) -> Candidates:
        """Return the candidates of some texts, of which characters were replaced."""
        self.read += len(texts)
        self.replaced += pc.sum(replaced).as_py() or 0
        passed = self._passing(texts, replaced)
        passing = texts if len(passed) == len(texts) else texts.take(pa.array(passed))
        sketches = sketch(passing, ignore_case=self.ignore_case)
        before = len(self._first)
        marks = sketches.fingerprints.view("V16").ravel().tolist()
        numbers = np.fromiter(map(self._first.__getitem__, marks), np.int64, len(marks))  # a new text gets the next one
        slots = np.full(len(texts), DROPPED)
        slots[passed] = numbers
        self.slots.append(slots)
        chosen = np.flatnonzero(np.diff(np.maximum.accumulate(np.r_[before - 1, numbers])))
        values, ends = distinct(sketches.shingles, sketches.ends, chosen)
        rows = passed[chosen]
        return Candidates(
            rows,
            sketches.n_words[chosen],
            sketches.fingerprints[chosen],
            values,
            ends,
            signatures(values, ends, self.permutations),
        )

    def _passing(self, texts: pa.Array, replaced: pa.Array) -> I64:
        """Record the verdict of the rules on each text; return the positions of those that pass."""
        self.rule += [None] * len(texts)
        self.detail += [None] * len(texts)
        if not self.rules:
            return np.arange(len(texts))
        passed: list[int] = []
        for k, (text, count) in enumerate(zip(texts.to_pylist(), replaced.to_pylist(), strict=True)):
            objection = first_objection(Text(text, count), self.rules)
            if objection is None:
                passed.append(k)
            else:
                self.rule[k - len(texts)], self.detail[k - len(texts)] = objection
        return np.array(passed, np.int64)

    def redacted_texts(self, texts: pa.Array) -> pa.Array:
        """Return texts, without personal data if the option is on, and count what was replaced."""
        if not self.redact:
            return texts
        changed: list[str] = []
        for text in texts.to_pylist():
            other, found = redacted(text)
            self.redacted += found
            changed.append(other)
        return pa.array(changed, texts.type)

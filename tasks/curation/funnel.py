"""The one pass over a corpus: quality rules, exact duplicates, and the sketches that near-duplicate search needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tasks.curation.filters import Rule, Text, first_objection
from tasks.curation.near_duplicates import ShingleSets
from tasks.curation.read import Document
from tasks.curation.redact import redacted
from tasks.curation.shingles import PERMUTATIONS, Sketches, signatures, sketch


@dataclass(frozen=True)
class Candidate:
    """A document that passed the rules and repeats no earlier one."""

    document: Document
    n_words: int


@dataclass
class Funnel:
    """Takes documents in, lets candidates through, and remembers what it needs of them (not the texts).

    Attributes:
        rules: the quality rules by name.
        sets: where the shingle sets go.
        seed: of the MinHash permutations.
        redact: whether addresses and numbers that name a person are replaced.
        read: documents seen, by domain.
        dropped: (document, rule, reason) of every document that a rule dropped.
        copies: (document, first document with the same words).
        ids: the candidates, in order.
        domains: their domains.
        n_words: their numbers of words.
        replaced: bytes that were no UTF-8, over all documents.
        redacted: what was replaced, by kind.
    """

    rules: Sequence[tuple[str, Rule]]
    sets: ShingleSets
    seed: int = 1
    redact: bool = False
    read: Counter[str] = field(default_factory=Counter)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    n_words: list[int] = field(default_factory=list)
    replaced: int = 0
    redacted: Counter[str] = field(default_factory=Counter)
    _signatures: bytearray = field(default_factory=bytearray)
    _first: dict[bytes, str] = field(default_factory=dict)

    def pass_through(self, batches: Iterable[list[Document]]) -> Iterator[list[Candidate]]:
        """Yield the candidates of each batch."""
        for batch in batches:
            documents = map(self._redacted, batch) if self.redact else batch
            passed = [document for document in documents if self._passes(document)]
            yield self._sketch(passed) if passed else []

    @property
    def signatures(self) -> NDArray[np.uint32]:
        """The MinHash signatures of the candidates, (n, 128)."""
        return np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)

    def _redacted(self, document: Document) -> Document:
        text, found = redacted(document.text)
        self.redacted += found
        return replace(document, text=text) if found else document

    def _passes(self, document: Document) -> bool:
        self.read[document.domain] += 1
        self.replaced += document.replaced
        objection = first_objection(Text(document.text, document.replaced), self.rules)
        if objection is not None:
            self.dropped.append((document.doc_id, *objection))
        return objection is None

    def _sketch(self, documents: Sequence[Document]) -> list[Candidate]:
        sketches = sketch([document.text for document in documents])
        new: list[int] = []
        for k, (document, mark) in enumerate(zip(documents, sketches.fingerprints, strict=True)):
            first = self._first.setdefault(mark.tobytes(), document.doc_id)
            if first == document.doc_id:
                new.append(k)
            else:
                self.copies.append((document.doc_id, first))
        shingles, ends = _only(sketches, new)
        self.sets.append(shingles, ends)
        self._signatures += signatures(shingles, ends, self.seed).tobytes()
        self.ids += [documents[k].doc_id for k in new]
        self.domains += [documents[k].domain for k in new]
        self.n_words += sketches.n_words[new].tolist()
        return [Candidate(documents[k], int(sketches.n_words[k])) for k in new]


def _only(sketches: Sketches, rows: Sequence[int]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the shingle sets of some texts of a batch, one after another, and where each ends."""
    starts = np.r_[0, sketches.ends[:-1]]
    parts = [sketches.shingles[starts[k] : sketches.ends[k]] for k in rows]
    return np.concatenate([np.zeros(0, np.uint64), *parts]), np.cumsum([len(part) for part in parts], dtype=np.int64)

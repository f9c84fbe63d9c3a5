"""The one pass over a corpus: quality rules, exact duplicates, and the sketches that near-duplicate search needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.curation.filters import Rule, Text, first_objection
from tasks.curation.near_duplicates import (
    PERMUTATIONS,
    Shingler,
    ShingleSets,
    fingerprint,
    minhash_template,
    normalised_words,
    signature,
)
from tasks.curation.read import Document


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
        read: documents seen, by domain.
        dropped: (document, rule, reason) of every document that a rule dropped.
        copies: (document, first document with the same words).
        ids: the candidates, in order.
        domains: their domains.
        n_words: their numbers of words.
        replaced: bytes that were no UTF-8, over all documents.
    """

    rules: Sequence[tuple[str, Rule]]
    sets: ShingleSets
    seed: int = 1
    read: Counter[str] = field(default_factory=Counter)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    n_words: list[int] = field(default_factory=list)
    replaced: int = 0
    _signatures: bytearray = field(default_factory=bytearray)
    _first: dict[bytes, str] = field(default_factory=dict)
    _shingler: Shingler = field(default_factory=Shingler)

    def __post_init__(self) -> None:
        self._template = minhash_template(self.seed)

    def pass_through(self, batches: Iterable[list[Document]]) -> Iterator[list[Candidate]]:
        """Yield the candidates of each batch."""
        for batch in batches:
            yield [candidate for document in batch if (candidate := self._take(document)) is not None]

    @property
    def signatures(self) -> NDArray[np.uint32]:
        """The MinHash signatures of the candidates, (n, 128)."""
        return np.frombuffer(self._signatures, np.uint32).reshape(-1, PERMUTATIONS)

    def _take(self, document: Document) -> Candidate | None:
        self.read[document.domain] += 1
        self.replaced += document.replaced
        objection = first_objection(Text(document.text, document.replaced), self.rules)
        if objection is not None:
            self.dropped.append((document.doc_id, *objection))
            return None
        words = normalised_words(document.text)
        first = self._first.setdefault(fingerprint(words), document.doc_id)
        if first != document.doc_id:
            self.copies.append((document.doc_id, first))
            return None
        shingles = self._shingler.shingles(words)
        self.sets.append(shingles)
        self._signatures += signature(shingles, self._template).tobytes()
        self.ids.append(document.doc_id)
        self.domains.append(document.domain)
        self.n_words.append(len(words))
        return Candidate(document, len(words))

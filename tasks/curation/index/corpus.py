"""A read corpus: its shards under one numbering, unique names for its documents, and its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.curation.index.shards import CANDIDATES, READ, Index
from tasks.curation.index.shingles import I64

NAME = pa.large_string()


@dataclass(frozen=True)
class Corpus:
    """What was read, in the order of the corpus.

    Attributes:
        index: the candidates; a candidate is a document that passed the rules and repeats none of its own shard.
        first: of each candidate the first one with the same words, (n,).
    """

    index: Index
    first: I64

    @cached_property
    def names(self) -> pa.ChunkedArray:
        """The id of every document read; of equal ones the second gets the ending ~2, and so on."""
        return unique_names([shard.read(["doc_id"])["doc_id"] for shard in self.index.shards])[0]

    @cached_property
    def slots(self) -> I64:
        """Of each document read the candidate that it is or repeats, -1 where a rule dropped it."""
        parts = [np.zeros(0, np.int64)]
        for shard, start in zip(self.index.shards, self.index.starts, strict=False):
            slot = shard.read(["slot"])["slot"].to_numpy().astype(np.int64)
            parts.append(np.where(slot < 0, -1, slot + start))
        return np.concatenate(parts)

    @cached_property
    def documents(self) -> I64:
        """Of each candidate the number of its document."""
        found = np.full(self.index.size, -1, np.int64)
        passed = np.flatnonzero(self.slots >= 0)[::-1]
        found[self.slots[passed]] = passed  # the first document of a candidate is written last
        return found

    @cached_property
    def is_first(self) -> NDArray[np.bool_]:
        """Whether a candidate repeats no earlier one."""
        found: NDArray[np.bool_] = self.first == np.arange(self.index.size)
        return found

    def name(self, candidate: int) -> str:
        """Return the id of a candidate."""
        return str(self.names[int(self.documents[candidate])].as_py())

    def names_of(self, candidates: I64) -> pa.ChunkedArray:
        """Return the ids of candidates."""
        return self.names.take(pa.array(self.documents[candidates]))

    def copies(self) -> tuple[I64, I64]:
        """Return the documents that repeat an earlier one word by word, and those earlier ones, as numbers."""
        passed = np.flatnonzero(self.slots >= 0)
        original = self.documents[self.first[self.slots[passed]]]
        copy = original != passed
        return passed[copy], original[copy]

    def domains(self) -> Counter[str]:
        """Count the candidates that repeat no earlier one, by domain."""
        found: Counter[str] = Counter()
        for shard, start in zip(self.index.shards, self.index.starts, strict=False):
            found[shard.domain] += int(self.is_first[start : start + shard.size].sum())
        return +found

    def total(self, fact: str) -> Counter[str]:
        """Sum a figure of the shards, by domain."""
        found: Counter[str] = Counter()
        for shard in self.index.shards:
            found[shard.domain] += shard.facts[fact]
        return found

    def redacted(self) -> Counter[str]:
        """Count what was replaced, by kind."""
        return sum((Counter(shard.facts["redacted"]) for shard in self.index.shards), Counter[str]())

    def candidates(self) -> Iterator[pa.Table]:
        """Yield the candidates that repeat no earlier one, with their unique names."""
        yield CANDIDATES.empty_table()
        for shard, start in zip(self.index.shards, self.index.starts, strict=False):
            at = int(start)
            for batch in shard.candidates():
                numbers = np.arange(at, at + len(batch))
                at += len(batch)
                chosen = numbers[self.is_first[numbers]]
                rows = pa.Table.from_batches([batch.take(pa.array(chosen - numbers[0]))])
                yield rows.set_column(0, "doc_id", self.names_of(chosen).cast(pa.string())).cast(CANDIDATES)

    def filtered(self, counts: Counter[str]) -> Iterator[pa.Table]:
        """Yield id, rule and reason of the documents that a rule dropped, and count them by rule."""
        at = 0
        for shard in self.index.shards:
            table = shard.read(["rule", "detail"])
            rows = np.flatnonzero(table["rule"].is_valid().to_numpy()) if len(table) else np.zeros(0, np.int64)
            dropped = table.take(pa.array(rows))
            counts.update(dropped["rule"].to_pylist())
            names = self.names.take(pa.array(rows + at)).cast(pa.string())
            yield pa.table([names, dropped["rule"], dropped["detail"]], names=READ.names[:3])
            at += len(table)

    def aside(self) -> pa.Table:
        """Return what was put aside."""
        return pa.concat_tables([shard.aside() for shard in self.index.shards])


def unique_names(parts: Sequence[pa.ChunkedArray]) -> tuple[pa.ChunkedArray, int]:
    """Return ids that differ, in the same order, and how many were changed."""
    chunks = [chunk.cast(NAME) for part in parts for chunk in part.chunks]
    marks = np.concatenate([np.zeros(0, np.int64), *(_marks(chunk) for chunk in chunks)])
    ordered = np.sort(marks)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return pa.chunked_array(chunks, NAME), 0
    given: set[str] = set()
    times: Counter[str] = Counter()
    changed, start = 0, 0
    for number, chunk in enumerate(chunks):
        rows = np.flatnonzero(np.isin(marks[start : start + len(chunk)], repeated))
        start += len(chunk)
        if not len(rows):
            continue
        names: list[Any] = chunk.to_pylist()
        for row in rows:
            name = names[row]
            times[name] += 1
            if times[name] == 1 and name not in given:
                continue
            while (other := f"{name}~{times[name]}") in given or _occurs(other, ordered):
                times[name] += 1
            given.add(other)
            names[row] = other
            changed += 1
        chunks[number] = pa.array(names, NAME)
    return pa.chunked_array(chunks, NAME), changed


def _marks(chunk: pa.Array) -> I64:
    return np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk))


def _occurs(name: str, marks: I64) -> bool:
    at = int(np.searchsorted(marks, hash(name)))
    return at < len(marks) and bool(marks[at] == hash(name))

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

from tasks.corpus.tabular.schemas import fitted
from tasks.curation.index.shards import ASIDE, ROWS, Index
from tasks.curation.index.shingles import I64

NAME = pa.large_string()
TEXT = pa.string()
CANDIDATES = pa.schema([ROWS.field(0), ("domain", TEXT), *list(ROWS)[1:]])
FILTERED = pa.schema(
    {"doc_id": TEXT, "domain": TEXT, "source": TEXT, "text": pa.large_string(), "n_bytes": pa.int64()}
    | {"reason": TEXT, "detail": TEXT}
)


@dataclass(frozen=True)
class Corpus:
    """The documents that were read, in the order of the corpus.

    Attributes:
        index: the candidates; a candidate is a document that passed the rules and is no exact copy of one of its shard.
        first: of each candidate the first one with the same text, (n,).
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
        """Whether a candidate is no exact copy of an earlier one."""
        found: NDArray[np.bool_] = self.first == np.arange(self.index.size)
        return found

    def name(self, candidate: int) -> str:
        """Return the id of a candidate."""
        return str(self.names[int(self.documents[candidate])].as_py())

    def names_of(self, candidates: I64) -> pa.ChunkedArray:
        """Return the ids of candidates."""
        return self.names.take(pa.array(self.documents[candidates]))

    def copies(self) -> tuple[I64, I64]:
        """Return the documents that are exact copies, and the earlier ones that they copy, as numbers."""
        passed = np.flatnonzero(self.slots >= 0)
        original = self.documents[self.first[self.slots[passed]]]
        copy = original != passed
        return passed[copy], original[copy]

    def domains(self) -> Counter[str]:
        """Count the candidates that are no exact copies, by domain."""
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
        """Count the personal data that were replaced, by kind."""
        return sum((Counter(shard.facts["redacted"]) for shard in self.index.shards), Counter[str]())

    def text_name(self, given: str) -> str:
        """Return the name under which texts go back to the user: the one of their files, if it is the same in all.

        Args:
            given: the text column that the user named, or empty.
        """
        names = {name for shard in self.index.shards for name in shard.facts["text_names"]}
        return given if given and "." not in given else names.pop() if len(names) == 1 else "text"

    @cached_property
    def stays(self) -> NDArray[np.bool_]:
        """Of each document read, whether it is a candidate and no exact copy."""
        found = np.zeros(len(self.slots), bool)
        found[self.documents[self.is_first]] = True
        return found

    def candidates(self) -> Iterator[pa.Table]:
        """Yield the candidates that are no exact copies: `CANDIDATES`, then the user's columns."""
        schema = pa.schema([*CANDIDATES, *self.index.given_columns])
        yield schema.empty_table()
        yield from self._rows(schema, np.flatnonzero(self.stays), {})

    def filtered(self, counts: Counter[str]) -> Iterator[pa.Table]:
        """Yield all other documents: `FILTERED`, then the user's columns; count those that a rule dropped by rule.

        An exact copy has no reason here.
        """
        schema = pa.schema([*FILTERED, *self.index.given_columns])
        yield schema.empty_table()
        rule, detail = (
            pa.concat_arrays(
                [chunk for s in self.index.shards for chunk in s.read([name])[name].chunks] or [pa.nulls(0, TEXT)]
            )
            for name in ("rule", "detail")
        )
        counts.update(value for value in rule.to_pylist() if value is not None)
        yield from self._rows(schema, np.flatnonzero(~self.stays), {"reason": rule, "detail": detail})

    def _rows(self, schema: pa.Schema, numbers: I64, more: dict[str, pa.Array]) -> Iterator[pa.Table]:
        """Yield some documents, given by rising numbers, with their unique ids and further columns."""
        at = 0
        for shard in self.index.shards:
            for batch in shard.rows():
                inside = numbers[np.searchsorted(numbers, at) : np.searchsorted(numbers, at + len(batch))]
                chosen = pa.array(inside)
                at, start = at + len(batch), at
                if not len(inside):
                    continue
                rows = batch if len(inside) == len(batch) else batch.take(pa.array(inside - start))
                own = {
                    "doc_id": self.names.take(chosen).combine_chunks().cast(TEXT),
                    "domain": pa.array([shard.domain] * len(inside), TEXT),
                    **{name: column.take(chosen) for name, column in more.items()},
                }
                names = [*own, *(name for name in rows.schema.names if name not in own)]
                columns = [own[name] if name in own else rows.column(name) for name in names]
                yield pa.Table.from_batches([fitted(pa.RecordBatch.from_arrays(columns, names=names), schema)])

    def aside(self) -> pa.Table:
        """Return the files, rows and lines that were put aside."""
        return pa.concat_tables([ASIDE.empty_table(), *(shard.aside() for shard in self.index.shards)])


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

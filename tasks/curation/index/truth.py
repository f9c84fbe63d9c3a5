"""Scores the near-duplicate pairs that were found against the pairs that are true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from tasks.curation.index.shingles import I64


@dataclass(frozen=True)
class Agreement:
    """How found pairs compare with true pairs."""

    found: int
    true: int
    common: int

    @property
    def precision(self) -> float | None:
        """Share of the found pairs that are true."""
        return self.common / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """Share of the true pairs that were found."""
        return self.common / self.true if self.true else None


def agreement(found: Iterable[tuple[str, str]], true: Iterable[tuple[str, str]]) -> Agreement:
    """Compare two sets of unordered pairs."""
    ours = {(min(p), max(p)) for p in found}
    theirs = {(min(p), max(p)) for p in true}
    return Agreement(len(ours), len(theirs), len(ours & theirs))


def found_pairs(ids: Sequence[str], copies: Iterable[tuple[str, str]], pairs: I64) -> list[tuple[str, str]]:
    """Return the pairs by name, exact copies written out: each copy is alike what its first document is alike."""
    group = {name: [name] for name in ids}
    for copy, first in copies:
        group[first].append(copy)
    found = [(a, b) for names in group.values() for k, a in enumerate(names) for b in names[:k]]
    for i, j in pairs.tolist():
        found += [(a, b) for a in group[ids[i]] for b in group[ids[j]]]
    return found


def true_pairs(path: Path, threshold: float) -> list[tuple[str, str]]:
    """Read the pairs (a, b, jaccard) of a Parquet file that reach the threshold."""
    table = pq.read_table(path, columns=["a", "b", "jaccard"])
    columns = (table[name].to_pylist() for name in ("a", "b", "jaccard"))
    return [(a, b) for a, b, similarity in zip(*columns, strict=True) if similarity >= threshold]

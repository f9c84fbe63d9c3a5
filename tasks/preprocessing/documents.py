"""The kept documents of a run, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.lake import Lake, Ref

BATCH = 256


def read_rows(lake: Lake, kept: Ref, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of some columns as dictionaries; the rows are read in batches."""
    for batch in lake.scan(kept, columns=columns, batch_size=BATCH):
        yield batch.to_pylist()

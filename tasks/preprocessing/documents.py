"""The kept documents of a run, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.lake import Lake, Ref

BATCH = 256


def read_rows(lake: Lake, kept: Ref, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of some columns as dictionaries, a batch at a time."""
    for batch in lake.scan(kept, columns=columns, batch_size=BATCH):
        yield batch.to_pylist()

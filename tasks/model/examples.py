"""Windows of a file of rows in the lake, with which of their tokens count: what later stages train and score on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.model.windows import Windows

if TYPE_CHECKING:
    from infra.lake import Lake, Ref

ROWS = "finetuning/rows"
DATA = "data"  # name of the file of rows in figures, beside the domains of the run


def store_examples(lake: Lake, name: str, splits: Mapping[str, Windows], about: Mapping[str, Any]) -> Ref:
    """Write the windows of each split as one data set and return it."""
    return lake.write(name, [_table(split, windows) for split, windows in splits.items()], about)


def read_examples(lake: Lake, ref: Ref, split: str, limit: int | None = None) -> Windows:
    """Return the windows of a split, all or `limit` evenly spaced ones."""
    table = lake.read(ref)
    table = table.filter(pc.equal(table["split"], split))
    columns = {name: np.array(table[name].to_pylist()) for name in ("tokens", "n_bytes", "scored", "positions")}
    return Windows(**columns).spread(limit)


def _table(split: str, windows: Windows) -> pa.Table:
    read = (len(windows), windows.context)
    scored = np.ones(read, bool) if windows.scored is None else windows.scored
    positions = np.tile(np.arange(read[1]), (read[0], 1)) if windows.positions is None else windows.positions
    return pa.table(
        {
            "split": [split] * len(windows),
            "tokens": list(np.asarray(windows.tokens, np.int64)),
            "n_bytes": windows.n_bytes,
            "scored": list(scored),
            "positions": list(np.asarray(positions, np.int64)),
        }
    )

"""The windows of requests that a run watches, as a table in the lake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.text.embeddings import DIMENSION

BACKGROUND, ALIEN = "background", "alien"  # embedded only, never sent


REFERENCE = "reference"


SMALLEST = 8  # requests of the reference from which single ones are scored


WINDOWS = pa.schema(
    [
        ("window", pa.string()),
        ("position", pa.int32()),
        ("drifted", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("mean_logprob", pa.float64()),
        ("text", pa.string()),
        ("embedding", pa.list_(pa.float32(), DIMENSION)),
    ]
)


def likelihoods_of(table: pa.Table, window: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean log-likelihood of each request of a window, nats per token."""
    return np.asarray(rows_of(table, window)["mean_logprob"].to_numpy(zero_copy_only=False), np.float64)


def window_names(table: pa.Table) -> list[str]:
    """Windows to be judged, in the order in which they came."""
    names = dict.fromkeys(table["window"].to_pylist())
    return [name for name in names if name not in (BACKGROUND, ALIEN, REFERENCE)]


def rows_of(table: pa.Table, window: str) -> pa.Table:
    """Return the rows of a window."""
    return table.filter(pc.equal(table["window"], window))


def vectors_of(table: pa.Table, window: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the (n, d) embeddings of a window."""
    column = rows_of(table, window)["embedding"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, DIMENSION)


def mean_logprob_of(rows: pa.Table) -> float | None:
    """Return the mean of `mean_logprob` over some rows, nats per token; None where none has one."""
    mean = pc.mean(rows["mean_logprob"]).as_py()
    return None if mean is None else round(mean, 6)

"""Fixed-length windows of tokens with the number of UTF-8 bytes that each one predicts."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow.compute as pc

if TYPE_CHECKING:
    from infra.lake import Lake, Ref

PIECE = 4096  # windows in memory at once where all are read
UNSCORED = -100  # the label that torch's cross entropy leaves out


class TrainingText(Protocol):
    """Windows that a training reads a few at a time."""

    def __len__(self) -> int:
        """Return the number of windows."""
        ...

    @property
    def context(self) -> int:
        """Number of tokens that a model reads for one window."""
        ...

    def take(self, rows: np.ndarray) -> Windows:
        """Return some of the windows."""
        ...

    def digest(self) -> str:
        """Return a digest of all windows."""
        ...


@dataclass(frozen=True)
class Windows:
    """Windows of one split of one domain.

    Attributes:
        tokens: int64, (n, context + 1); a model reads `tokens[:, :-1]` and predicts `tokens[:, 1:]`.
        n_bytes: int64, (n,), UTF-8 bytes of the predicted tokens `tokens[:, 1:]`; special tokens count none.
        scored: bool, (n, context), which of the predicted tokens count in loss and score; None = all.
        positions: int64, (n, context), position of each read token in its text; texts of one window do not see each
            other. None = each window is one text.
    """

    tokens: np.ndarray
    n_bytes: np.ndarray
    scored: np.ndarray | None = None
    positions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.shape[1] < 2:
            raise ValueError(f"tokens should be (n, context + 1) with context >= 1, found {self.tokens.shape}")
        if self.n_bytes.shape != self.tokens.shape[:1]:
            raise ValueError(
                f"n_bytes {self.n_bytes.shape} should have one value for each of {len(self.tokens)} windows"
            )
        read = (len(self.tokens), self.context)
        if any(given is not None and given.shape != read for given in (self.scored, self.positions)):
            raise ValueError(f"scored and positions should be (n, context) = {read}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def context(self) -> int:
        """Number of tokens that a model reads for one window."""
        return int(self.tokens.shape[1]) - 1

    @property
    def n_predicted(self) -> int:
        """Tokens predicted over all windows."""
        return len(self) * self.context

    @property
    def n_scored(self) -> int:
        """Predicted tokens that count in loss and score."""
        return self.n_predicted if self.scored is None else int(self.scored.sum())

    def spread(self, limit: int | None) -> Windows:
        """Return at most `limit` windows, evenly spaced, so that many documents are represented."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.arange(limit) * len(self) // limit)

    def take(self, rows: np.ndarray | slice) -> Windows:
        """Return some of the windows."""
        scored, positions = (None if given is None else given[rows] for given in (self.scored, self.positions))
        return Windows(self.tokens[rows], self.n_bytes[rows], scored, positions)

    def shortened(self, context: int) -> Windows:
        """Return the first tokens of each window; its bytes are those of its share of the tokens."""
        if self.context <= context:
            return self
        share = np.rint(self.n_bytes * context / self.context).astype(np.int64)
        return Windows(self.tokens[:, : context + 1], np.maximum(share, 1))

    def split_at(self, separator: int) -> Windows:
        """Return the same windows as texts that each start with a separator and do not see each other."""
        read = self.tokens[:, :-1]
        numbers = np.broadcast_to(np.arange(self.context), read.shape)
        starts = np.maximum.accumulate(np.where(read == separator, numbers, 0), axis=1)
        return replace(self, positions=np.asarray(numbers - starts, np.int64))

    def digest(self) -> str:
        """Return a digest of all windows."""
        found = _digest(len(self), self.context, iter([np.asarray(self.tokens, np.int64)]))
        for given in (self.scored, self.positions):
            if given is not None:
                found = hashlib.sha256(found.encode() + str(given.shape).encode() + given.tobytes()).hexdigest()
        return found

    def inputs(self) -> dict[str, Any]:
        """Return the arguments with which a model reads the windows, as tensors."""
        import torch

        given = {"input_ids": torch.from_numpy(self.tokens[:, :-1].astype(np.int64, copy=False))}
        if self.positions is not None:
            given["position_ids"] = torch.from_numpy(self.positions)
        return given

    def labels(self) -> Any:
        """Return the predicted tokens as a tensor, those that do not count as -100."""
        import torch

        labels = self.tokens[:, 1:].astype(np.int64, copy=False)
        return torch.from_numpy(labels if self.scored is None else np.where(self.scored, labels, UNSCORED))


@dataclass(frozen=True)
class StoredWindows:
    """Windows in a file; only those that are asked for are in memory, whatever their number.

    Attributes:
        path: the file: the tokens of all windows one after the other.
        count: number of windows.
        context: number of tokens that a model reads for one window.
        dtype: type of the tokens in the file.
    """

    path: Path
    count: int
    context: int
    dtype: str

    def __len__(self) -> int:
        return self.count

    def take(self, rows: np.ndarray) -> Windows:
        """Return some of the windows; their bytes are not stored and count 0."""
        width = (self.context + 1) * np.dtype(self.dtype).itemsize
        with self.path.open("rb") as stream:
            found = [os.pread(stream.fileno(), width, int(row) * width) for row in rows]
        tokens = np.frombuffer(b"".join(found), self.dtype).reshape(-1, self.context + 1).astype(np.int64)
        return Windows(tokens, np.zeros(len(tokens), np.int64))

    def digest(self) -> str:
        """Return a digest of all windows."""
        pieces = (self.take(np.arange(at, min(at + PIECE, self.count))).tokens for at in range(0, self.count, PIECE))
        return _digest(self.count, self.context, pieces)


def _digest(count: int, context: int, pieces: Iterator[np.ndarray]) -> str:
    digest = hashlib.sha256(f"{count} {context}".encode())
    for piece in pieces:
        digest.update(piece.tobytes())
    return digest.hexdigest()


def count_windows(lake: Lake, ref: Ref) -> dict[tuple[str, str], int]:
    """Return the number of windows of each (domain, split) of `preprocessing/shards`."""
    rows = lake.sql("SELECT domain, split, count(*) AS n FROM shards GROUP BY ALL", shards=ref).to_pylist()
    return {(row["domain"], row["split"]): int(row["n"]) for row in rows}


def read_windows(lake: Lake, ref: Ref, domain: str, split: str, limit: int | None = None) -> Windows:
    """Read the windows of one domain and split from `preprocessing/shards`, all or `limit` evenly spaced ones.

    Only the returned windows are held in memory.

    Raises:
        ValueError: the data set has no such windows; the message lists the existing domains and splits.
    """
    tokens: list[np.ndarray] = []
    n_bytes: list[np.ndarray] = []
    for rows, sizes in _scan(lake, ref, domain, split, limit):
        tokens.append(rows.astype(np.int64))
        n_bytes.append(sizes)
    return Windows(np.concatenate(tokens), np.concatenate(n_bytes))


def store_windows(
    lake: Lake,
    ref: Ref,
    domain: str,
    split: str,
    path: Path,
    limit: int | None = None,
    chosen: np.ndarray | None = None,
) -> StoredWindows:
    """Copy the windows that `read_windows` returns into a file, from which a training reads them step by step.

    Args:
        lake: the lake.
        ref: a version of `preprocessing/shards`.
        domain: domain of the windows.
        split: split of the windows.
        path: file that is written.
        limit: number of evenly spaced windows; None = all.
        chosen: numbers of those among them that are copied, ascending; None = all.

    Raises:
        ValueError: the data set has no such windows; the message lists the existing domains and splits.
    """
    count, width, dtype, seen = 0, 0, "uint16", 0
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with partial.open("wb") as stream:
        for rows, _ in _scan(lake, ref, domain, split, limit):
            if chosen is not None:
                first, last = np.searchsorted(chosen, [seen, seen + len(rows)])
                rows, seen = rows[chosen[first:last] - seen], seen + len(rows)
            stream.write(rows.tobytes())
            count, width, dtype = count + len(rows), rows.shape[1], str(rows.dtype)
    partial.replace(path)
    return StoredWindows(path, count, width - 1, dtype)


def _scan(lake: Lake, ref: Ref, domain: str, split: str, limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield tokens as stored, (n, context + 1), and bytes, (n,), of all windows or of `limit` evenly spaced ones."""
    counts = count_windows(lake, ref)
    n = counts.get((domain, split), 0)
    if not n:
        found = ", ".join(sorted("/".join(pair) for pair in counts)) or "nothing"
        raise ValueError(f"{ref} holds no windows of {domain}/{split}; it holds {found}")
    wanted = np.arange(n) if limit is None or limit >= n else np.arange(limit) * n // limit
    seen = 0
    for batch in lake.scan(ref, columns=["domain", "split", "tokens", "n_bytes"]):
        mask = pc.and_(pc.equal(batch["domain"], domain), pc.equal(batch["split"], split))
        rows = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
        first, last = np.searchsorted(wanted, [seen, seen + len(rows)])
        rows, seen = rows[wanted[first:last] - seen], seen + len(rows)
        if len(rows):
            picked = batch.take(rows)
            tokens = picked["tokens"].flatten().to_numpy().reshape(len(rows), -1)
            yield tokens, picked["n_bytes"].to_numpy().astype(np.int64)


def token_bytes(text: str, ends: Sequence[int]) -> np.ndarray:
    """Return the number of UTF-8 bytes of each token of a text; they add up to the bytes of the text.

    The first token of a character that several tokens share counts all of it. This holds for every tokenizer that
    knows where in the text its tokens lie, whatever it makes of the text.

    Args:
        text: the encoded text.
        ends: end position of each token in characters, as `tokenizers` returns it.

    Returns:
        int64, (tokens,).
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    reached = np.maximum.accumulate(np.asarray(ends, dtype=np.int64))
    reached[-1] = len(text)
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
        reached = np.concatenate([[0], np.cumsum(widths)])[reached]
    return np.diff(reached, prepend=0)

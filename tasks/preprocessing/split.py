"""Data splits: a hash of the document's name decides, so that the split of a document is stable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")
PARTS = 20


def name_hash(doc_id: str) -> int:
    """Return sha256 of a document's name as a number."""
    return int.from_bytes(hashlib.sha256(doc_id.encode()).digest(), "big")


def split_of(doc_id: str) -> str:
    """Return `validation` for a name hash of 0 modulo 20, `test` for 1, else `train`."""
    return {0: "validation", 1: "test"}.get(name_hash(doc_id) % PARTS, "train")


def assign_splits(n_bytes: Mapping[str, int], minimum: int) -> dict[str, str]:
    """Split the documents of one domain by name.

    In a small collection a held-out split may have less text than one window; then the train documents with the
    smallest hashes move to that split until it has `minimum` bytes.

    Args:
        n_bytes: size of each document by name.
        minimum: bytes that validation and test should hold.

    Returns:
        the split of each document; a split may have less than `minimum` bytes if there is too little text in total.
    """
    splits = {doc_id: split_of(doc_id) for doc_id in n_bytes}
    movable = sorted((d for d, split in splits.items() if split == "train"), key=name_hash)
    for target in ("validation", "test"):
        held = sum(n_bytes[d] for d, split in splits.items() if split == target)
        while held < minimum and len(movable) > 1:
            moved = movable.pop(0)
            splits[moved] = target
            held += n_bytes[moved]
    return splits

import hashlib
from collections import Counter

from tasks.preprocessing.split import assign_splits, split_of


def test_the_name_decides_by_sha256_modulo_twenty() -> None:
    for i in range(200):
        part = int(hashlib.sha256(f"doc-{i}".encode()).hexdigest(), 16) % 20
        assert split_of(f"doc-{i}") == {0: "validation", 1: "test"}.get(part, "train")


def test_a_twentieth_is_held_out_for_each_purpose() -> None:
    counts = Counter(split_of(f"doc-{i}") for i in range(20_000))
    assert abs(counts["validation"] - 1000) < 120
    assert abs(counts["test"] - 1000) < 120


def test_large_collections_are_split_by_name_alone() -> None:
    sizes = {f"doc-{i}": 1000 for i in range(500)}
    assert assign_splits(sizes, minimum=1000) == {name: split_of(name) for name in sizes}


def test_a_small_collection_still_has_held_out_text() -> None:
    sizes = {f"d{i}": 600 for i in range(12)}
    splits = assign_splits(sizes, minimum=1000)
    held = {split: sum(sizes[d] for d in sizes if splits[d] == split) for split in ("train", "validation", "test")}
    assert held["validation"] >= 1000
    assert held["test"] >= 1000
    assert held["train"] > 0
    assert splits == assign_splits(dict(reversed(sizes.items())), minimum=1000)


def test_one_document_is_not_split() -> None:
    assert set(assign_splits({"only": 10}, minimum=1000)) == {"only"}

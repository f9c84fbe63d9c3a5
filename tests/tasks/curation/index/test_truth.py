from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.curation.index.truth import agreement, found_pairs, true_pairs


def test_agreement_counts_unordered_pairs_once() -> None:
    result = agreement([("a", "b"), ("b", "a"), ("c", "d")], [("b", "a"), ("e", "f")])
    assert (result.precision, result.recall) == (0.5, 0.5)
    nothing = agreement([], [])
    assert (nothing.precision, nothing.recall) == (None, None)


def test_copies_are_alike_what_their_first_document_is_alike() -> None:
    found = found_pairs(["a", "b", "c"], [("a2", "a"), ("a3", "a")], np.array([(0, 1)]))
    assert {tuple(sorted(pair)) for pair in found} == {
        ("a", "a2"),
        ("a", "a3"),
        ("a2", "a3"),
        ("a", "b"),
        ("a2", "b"),
        ("a3", "b"),
    }


def test_true_pairs_reach_the_threshold(tmp_path: Path) -> None:
    table = pa.table({"a": ["x", "y"], "b": ["y", "z"], "jaccard": [0.7, 0.69]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert true_pairs(tmp_path / "t.parquet", 0.7) == [("x", "y")]

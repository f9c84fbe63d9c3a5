from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.lake import Lake, Ref
from tasks.model.windows import Windows, read_windows, store_windows


def shard(lake: Lake, rows: list[tuple[str, str]], context: int = 4) -> Ref:
    tokens = np.arange(len(rows) * (context + 1), dtype=np.uint16)
    return lake.write(
        "preprocessing/shards",
        pa.table(
            {
                "domain": [domain for domain, _ in rows],
                "split": [split for _, split in rows],
                "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), context + 1),
                "n_bytes": pa.array(range(len(rows)), pa.int64()),
            }
        ),
    )


def test_windows_of_one_domain_and_split_are_read_in_order(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ref = shard(lake, [("base", "train"), ("second", "train"), ("base", "test"), ("base", "train")])
    windows = read_windows(lake, ref, "base", "train")
    assert windows.tokens.tolist() == [[0, 1, 2, 3, 4], [15, 16, 17, 18, 19]]
    assert windows.tokens.dtype == np.int64
    assert windows.n_bytes.tolist() == [0, 3]
    assert windows.context == 4
    assert windows.n_predicted == 8


def test_a_limit_takes_evenly_spaced_windows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ref = shard(lake, [("base", "train")] * 10)
    assert read_windows(lake, ref, "base", "train", limit=4).n_bytes.tolist() == [0, 2, 5, 7]
    assert len(read_windows(lake, ref, "base", "train", limit=99)) == 10


@pytest.mark.parametrize("limit", [None, 4, 99])
def test_stored_windows_are_the_same_windows(tmp_path: Path, limit: int | None) -> None:
    lake = Lake(tmp_path)
    ref = shard(lake, [("base", "train"), ("second", "train")] * 10)
    read = read_windows(lake, ref, "base", "train", limit)
    stored = store_windows(lake, ref, "base", "train", tmp_path / "windows", limit)
    assert (len(stored), stored.context) == (len(read), read.context)
    some = np.array([3, 0, 2])
    assert np.array_equal(stored.take(some).tokens, read.take(some).tokens)
    assert stored.take(some).tokens.dtype == np.int64
    assert stored.digest() == read.digest()


def test_missing_windows_are_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ref = shard(lake, [("base", "train")])
    with pytest.raises(ValueError, match=r"no windows of second/test; it holds base/train"):
        read_windows(lake, ref, "second", "test")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(n, context \+ 1\)"):
        Windows(np.zeros(3, np.int64), np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="one value for each"):
        Windows(np.zeros((3, 4), np.int64), np.zeros(2, np.int64))


def test_split_texts_count_their_own_positions() -> None:
    windows = Windows(np.array([[0, 5, 6, 0, 7, 8], [3, 4, 0, 0, 9, 1]]), np.zeros(2, np.int64)).split_at(0)
    assert windows.positions is not None
    assert windows.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 1]]

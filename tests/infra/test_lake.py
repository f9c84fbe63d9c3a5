from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import LakeError
from infra.lake import Lake, Ref, write_atomic


def table(n: int, start: int = 0) -> pa.Table:
    return pa.table({"id": [f"d{i}" for i in range(start, start + n)], "n": list(range(start, start + n))})


def test_a_data_set_reads_back(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ref = lake.write("curation/kept", (table(100, 100 * i) for i in range(5)), {"seed": 3})
    assert lake.rows(ref) == 500
    assert lake.read(ref).column("n").to_pylist() == list(range(500))
    assert sum(batch.num_rows for batch in lake.scan(ref, ["n"], batch_size=64)) == 500
    assert lake.meta(ref) == {"seed": 3}
    assert lake.sql("select count(*) as c from kept where n >= 250", kept=ref).to_pylist() == [{"c": 250}]


def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first, second = lake.write("a/b", table(3)), lake.write("a/b", table(3))
    assert first == second
    assert lake.write("a/b", table(4)) != first
    assert len(lake.versions("a/b")) == 2
    folders = [path for path in (tmp_path / "a/b").iterdir() if path.is_dir()]
    assert len(folders) == 2


def test_a_writer_that_fails_half_way_leaves_nothing_visible(tmp_path: Path) -> None:
    def broken() -> object:
        yield table(10)
        raise RuntimeError("disk on fire")

    lake = Lake(tmp_path)
    with pytest.raises(RuntimeError, match="disk on fire"):
        lake.write("a/b", broken())  # type: ignore[arg-type]
    assert lake.versions("a/b") == []
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_folder_comes_back_whole(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep/weights.bin").write_bytes(b"\0" * 1000)
    lake = Lake(tmp_path / "lake")
    ref = lake.put_folder("training/model", source)
    assert (lake.folder(ref) / "deep/weights.bin").stat().st_size == 1000
    assert {path.name for path in lake.files(ref)} == {"config.json", "weights.bin"}


def test_references_travel_as_text() -> None:
    ref = Ref("curation/kept", "0123456789abcdef")
    assert Ref.parse(str(ref)) == ref
    for bad in ("curation/kept", "../x@0123456789abcdef", "a@b", "a@0123456789ABCDEF"):
        with pytest.raises(LakeError, match="looks like"):
            Ref.parse(bad)


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="run the stage again"):
        Lake(tmp_path).read(Ref("a/b", "0123456789abcdef"))
    with pytest.raises(LakeError, match="lower case"):
        Lake(tmp_path).write("../up", table(1))


def test_atomic_writes_replace_or_leave(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, json.dumps({"a": 1}))
    write_atomic(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert list(tmp_path.iterdir()) == [path]

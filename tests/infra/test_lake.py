from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def parts_of(lake: Lake, name: str) -> list[Path]:
    return sorted(path for path in (lake.root / name).iterdir() if path.is_dir())


def test_a_killed_writer_leaves_an_orphan_that_can_be_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys, pyarrow as pa; from pathlib import Path; from infra.lake import Lake\n"
        "def tables():\n"
        "    for i in range(100):\n"
        "        yield pa.table({'n': list(range(20000))})\n"
        "    os.kill(os.getpid(), 9)\n"
        "Lake(Path(sys.argv[1])).write('a/b', tables())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    lake = Lake(tmp_path)
    assert lake.versions("a/b") == []
    [part] = parts_of(lake, "a/b")
    assert lake.orphans() == [], "it may still be at work"
    ref = lake.write("a/b", table(3))
    assert lake.orphans(older_than_s=0.0) == [part]
    assert lake.read(ref).num_rows == 3


def test_two_writers_of_one_version_leave_one_version(tmp_path: Path) -> None:
    code = (
        "import sys, pyarrow as pa; from pathlib import Path; from infra.lake import Lake\n"
        "sys.stdin.readline()\n"
        "for i in range(30): print(Lake(Path(sys.argv[1])).write('a/b', pa.table({'n': list(range(i, 1000))})))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    first, second = (writer.communicate()[0].split() for writer in writers)
    assert first == second
    lake = Lake(tmp_path)
    assert len(lake.versions("a/b")) == 30
    for text in first:
        lake.verify(Ref.parse(text))
    named = {lake.folder(ref) for ref in lake.versions("a/b")}
    assert set(parts_of(lake, "a/b")) == named | set(lake.orphans(older_than_s=0.0))


def test_damage_is_found_before_it_is_read_and_writing_again_repairs(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    ref = lake.write("a/b", table(1000))
    [path] = lake.files(ref)
    whole = path.read_bytes()
    for bad, message in ((whole[:-10], "its manifest says"), (None, "is gone")):
        path.unlink()
        if bad is not None:
            path.write_bytes(bad)
        for look in (lake.read, lake.files, lake.folder, lake.verify):
            with pytest.raises(LakeError, match=f"{message}.*run the stage again"):
                look(ref)
        assert lake.write("a/b", table(1000)) == ref
        assert lake.read(ref).num_rows == 1000
        [path] = lake.files(ref)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(LakeError, match="damaged"):
        lake.read(ref)
    with pytest.raises(LakeError, match="does not hold what was written"):
        lake.verify(ref)
    (tmp_path / "a/b" / f"{ref.version}.json").write_text('{"folder": ')
    with pytest.raises(LakeError, match="is no manifest"):
        lake.read(ref)


def test_a_version_can_be_removed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    keep, gone = lake.write("a/b", table(3)), lake.write("a/b", table(4))
    assert lake.remove(gone) > 0
    assert lake.versions("a/b") == [keep]
    assert len(parts_of(lake, "a/b")) == 1
    with pytest.raises(LakeError, match="was it cleaned"):
        lake.remove(gone)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk that fills up needs the right to mount one")
    try:
        lake = Lake(tmp_path)
        noise = pa.table({"n": np.random.default_rng(0).integers(0, 2**60, 200_000)})
        with pytest.raises(LakeError, match=r"no space left on the disk.*--resume"):
            lake.write("a/b", noise)
        assert list((tmp_path / "a/b").iterdir()) == []
        assert lake.read(lake.write("a/b", table(3))).num_rows == 3
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where a folder must be made")
    with pytest.raises(LakeError, match=r"a/b was not written: Not a directory.*KETCYCLE_HOME"):
        Lake(tmp_path).write("a/b", table(1))

"""Lake, evidence and records in an S3 server, as two homes see them that share nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra import completion, retention
from infra.energy.usage import Usage
from infra.errors import BadInput, LakeError
from infra.evidence import EvidenceRow
from infra.lake import Lake, Ref
from infra.shared import SharedLake, open_evidence, open_lake
from infra.store import Store
from tasks.serving.request_log import REQUESTS, SCHEMA, compact_hour, forget_before, read_requests
from tasks.text.embeddings import DIMENSION

ROOT = Path(__file__).parents[2]


def table(n: int, start: int = 0) -> pa.Table:
    return pa.table({"n": list(range(start, start + n))})


@pytest.fixture
def shared(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("KETCYCLE_LAKE_URL", bucket)
    return Store(bucket)


@pytest.fixture
def homes(shared: Store, tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "a", tmp_path / "b"


def both(homes: tuple[Path, Path]) -> tuple[SharedLake, SharedLake]:
    first, second = (open_lake(home) for home in homes)
    assert isinstance(first, SharedLake)
    assert isinstance(second, SharedLake)
    return first, second


def test_without_a_store_everything_is_in_the_home(tmp_path: Path) -> None:
    assert type(open_lake(tmp_path)) is Lake
    assert open_lake(tmp_path).root == tmp_path / "lake"
    assert open_evidence(tmp_path).root == tmp_path / "evidence"


def test_what_one_home_writes_another_one_reads(homes: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = both(homes)
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "deep" / "weights.safetensors").write_bytes(bytes(range(256)) * 999)
    (model / "config.json").write_text("{}")
    (model / "0123456789abcdef.json").write_text("no manifest, only named like one")
    data = first.write("curation/kept", (table(100, 100 * i) for i in range(5)), {"seed": 3})
    folder = first.put_folder("training/model", model)
    assert second.names() == ["curation/kept", "training/model"]
    assert second.names("training") == ["training/model"]
    assert second.versions("curation/kept") == [data]
    assert second.meta(data) == {"seed": 3}
    assert second.rows(data) == 500
    assert not list(second.root.rglob("*.parquet"))  # only what is read is fetched
    assert second.read(data)["n"].to_pylist() == list(range(500))
    assert sum(batch.num_rows for batch in second.scan(data, batch_size=64)) == 500
    assert second.sql("select count(*) as c from kept where n >= 250", kept=data).to_pylist() == [{"c": 250}]
    there = second.folder(folder)
    assert there.is_relative_to(homes[1])
    assert (there / "deep" / "weights.safetensors").read_bytes() == bytes(range(256)) * 999
    second.verify(folder)
    # With what was fetched, no store is needed.
    shutil.rmtree(homes[0])
    second._store.delete(second._store.sizes("lake"))
    assert second.read(data).num_rows == 500


def test_the_same_content_is_one_version_wherever_it_is_written(homes: tuple[Path, Path], shared: Store) -> None:
    first, second = both(homes)
    ref = first.write("a/b", table(3))
    before = shared.sizes("lake")
    assert second.write("a/b", table(3)) == ref
    assert shared.sizes("lake") == before
    assert second.folder(ref).name == first.folder(ref).name
    assert len([path for path in (second.root / "a/b").iterdir() if path.is_dir()]) == 1
    newer = second.write("a/b", table(4))
    assert first.versions("a/b") == [ref, newer]  # by when they were written, not by when they were fetched
    assert Lake(first.root).versions("a/b") == [ref, newer]


def test_a_writer_that_is_killed_leaves_nothing_that_others_see(homes: tuple[Path, Path], shared: Store) -> None:
    code = f"""
import os, signal
from pathlib import Path
import pyarrow as pa
from infra.shared import open_lake
from infra.store import Store
send = Store.put
def put(self, key, path):
    if path.name == "b.bin":
        os.kill(os.getpid(), signal.SIGKILL)
    send(self, key, path)
Store.put = put
source = Path({str(homes[0])!r}).with_name("source")
source.mkdir()
for name in ("a.bin", "b.bin"):
    (source / name).write_bytes(b"x" * 1000)
open_lake(Path({str(homes[0])!r})).put_folder("training/model", source)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == -signal.SIGKILL
    assert list(shared.sizes("lake").values()) == [1000]
    _, second = both(homes)
    assert second.names() == []
    assert second.versions("training/model") == []
    assert second.unfinished() == {}  # it may still be at work
    (left,) = second.unfinished(older_than_s=-5.0)
    second.discard(left)
    assert shared.sizes("lake") == {}


def _drop(store: Store, key: str, path: Path) -> None:
    store.delete([key])


def _cut(store: Store, key: str, path: Path) -> None:
    path.write_bytes(b"PAR1")
    store.put(key, path)


def _turn(store: Store, key: str, path: Path) -> None:
    assert store.get(key, path)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    store.put(key, path)


@pytest.mark.parametrize("harm", [_drop, _cut, _turn])
def test_what_is_damaged_in_the_store_is_not_served_and_is_written_anew(
    harm: Callable[[Store, str, Path], None], homes: tuple[Path, Path], shared: Store, tmp_path: Path
) -> None:
    first, second = both(homes)
    ref = first.write("a/b", table(1000))
    (key,) = (key for key in shared.sizes("lake") if key.endswith(".parquet"))
    harm(shared, key, tmp_path / "file")
    with pytest.raises(LakeError, match=r"a/b@[0-9a-f]{16} is damaged: part-00000.parquet .*run the stage again"):
        second.read(ref)
    assert not list(second.root.rglob("*.parquet"))
    if harm is not _turn:  # a flipped bit is seen when the file is read
        with pytest.raises(LakeError, match="is damaged"):
            first.check(ref)
        assert second.write("a/b", table(1000)) == ref
        assert open_lake(tmp_path / "c").read(ref).num_rows == 1000


def test_what_is_damaged_here_is_fetched_again(homes: tuple[Path, Path]) -> None:
    first, second = both(homes)
    ref = first.write("a/b", table(1000))
    (path,) = second.files(ref)
    path.write_bytes(b"")
    assert second.read(ref).num_rows == 1000
    shutil.rmtree(path.parent)
    assert second.read(ref).num_rows == 1000


def test_removed_is_removed_for_all(homes: tuple[Path, Path], shared: Store) -> None:
    first, second = both(homes)
    ref, other = first.write("a/b", table(10)), first.write("a/b", table(20))
    (path,) = second.files(ref)
    assert second.orphans(0.0) == []
    assert first.remove(ref) == path.stat().st_size
    assert second.versions("a/b") == [other]
    assert len(shared.sizes("lake")) == 2
    with pytest.raises(LakeError, match="was it cleaned"):
        first.read(ref)
    with pytest.raises(LakeError, match="was it cleaned"):
        second.check(ref)
    assert set(second.orphans()) == {second._manifest_path(ref), path.parent}


def test_cleaning_leaves_what_another_home_names(homes: tuple[Path, Path], shared: Store) -> None:
    first, second = both(homes)
    common, own, its = first.write("a/b", table(1)), first.write("a/b", table(2)), second.write("a/b", table(3))
    for home, run, refs in ((homes[0], "mine", (common, own)), (homes[1], "theirs", (common, its))):
        (home / "runs" / run).mkdir(parents=True)
        completion.record(home, run, "curation", {"seed": 1}, {"refs": {str(i): str(r) for i, r in enumerate(refs)}})
    assert not list(homes[0].rglob("curation.json"))
    found = completion.find(homes[1], "mine", "curation")  # a run goes on wherever it is continued
    assert found is not None
    assert found.result["refs"]["1"] == str(own)
    items = retention.plan(homes[0], keep=0)
    assert [(item.what, item.name) for item in items] == [
        ("run", "mine"), ("completions", "mine"), ("lake version", str(own))
    ]  # fmt: skip
    retention.carry_out(homes[0], items)
    assert completion.find(homes[1], "mine", "curation") is None
    assert completion.find(homes[0], "theirs", "curation") is not None
    assert set(first.versions("a/b")) == {common, its}
    assert retention.plan(homes[0], keep=0) == []


def row(run: str, arm: str, cpu_s: float) -> EvidenceRow:
    return EvidenceRow(run, "training", arm=arm, usage=Usage(cpu_s=cpu_s))


def test_a_lake_that_was_in_a_home_is_copied_as_it_is(homes: tuple[Path, Path], shared: Store, tmp_path: Path) -> None:
    before = Lake(tmp_path / "lake")
    ref = before.write("a/b", table(10))
    manifest = json.loads(before._manifest_path(ref).read_text())
    del manifest["written_ns"]
    before._manifest_path(ref).write_text(json.dumps(manifest))
    for path in (path for path in before.root.rglob("*") if path.is_file()):
        shared.put(f"lake/{path.relative_to(before.root)}", path)
    first, _ = both(homes)
    assert first.versions("a/b") == [ref]
    assert first.read(ref).num_rows == 10
    assert first.write("a/b", table(10)) == ref


def test_evidence_is_one_table_for_all(homes: tuple[Path, Path], shared: Store) -> None:
    first, second = (open_evidence(home) for home in homes)
    first.append([row("r", "stage", 1.0)])
    second.append([row("r", "stage", 2.0), row("s", "stage", 3.0)])
    assert [item.usage.cpu_s for item in first.read("r")] == [2.0]
    assert [item.usage.cpu_s for item in second.read()] == [2.0, 3.0]
    assert second.compact() == 2
    assert len(shared.sizes("evidence")) == 1
    first.append([row("t", "stage", 4.0)])
    assert [item.run_id for item in first.read()] == ["r", "s", "t"]
    assert len(list(first.root.glob("part-*.parquet"))) == 2  # what was merged elsewhere is not kept here
    assert first.sql("select sum(usage_cpu_s) s from evidence").to_pylist() == [{"s": 9.0}]


def test_the_request_log_of_two_servers_is_one(homes: tuple[Path, Path]) -> None:
    first, second = both(homes)
    hours = [datetime(2026, 3, 1, hour, 30, tzinfo=UTC) for hour in (9, 10)]

    def log(lake: Lake, name: str, when: datetime) -> None:
        rows = [{"request_id": name, "run_id": "served", "time": when, "embedding": [0.0] * DIMENSION}]
        lake.write(f"{REQUESTS}/{when:%Y%m%dt%H}", pa.Table.from_pylist(rows, schema=SCHEMA))

    log(first, "one", hours[0])
    log(second, "two", hours[0])
    log(second, "three", hours[1])
    assert read_requests(first)["request_id"].to_pylist() == ["one", "two", "three"]
    assert read_requests(first, since=hours[1])["request_id"].to_pylist() == ["three"]
    compact_hour(first, f"{REQUESTS}/20260301t09")
    assert len(second.versions(f"{REQUESTS}/20260301t09")) == 1
    assert read_requests(second)["request_id"].to_pylist() == ["one", "two", "three"]
    assert forget_before(second, datetime(2026, 3, 1, 10, tzinfo=UTC)) == 1
    assert read_requests(first)["request_id"].to_pylist() == ["three"]


@pytest.mark.parametrize(
    ("url", "variables", "said"),
    [
        ("s3://no-such-bucket-here/x", {}, "make the bucket, or correct lake_url"),
        ("s3://b/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "whether the store runs and AWS_ENDPOINT_URL"),
        ("s3://b/x", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_store_that_fails_is_told_with_what_to_do(
    url: str, variables: dict[str, str | None], said: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    lake = SharedLake(tmp_path / "lake", Store(url))
    attempts = [lambda: lake.read(Ref("a/b", "0" * 16)), lambda: lake.write("a/b", table(3)), lake.names]
    for attempt in attempts[: 1 if "AWS_ENDPOINT_URL" in variables else 3]:  # its client tries for seconds
        with pytest.raises(LakeError) as error:
            attempt()
        assert said in str(error.value)
        assert url in str(error.value)
        assert "not-to-be-printed" not in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bucket/prefix", "an object store has an address like s3://bucket/prefix"),
        ("s3://", "an object store has an address like"),
        ("file:///mnt/lake", "a folder that machines share is used as home"),
        ("s3://key:secret@bucket/x", "no credentials in the address"),
    ],
)
def test_an_address_that_is_no_store_is_refused(
    url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KETCYCLE_LAKE_URL", url)
    with pytest.raises(BadInput, match=said) as error:
        open_lake(tmp_path)
    assert "secret@" not in str(error.value)


def test_a_store_without_its_client_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="install the fsspec client of nowhere"):
        SharedLake(tmp_path, Store("nowhere://x/y")).names()


def test_a_resumed_run_looks_at_the_store(homes: tuple[Path, Path], shared: Store) -> None:
    from flows.lifecycle.walk import _changed, _newest

    first, second = both(homes)
    with pytest.raises(BadInput, match="is empty; run the preceding stages first"):
        _newest(second, "training")
    assert _newest(second, "curation") == {}  # it reads no product
    old, new = first.write("curation/kept", table(1)), first.write("curation/kept", table(2))
    assert _newest(second, "training") == {"curation/kept": str(new)}
    done: Any = completion.Completion({"seed": 1}, {"refs": {"curation/kept": str(old)}})
    assert _changed(second, done, {"seed": 1}) == ""
    assert json.dumps(list(second.root.rglob("*.parquet"))) == "[]"
    first.remove(old)
    assert "its product is gone" in _changed(second, done, {"seed": 1})

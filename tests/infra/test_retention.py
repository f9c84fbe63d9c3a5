import fcntl
import json
import os

import pyarrow as pa
import pytest

from infra import completion, retention
from infra.errors import BadInput, LakeError
from infra.evidence import Evidence, EvidenceRow
from infra.lake import Lake


def table(value):
    return pa.table({"x": [value] * 1000})


@pytest.fixture
def home(tmp_path):
    """Three runs: each writes a version of its own and one that all of them share."""
    lake = Lake(tmp_path / "lake")
    for k, name in enumerate(("first", "second", "third")):
        shared, own = lake.write("curation/kept", table(0)), lake.write("training/curve", table(k + 1))
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"stages": {"training": {"refs": {"training/curve": str(own)}}}}))
        (folder / "report.md").write_text("report")
        completion.record(tmp_path, name, "curation", {}, {"refs": {"curation/kept": str(shared)}})
        os.utime(folder, (1000 + k, 1000 + k))
    Evidence(tmp_path / "evidence").append([EvidenceRow("first", "training", arm="stage")])
    (tmp_path / "scratch" / "left").mkdir(parents=True)
    return tmp_path


def clean(home, keep):
    items = retention.plan(home, keep)
    return items, retention.carry_out(home, items)


def test_the_oldest_runs_go_with_the_versions_that_no_other_run_names(home):
    lake = Lake(home / "lake")
    curves, shared = lake.versions("training/curve"), lake.versions("curation/kept")
    items, freed = clean(home, keep=1)
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["third"]
    assert lake.versions("training/curve") == [curves[2]]
    assert lake.versions("curation/kept") == shared
    assert lake.read(shared[0]).num_rows == 1000
    with pytest.raises(LakeError):
        lake.read(curves[0])
    assert freed == sum(item.n_bytes for item in items) > 0
    assert sorted({item.what for item in items}) == ["completions", "lake version", "run", "scratch"]


def test_planning_takes_nothing_away(home):
    before = sorted(path for path in home.rglob("*"))
    assert retention.plan(home, keep=1)
    assert sorted(path for path in home.rglob("*")) == before


def test_a_second_cleaning_finds_nothing(home):
    clean(home, keep=2)
    assert clean(home, keep=2) == ([], 0)


def test_evidence_and_what_no_run_names_stay(home):
    log = Lake(home / "lake").write("inference/requests", table(9))
    clean(home, keep=0)
    assert Lake(home / "lake").versions("inference/requests") == [log]
    assert len(Evidence(home / "evidence").read()) == 1
    assert not list((home / "runs").iterdir())


def test_nothing_is_cleaned_while_a_run_goes_on(home):
    with (home / "runs" / "second" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="second is going on"):
            retention.plan(home, keep=1)
    assert retention.plan(home, keep=1)


def test_an_empty_home_has_nothing_to_clean(tmp_path):
    assert clean(tmp_path, keep=0) == ([], 0)


def test_an_index_loses_what_no_kept_run_used(home):
    shards = home / "index" / "curation" / "shards"
    for name, used in (("early", 1000.5), ("late", 1001.5)):  # the second run ended at 1001
        (shards / name).mkdir(parents=True)
        os.utime(shards / name, (used, used))
    assert [item.name for item in retention.plan(home, keep=3) if item.what == "index"] == []
    clean(home, keep=1)
    assert [path.name for path in shards.iterdir()] == ["late"]

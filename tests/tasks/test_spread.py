"""Where a stage's own work is done when the workers of a run see different homes."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from infra.shared import open_evidence
from tasks.spread import Spread
from tasks.stage import Context
from tasks.workbench import Workbench


def test_what_comes_from_another_machine_takes_the_home_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [
        pickle.dumps(item)
        for item in (Context("r", "curation", tmp_path / "there", 0), Workbench("r", tmp_path / "there", "l"))
    ]
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path / "here"))
    homes = [pickle.loads(item).home.name for item in sent]  # noqa: S301
    assert homes == ["there", "there"], "one folder that all machines see"
    monkeypatch.setenv("KETCYCLE_LAKE_URL", "s3://bucket/prefix")
    assert [pickle.loads(item).home.name for item in sent] == ["here", "here"]  # noqa: S301


@pytest.fixture
def client(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.Client]:
    """Three workers, two of them of one home."""
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path / "own"))
    options = {"host": "127.0.0.1", "nthreads": 1, "dashboard": False}
    workers = {
        i: {"cls": distributed.Nanny, "options": {**options, "local_directory": str(tmp_path / home / "dask")}}
        for i, home in enumerate(("b", "c", "c"))
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    with distributed.SpecCluster(workers, scheduler, silence_logs=False) as cluster, distributed.Client(cluster) as own:
        own.wait_for_workers(3, timeout=60)
        yield own


@pytest.mark.engine
def test_parts_stay_where_their_files_are(client: distributed.Client, tmp_path: Path, bucket: str) -> None:
    def part(seen: Path) -> Path:
        """Wait until parts have been on all three workers, or long enough that they would have been."""
        here, end_s = Path(distributed.get_worker().local_directory), time.monotonic() + (30 if seen == wide else 0.2)
        seen.mkdir(exist_ok=True)
        (seen / here.name).touch()
        while len(list(seen.iterdir())) < 3 and time.monotonic() < end_s:
            time.sleep(0.05)
        return here

    def stage(lake_url: str, seen: Path) -> list[str]:
        import os

        os.environ["KETCYCLE_LAKE_URL"] = lake_url
        found: Any = Spread(Context("r", "curation", tmp_path / "own", 0), "parts")(part, [seen] * 6)
        return sorted({path.parents[2].name for path in found})

    wide = tmp_path / "wide"
    addresses = {about["local_directory"]: name for name, about in client.scheduler_info()["workers"].items()}
    on = {Path(folder).parents[2].name: name for folder, name in addresses.items()}
    client.run(lambda: __import__("os").environ.update(KETCYCLE_LAKE_URL=bucket))
    assert client.submit(stage, bucket, tmp_path / "in b", workers=[on["b"]], pure=False).result(timeout=60) == ["b"]
    assert client.submit(stage, bucket, tmp_path / "in c", workers=[on["c"]], pure=False).result(timeout=60) == ["c"]
    client.run(lambda: __import__("os").environ.update(KETCYCLE_LAKE_URL=""))
    assert client.submit(stage, "", wide, workers=[on["b"]], pure=False).result(timeout=60) == ["b", "c"]
    assert {row.problem.split()[0] for row in open_evidence(tmp_path / "own").read("r")} == {"parts"}

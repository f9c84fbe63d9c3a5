"""One curation on machines that share no folder: shards and bands travel through an object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import deadly
import distributed
import pytest

from infra.compute import free_port
from infra.shared import open_lake
from tasks.text.samples import sample_documents

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
HOMES = ("a", "b", "c")


@pytest.fixture
def cluster(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A scheduler and three workers, each with a home of its own; yields the address of each."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "faults")))
    common = {**os.environ, "PYTHONPATH": path, "KETCYCLE_LAKE_URL": bucket, "OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("KETCYCLE_LAKE_URL", bucket)
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with ExitStack() as stack:

        def start(arguments: list[str], **variables: str) -> None:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                env={**common, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)

        start(scheduler)
        for name in HOMES:
            local = tmp_path / name / "dask"
            local.mkdir(parents=True)
            worker = ["worker", address, "--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            worker += ["--host", "127.0.0.1", "--local-directory", str(local)]
            start(worker, KETCYCLE_HOME=str(tmp_path / name), **({} if name == "a" else {"MAY_DIE": "1"}))
        client = stack.enter_context(distributed.Client(address, timeout=60))
        client.wait_for_workers(len(HOMES), timeout=120)
        yield {str(about["name"]): one for one, about in client.scheduler_info(n_workers=-1)["workers"].items()}


def test_one_curation_on_machines_with_other_homes_survives_the_death_of_one(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    texts, notes = [text for _, text in sample_documents("base")], tmp_path / "notes"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for part in range(8):
        first = f"NOTES {notes} PART {part} DIE {texts[part]}"
        lines = [first, *texts[part * 60 : part * 60 + 100]]
        (corpus / f"{part}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        with (corpus / f"{part}.jsonl").open("a") as target:
            target.write(" " * 2**20 + "\n")  # a shard of its own
    client = distributed.get_client()
    client.run(deadly.hide, str(corpus), workers=[cluster["b"], cluster["c"]])
    home = tmp_path / "a"
    future = client.submit(deadly.curated_by_far, home, str(corpus), pure=False, workers=[cluster["a"]])
    found = future.result(timeout=240)
    assert notes.with_suffix(".killed").exists(), "a machine died"
    read = [line.split() for line in notes.read_text().splitlines()]
    assert sum(Counter(part for part, _ in read).values()) == 9, "one shard was made twice, no other"
    lake = open_lake(home)
    assert len(lake.names("curation/files")) == 8
    assert len(lake.names("curation/shards")) == 8
    assert any((tmp_path / name / "index/curation/shards").exists() for name in "bc")
    alone = tmp_path / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KETCYCLE_LAKE_URL")
        assert found == deadly.curated_by_far(alone, str(corpus)), "the same versions of all tables"

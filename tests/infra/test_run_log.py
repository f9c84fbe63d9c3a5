from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import BadInput
from infra.progress import followed, forward_from_worker
from infra.run_log import lines, logged

LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\S+) (INFO|WARNING) ketcycle\.\w+: (.+)$")


@pytest.fixture
def cluster() -> Iterator[None]:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as own,
        distributed.Client(own),
    ):
        yield


def work(run_id: str, said: str) -> None:
    forward_from_worker(run_id)
    logging.getLogger("ketcycle.work").info(said)


@pytest.mark.engine
def test_one_file_has_what_all_processes_of_a_run_log(tmp_path: Path, cluster: None) -> None:
    import distributed

    client = distributed.get_client()
    for attempt in ("first", "again"):  # a resumed run continues its file
        with logged(tmp_path / "runs" / "r1", "r1"):
            logging.getLogger("ketcycle.here").warning("%s here", attempt)
            client.submit(work, "r1", f"{attempt} there", pure=False).result()
            client.submit(work, "r2", "of another run", pure=False).result()
            time.sleep(0.5)
    found = [LINE.match(line) for line in lines(tmp_path, "r1")]
    assert all(found)
    said = [(match[1], match[3]) for match in found if match]
    assert ("r1", "first here") in said
    assert ("r1", "again there") in said
    logging.getLogger("ketcycle.here").warning("after it")
    assert "after it" not in " ".join(lines(tmp_path, "r1"))


def meet(run_id: str, first: bool) -> None:
    import distributed

    forward_from_worker(run_id)
    here, there = (distributed.Event(f"{run}-began") for run in ("r1", "r2"))
    (here if first else there).set()
    distributed.secede()  # as a step that waits for its own tasks: the worker begins the next task
    (there if first else here).wait()
    logging.getLogger("ketcycle.work").info("of %s", run_id)


@pytest.mark.engine
def test_tasks_of_two_runs_on_one_worker_log_to_their_own_runs(cluster: None) -> None:
    import distributed

    taken: dict[str, list[logging.LogRecord]] = {"r1": [], "r2": []}
    client = distributed.get_client()
    with followed(taken["r1"].append, "r1"), followed(taken["r2"].append, "r2"):
        client.gather([client.submit(meet, "r1", True), client.submit(meet, "r2", False)])
        time.sleep(0.5)
    assert {run: [record.getMessage() for record in found] for run, found in taken.items()} == {
        "r1": ["of r1"], "r2": ["of r2"],
    }  # fmt: skip


def test_a_run_without_a_log_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / "log.txt").write_text("a\nb\n")
    assert list(lines(tmp_path, "r1")) == ["a", "b"]
    with pytest.raises(BadInput, match=r"no log of a run r2 .*runs with a log: r1"):
        next(lines(tmp_path, "r2"))

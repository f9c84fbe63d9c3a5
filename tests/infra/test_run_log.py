from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import BadInput
from infra.progress import forward_from_worker
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


def test_a_run_without_a_log_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / "log.txt").write_text("a\nb\n")
    assert list(lines(tmp_path, "r1")) == ["a", "b"]
    with pytest.raises(BadInput, match=r"no log of a run r2 .*runs with a log: r1"):
        next(lines(tmp_path, "r2"))

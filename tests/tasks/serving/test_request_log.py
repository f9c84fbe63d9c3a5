from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from infra.lake import Lake
from tasks.serving.request_log import SCHEMA, Request, RequestLog, Source, read_requests
from tasks.text.embeddings import embed


def request(i: int, prompt: str = "some text", label: str | None = None) -> Request:
    return Request(f"r-{i:04d}", prompt, label, 3, 5, 0.5, 0.25, 1_700_000_000.0 + i)


def source(run: str = "run-a", keep_text: bool = False) -> Source:
    return Source(run, "v1", lambda prompt: float("nan") if not prompt else -float(len(prompt)), keep_text)


def wait_for(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_rows_hold_what_was_asked_and_no_text(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, source(), flush_s=30)
    log.put(request(1, "second", "A"))
    log.put(request(0, "first"))
    log.close()
    table = read_requests(lake, "run-a")
    assert table.schema == SCHEMA
    assert table["request_id"].to_pylist() == ["r-0000", "r-0001"]
    assert table["label"].to_pylist() == [None, "A"]
    assert table["mean_logprob"].to_pylist() == [-5.0, -6.0]
    assert table["prompt"].null_count == 2
    assert table["prompt_sha256"][0].as_py() == hashlib.sha256(b"first").hexdigest()
    stored = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_array_equal(stored, embed(["first", "second"]))
    assert table["time"][0].as_py().timestamp() == 1_700_000_000.0
    assert (log.written, log.lost, log.pending) == (2, 0, 0)


def test_text_is_kept_only_if_asked_for(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), source(keep_text=True), flush_s=30)
    log.put(request(0, "kept"))
    log.close()
    assert read_requests(Lake(tmp_path), "run-a")["prompt"].to_pylist() == ["kept"]


def test_rows_come_soon_and_each_flush_is_a_version(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, source(), flush_s=0.1)
    for i in range(3):
        log.put(request(i))
        wait_for(lambda i=i: log.written == i + 1)
    assert len(lake.versions("inference/requests")) == 3
    log.close()
    assert len(read_requests(lake, "run-a")) == 3


def test_a_full_batch_does_not_wait_for_the_clock(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), source(), flush_s=600, flush_rows=4)
    for i in range(4):
        log.put(request(i))
    wait_for(lambda: log.written == 4)
    log.close()


def test_runs_do_not_mix(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for run in ("run-a", "run-b"):
        log = RequestLog(lake, source(run), flush_s=30)
        log.put(request(0))
        log.close()
    assert len(read_requests(lake, "run-a")) == 1
    assert len(read_requests(lake, "run-c")) == 0


class _FullDisk(Lake):
    """A lake whose disk is full until it is told otherwise."""

    full = True

    def write(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(*args, **kwargs)


def test_a_full_disk_delays_nobody_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    lake = _FullDisk(tmp_path)
    log = RequestLog(lake, source(), flush_s=0.05, capacity=4)
    began = time.monotonic()
    taken = 0
    for i in range(40):
        taken += log.put(request(i))
        time.sleep(0.005)
    assert time.monotonic() - began < 5
    assert taken <= 12
    assert log.lost == 40 - taken
    lake.full = False
    log.close()
    assert log.written == taken
    assert len(read_requests(lake, "run-a")) == taken


def test_what_cannot_be_written_at_the_end_is_counted(tmp_path: Path) -> None:
    log = RequestLog(_FullDisk(tmp_path), source(), flush_s=30)
    log.put(request(0))
    log.close()
    assert (log.written, log.lost) == (0, 1)


def test_a_prompt_that_cannot_be_scored_does_not_end_the_log(tmp_path: Path) -> None:
    def score(prompt: str) -> float:
        if prompt == "bad":
            raise RuntimeError("no")
        return -1.0

    log = RequestLog(Lake(tmp_path), Source("run-a", "v1", score), flush_s=30)
    log.put(request(0, "bad"))
    log.put(request(1, "good"))
    log.close()
    assert read_requests(Lake(tmp_path), "run-a")["request_id"].to_pylist() == ["r-0001"]
    assert log.lost == 1


def test_an_unknown_score_is_null(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), source(), flush_s=30)
    log.put(request(0, ""))
    log.close()
    assert read_requests(Lake(tmp_path), "run-a")["mean_logprob"].to_pylist() == [None]


@pytest.mark.parametrize("rows", [1000])
def test_taking_a_request_is_quick(tmp_path: Path, rows: int) -> None:
    log = RequestLog(Lake(tmp_path), source(), flush_s=600, flush_rows=10**6)
    began = time.thread_time()
    for i in range(rows):
        log.put(request(i))
    assert (time.thread_time() - began) / rows < 1e-3
    log.close()

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from infra.errors import LakeError
from infra.lake import Lake
from tasks.serving.request_log import (
    SCHEMA,
    Feedback,
    Request,
    RequestLog,
    Rules,
    compact_hour,
    forget_before,
    read_requests,
)
from tasks.text.embeddings import embed

NOON = 1_700_136_000.0  # a full hour


def request(i: int, prompt: str = "some text", label: str | None = None, received: float = NOON) -> Request:
    return Request(
        request_id=f"r-{i:04d}",
        model_version="v1",
        prompt=prompt,
        completion=f"answer to {prompt}",
        label=label,
        prompt_tokens=3,
        completion_tokens=5,
        finish="length",
        first_s=0.1,
        latency_s=0.5,
        usage=Usage(cpu_s=0.25, rss_gb_s=0.05),
        received=received + i,
        mean_logprob=lambda: None if not prompt else -float(len(prompt)),
        completion_logprob=-1.5,
    )


def rules(run: str = "run-a", **changes: Any) -> Rules:
    return Rules(run, **{"flush_s": 30.0, **changes})


def wait_for(condition, seconds: float = 10.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_rows_hold_what_was_asked_and_no_text(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, rules(flush_s=30))
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
    assert table["time"][0].as_py().timestamp() == NOON
    assert (log.written, log.lost, log.pending) == (2, 0, 0)


def test_text_is_kept_only_if_asked_for(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules(text="plain"))
    log.put(request(0, "kept"))
    log.close()
    table = read_requests(Lake(tmp_path), "run-a")
    assert table["prompt"].to_pylist() == ["kept"]
    assert table["completion"].to_pylist() == ["answer to kept"]


def test_redacted_text_names_nobody(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules(text="redacted"))
    log.put(request(0, "write to ada@example.org"))
    log.put(Feedback("r-0000", 1.0, "my card is 4111 1111 1111 1111", NOON))
    log.close()
    (row,) = read_requests(Lake(tmp_path), "run-a").to_pylist()
    assert row["prompt"] == "write to <email>"
    assert row["completion"] == "answer to write to <email>"
    assert row["comment"] == "my card is <card>"


def test_rows_come_soon_and_each_flush_is_a_version(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, rules(flush_s=0.1))
    for i in range(3):
        log.put(request(i))
        wait_for(lambda i=i: log.written == i + 1)
    assert len(lake.versions("inference/requests/20231116t12")) == 3
    log.close()
    assert len(read_requests(lake, "run-a")) == 3


def test_a_full_batch_does_not_wait_for_the_clock(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules(flush_s=600, flush_rows=4))
    for i in range(4):
        log.put(request(i))
    wait_for(lambda: log.written == 4)
    assert read_requests(Lake(tmp_path))["request_id"].to_pylist() == [f"r-000{i}" for i in range(4)]
    log.close()


def test_runs_do_not_mix(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for run in ("run-a", "run-b"):
        log = RequestLog(lake, rules(run))
        log.put(request(0))
        log.close()
    assert len(read_requests(lake, "run-a")) == 1
    assert len(read_requests(lake, "run-c")) == 0


class _FullDisk(Lake):
    """A lake whose disk is full until it is told otherwise."""

    full = True

    def write(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.full:
            raise LakeError("no space left on the disk")
        return super().write(*args, **kwargs)


def test_a_full_disk_delays_nobody_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    lake = _FullDisk(tmp_path)
    log = RequestLog(lake, rules(flush_s=0.05, capacity=4))
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
    log = RequestLog(_FullDisk(tmp_path), rules(flush_s=30))
    log.put(request(0))
    log.close()
    assert (log.written, log.lost) == (0, 1)


def test_a_prompt_that_cannot_be_scored_does_not_end_the_log(tmp_path: Path) -> None:
    def score() -> float:
        raise RuntimeError("no")

    log = RequestLog(Lake(tmp_path), rules())
    log.put(replace(request(0, "bad"), mean_logprob=score))
    log.put(request(1, "good"))
    log.close()
    assert read_requests(Lake(tmp_path), "run-a")["request_id"].to_pylist() == ["r-0001"]
    assert log.lost == 1


def test_an_unknown_score_is_null(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules(flush_s=30))
    log.put(request(0, ""))
    log.close()
    assert read_requests(Lake(tmp_path), "run-a")["mean_logprob"].to_pylist() == [None]


def test_taking_a_request_is_quick(tmp_path: Path) -> None:
    rows = 1000
    log = RequestLog(Lake(tmp_path), rules(flush_s=600, flush_rows=10**6))
    began = time.thread_time()
    for i in range(rows):
        log.put(request(i))
    assert (time.thread_time() - began) / rows < 1e-3
    log.close()
    assert log.written + log.lost == rows
    assert len(read_requests(Lake(tmp_path))) == log.written


def test_a_row_holds_the_energy_of_its_cpu_seconds(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules())
    log.put(request(0))
    log.close()
    (row,) = read_requests(Lake(tmp_path)).to_pylist()
    expected = Coefficients.load().cpu_energy_j(Usage(cpu_s=0.25, rss_gb_s=row["rss_gb_s"]))
    assert (row["energy_j_p5"], row["energy_j"], row["energy_j_p95"]) == (expected.p5, expected.p50, expected.p95)
    assert 0 < row["energy_j_p5"] < row["energy_j"] < row["energy_j_p95"]
    assert row["energy_source"] == "modelled"


def test_every_hour_is_a_partition_and_becomes_one_version_when_it_is_over(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for i in range(3):
        log = RequestLog(lake, rules())
        log.put(request(0, received=NOON - 1 + i))  # the first of the hour before; the same id twice in the next one
        log.put(request(1, received=NOON + i))
        log.close()
    hours = [f"inference/requests/20231116t{hour}" for hour in (11, 12)]
    assert [len(lake.versions(hour)) for hour in hours] == [1, 3]
    before = read_requests(lake)
    # The next server finds the hours over.
    RequestLog(lake, rules(flush_s=0.05)).close()
    log = RequestLog(lake, rules(flush_s=0.05))
    wait_for(lambda: len(lake.versions(hours[1])) == 1)
    log.close()
    assert read_requests(lake).equals(before)
    assert before["request_id"].to_pylist() == ["r-0000", "r-0001"], "the latest row of each"


def test_a_killed_or_second_compaction_loses_and_doubles_nothing(tmp_path: Path) -> None:
    lake, hour = Lake(tmp_path), "inference/requests/20231116t12"
    for i in range(3):
        log = RequestLog(lake, rules())
        log.put(request(i))
        log.close()
    before, parts = read_requests(lake), lake.versions(hour)
    compact_hour(lake, hour)
    (whole,) = lake.versions(hour)
    # A second server had listed the parts before they went, and was killed before it took them away.
    again = lake.write(hour, lake.read(whole), {"compacted": 4})
    assert len(lake.versions(hour)) == 2
    assert read_requests(lake).equals(before)
    compact_hour(lake, hour)
    assert len(lake.versions(hour)) == 1
    assert lake.versions(hour)[0] not in (*parts, whole, again)
    assert read_requests(lake).equals(before)


def test_old_hours_are_deleted(tmp_path: Path) -> None:
    lake, now = Lake(tmp_path), time.time()
    log = RequestLog(lake, rules())
    for i, days in enumerate((0, 1, 3)):
        log.put(request(i, received=now - 86_400 * days))
    log.put(Feedback("r-0002", -1.0, None, now - 86_400 * 3))
    log.close()
    assert forget_before(lake, datetime.fromtimestamp(now, UTC) - timedelta(days=4)) == 0
    log = RequestLog(lake, rules(keep_days=2.0, flush_s=0.05))
    wait_for(lambda: len(read_requests(lake)) == 2)
    log.close()
    assert read_requests(lake)["request_id"].to_pylist() == ["r-0001", "r-0000"]
    left = sorted(path.name for path in tmp_path.rglob("*.parquet"))
    assert len(left) == 2


def test_a_window_of_time_is_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, rules())
    for i in range(5):
        log.put(request(i, received=NOON + 1800 * i))
    log.close()
    since, until = (datetime.fromtimestamp(NOON + seconds, UTC) for seconds in (1800, 7200))
    assert read_requests(lake, since=since, until=until)["request_id"].to_pylist() == ["r-0001", "r-0002", "r-0003"]


def test_feedback_joins_its_row_the_latest_counts(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    log = RequestLog(lake, rules(text="plain"))
    for i in range(2):
        log.put(request(i))
    log.put(Feedback("r-0001", -1.0, "wrong", NOON + 10))
    log.put(Feedback("r-0001", 0.5, "better than I thought", NOON + 9000))
    log.put(Feedback("r-9999", 1.0, "of no request", NOON + 10))
    log.close()
    table = read_requests(lake)
    assert table.schema == SCHEMA
    assert table["rating"].to_pylist() == [None, 0.5]
    assert table["comment"].to_pylist() == [None, "better than I thought"]


def test_a_log_that_is_off_takes_nothing(tmp_path: Path) -> None:
    log = RequestLog(Lake(tmp_path), rules(enabled=False))
    assert not log.put(request(0))
    log.close()
    assert (log.written, log.lost) == (0, 0)
    assert len(read_requests(Lake(tmp_path))) == 0

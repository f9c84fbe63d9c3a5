from __future__ import annotations

from pathlib import Path

from infra import completion


def test_a_stage_is_done_when_its_record_stands(tmp_path: Path) -> None:
    assert completion.find(tmp_path, "r1", "training") is None
    completion.record(tmp_path, "r1", "training", "abc", {"refs": {"training/model": "x"}})
    assert completion.find(tmp_path, "r1", "training") == ("abc", {"refs": {"training/model": "x"}})
    assert completion.find(tmp_path, "r2", "training") is None


def test_the_digest_follows_what_the_result_depends_on() -> None:
    one = completion.digest(inputs={"a": "1"}, options={"tokens": 10}, seed=0)
    assert one == completion.digest(seed=0, options={"tokens": 10}, inputs={"a": "1"})
    assert one != completion.digest(inputs={"a": "1"}, options={"tokens": 11}, seed=0)
    assert one != completion.digest(inputs={"a": "2"}, options={"tokens": 10}, seed=0)

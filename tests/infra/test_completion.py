from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra import completion
from infra.errors import BadInput

PARTS = {
    "inputs": {"training/model": "training/model@0123456789abcdef"},
    "options": {"tokens": 24000},
    "seed": 0,
    "arms": {"inference/pruning": [("greedy", "1"), ("qaoa", "1")]},
}


def test_a_stage_is_done_when_its_record_stands(tmp_path: Path) -> None:
    assert completion.find(tmp_path, "r1", "training") is None
    completion.record(tmp_path, "r1", "training", PARTS, {"refs": {"training/model": "x"}})
    found = completion.find(tmp_path, "r1", "training")
    assert found is not None
    assert found.result == {"refs": {"training/model": "x"}}
    assert completion.differences(found.parts, PARTS) == "", "what went through JSON is still the same"
    assert completion.find(tmp_path, "r2", "training") is None


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    completion.record(tmp_path, "r1", "training", PARTS, {})
    [path] = (tmp_path / "lake/completions/r1").glob("*.json")
    path.write_text(path.read_text()[:40])
    assert completion.find(tmp_path, "r1", "training") is None


def test_what_changed_is_named() -> None:
    changed = {
        "inputs": {"training/model": "training/model@fedcba9876543210"},
        "options": {"tokens": 48000, "depth": 2},
        "seed": 1,
        "arms": {"inference/pruning": [("greedy", "1"), ("qaoa", "2")]},
    }
    assert completion.differences(PARTS, changed) == (
        "inputs changed (training/model); options changed (tokens 24000 -> 48000, depth none -> 2); "
        "seed changed (0 -> 1); arms changed (inference/pruning)"
    )


def test_the_digest_follows_what_the_result_depends_on() -> None:
    one = completion.digest(inputs={"a": "1"}, options={"tokens": 10}, seed=0)
    assert one == completion.digest(seed=0, options={"tokens": 10}, inputs={"a": "1"})
    assert one != completion.digest(inputs={"a": "1"}, options={"tokens": 11}, seed=0)
    assert one != completion.digest(inputs={"a": "2"}, options={"tokens": 10}, seed=0)


def test_one_process_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infra import completion\n"
        "with completion.claimed(Path(sys.argv[1]), 'r1'): print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(BadInput, match="another process"), completion.claimed(tmp_path, "r1"):
            pass
        with completion.claimed(tmp_path, "r2"):
            pass
        other.kill()
        other.wait()
        with completion.claimed(tmp_path, "r1"):
            pass

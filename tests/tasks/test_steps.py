from __future__ import annotations

from pathlib import Path

import pytest

from infra.evidence import Evidence
from tasks import steps
from tasks.stage import Context


def fail() -> None:
    raise ZeroDivisionError(sum(range(3_000_000)))


def test_work_that_fails_is_recorded_as_what_it_took(tmp_path: Path) -> None:
    context = Context("r1", "preprocessing", tmp_path, 0, {})
    with pytest.raises(ZeroDivisionError), steps._work(context, "prepare"):
        fail()
    [row] = Evidence(tmp_path / "evidence").read(run_id="r1")
    assert (row.stage, row.problem) == ("preprocessing", "prepare")
    assert row.total.cpu_s > 0.01

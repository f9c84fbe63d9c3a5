"""Records of runs that machines share through an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import runs
from infra.errors import BadInput


def test_a_run_is_continued_on_another_machine(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KETCYCLE_LAKE_URL", bucket)
    here, there = tmp_path / "here", tmp_path / "there"
    runs.create(here, "r1", {"config": {"seed": 1}, "status": "starting"})
    runs.write(here, "r1", {"config": {"seed": 1}, "status": "stopped"})
    assert runs.read(there, "r1") == ("r1", {"config": {"seed": 1}, "status": "stopped"})
    with pytest.raises(BadInput, match="there is a run r1 already"):
        runs.create(tmp_path / "third", "r1", {})
    assert runs.find(there, "r2") is None


def test_without_a_store_a_run_is_of_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KETCYCLE_LAKE_URL", raising=False)
    runs.write(tmp_path / "here", "r1", {"config": {}})
    assert runs.find(tmp_path / "there", "r1") is None
    with pytest.raises(BadInput, match="no run r1"):
        runs.read(tmp_path / "there", "r1")

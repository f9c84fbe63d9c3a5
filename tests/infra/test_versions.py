from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from infra import settings, versions
from infra.compute import require_same
from infra.errors import BadInput


class _Cluster:
    """Answers as a Dask client does: what each worker said."""

    def __init__(self, **changed: str) -> None:
        self._changed = changed
        self.scheduler = type("S", (), {"address": "tcp://127.0.0.1:1"})

    def run(self, function: Any) -> dict[str, dict[str, str]]:
        return {"tcp://a:1": function(), "tcp://b:2": function() | self._changed}


def test_versions_name_the_code_too() -> None:
    found = versions.installed()
    assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{8}", found["ketcycle"])
    assert found["distributed"][:4].isdigit()


def test_the_digest_names_the_code_that_was_loaded(tmp_path: Path) -> None:
    for root, text in (("one", "a = 1"), ("two", "a = 1"), ("three", "a = 2")):
        (tmp_path / root / "infra").mkdir(parents=True)
        (tmp_path / root / "infra" / "module.py").write_text(text)
    later = time.time() + 1
    one, two, three = (versions.code(tmp_path / root, later) for root in ("one", "two", "three"))
    assert one == two != three
    edited = [versions.code(tmp_path / "one", loaded_s=later - hours * 3600) for hours in (1, 2)]
    assert all(found.startswith("edited-since-start") for found in edited)
    assert edited[0] != edited[1], "two processes that were started at different times may run different code"


def test_the_same_versions_pass(tmp_path: Path) -> None:
    require_same(_Cluster(), settings.load(home=tmp_path))


def test_a_worker_with_another_version_is_refused_with_both_named(tmp_path: Path) -> None:
    mine = versions.installed()["torch"]
    with pytest.raises(BadInput, match=rf"worker tcp://b:2 .* torch 1\.0 against {re.escape(mine)} here"):
        require_same(_Cluster(torch="1.0"), settings.load(home=tmp_path))


def test_a_worker_that_cannot_say_is_refused(tmp_path: Path) -> None:
    class Foreign(_Cluster):
        def run(self, function: Any) -> dict[str, dict[str, str]]:
            raise ModuleNotFoundError("No module named 'infra'")

    with pytest.raises(BadInput, match=r"cannot say its versions .*No module named 'infra'.*install the same"):
        require_same(Foreign(), settings.load(home=tmp_path))


def test_workers_that_do_not_share_the_stores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path / "there"))
    here = settings.load(home=tmp_path / "here", lake_url="s3://b/x")
    with pytest.raises(BadInput, match=r"differ: lake_url none against s3://b/x,"):
        require_same(_Cluster(), here)
    monkeypatch.setenv("KETCYCLE_LAKE_URL", "s3://b/x")
    with pytest.raises(BadInput, match=r"ledger_url sqlite:.*there/ledger.db against .*here/ledger.db, tracking_uri"):
        require_same(_Cluster(), here)
    stores = {"ledger_url": "postgresql+pg8000://me:hush@db/k", "tracking_uri": "https://mlflow:5000"}
    for name, value in stores.items():
        monkeypatch.setenv(f"KETCYCLE_{name.upper()}", value)
    require_same(_Cluster(), settings.load(home=tmp_path / "here", lake_url="s3://b/x"))
    with pytest.raises(BadInput) as error:
        require_same(_Cluster(), settings.load(home=tmp_path, lake_url="s3://b/x", ledger_url=""))
    assert "hush" not in str(error.value)

from __future__ import annotations

import re
from typing import Any

import pytest

from infra import versions
from infra.compute import require_same_versions
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


def test_the_same_versions_pass() -> None:
    require_same_versions(_Cluster())


def test_a_worker_with_another_version_is_refused_with_both_named() -> None:
    mine = versions.installed()["torch"]
    with pytest.raises(BadInput, match=rf"worker tcp://b:2 .* torch 1\.0 against {re.escape(mine)} here"):
        require_same_versions(_Cluster(torch="1.0"))


def test_a_worker_that_cannot_say_is_refused() -> None:
    class Foreign(_Cluster):
        def run(self, function: Any) -> dict[str, dict[str, str]]:
            raise ModuleNotFoundError("No module named 'infra'")

    with pytest.raises(BadInput, match=r"cannot say its versions .*No module named 'infra'.*install the same"):
        require_same_versions(Foreign())

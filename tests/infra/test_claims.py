from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.claims import Claims


def test_of_many_who_claim_at_once_one_has_it(tmp_path: Path) -> None:
    location = str(tmp_path / "ledger.db")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda who: Claims(location, "s").claim("k", f"w{who}"), range(16)))
    assert [claim is None for claim in found].count(True) == 1
    assert {claim.holder for claim in found if claim} == {Claims(location, "s").holder("k")}


def test_the_same_holder_goes_on_and_a_claim_can_be_released(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path / "ledger.db"), "s")
    assert claims.claim("k", "run-1", "model") is None
    assert claims.claim("k", "run-1", "model") is None
    other = claims.claim("k", "run-2", "model")
    assert other is not None
    assert other.holder == "run-1"
    assert Claims(str(tmp_path / "ledger.db"), "other").claim("k", "run-2") is None
    claims.release("k", "run-2")
    assert claims.holder("k") == "run-1"
    claims.release("k", "run-1")
    assert claims.claim("k", "run-2", "model") is None
    claims.forget(time.time() + 1)
    assert claims.holder("k") is None


def test_a_holder_that_ended_without_finishing_is_succeeded_and_one_that_finished_is_not(tmp_path: Path) -> None:
    at_work = {"run-1"}
    claims = Claims(str(tmp_path / "ledger.db"), "s", at_work.__contains__)
    assert claims.claim("k", "run-1") is None
    assert not claims.open("k")
    assert claims.claim("k", "run-2") is not None
    at_work.clear()  # killed
    assert claims.open("k")
    assert claims.claim("k", "run-2") is None
    claims.finish("k", "run-1")  # too late: the key is another's
    assert claims.holder("k") == "run-2"
    claims.finish("k", "run-2")
    claims.release("k", "run-2")
    assert not claims.open("k")
    other = claims.claim("k", "run-3")
    assert other is not None
    assert other.holder == "run-2"
    assert claims.claim("k", "run-2") is None, "a retry of the run that finished goes on"


def test_only_finished_claims_count_as_the_newest(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path / "ledger.db"), "s")
    claims.claim("a", "run-1", "model")
    claims.claim("b", "run-2", "model")
    assert claims.newest("model", besides="") is None
    claims.finish("b", "run-2")
    claims.finish("a", "run-1")
    newest = claims.newest("model", besides="")
    assert newest is not None
    assert newest.key == "a"
    second = claims.newest("model", besides="a")
    assert second is not None
    assert second.key == "b"


@pytest.mark.parametrize("times", [1, 2])
def test_claims_of_version_0_1_0_are_final(tmp_path: Path, times: int) -> None:
    Claims(str(tmp_path / "ledger.db"), "s")  # the ledger around it
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("drop table claims")
        connection.execute(
            "create table claims (scope varchar(64) not null, key varchar(300) not null, about varchar(300) not null,"
            " holder varchar(64) not null, at float not null, primary key (scope, key))"
        )
        connection.execute("insert into claims values ('s', 'k', 'model', 'run-1', 5.0)")
    for _ in range(times):
        claims = Claims(str(tmp_path / "ledger.db"), "s", at_work=lambda _: False)
    assert claims.claim("k", "run-2") is not None
    newest = claims.newest("model", besides="")
    assert newest is not None
    assert newest.finished == 5.0

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.claims import Claims


def test_of_many_who_claim_at_once_one_has_it(tmp_path: Path) -> None:
    location = str(tmp_path / "ledger.db")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda who: Claims(location, "s").claim("k", f"w{who}"), range(16)))
    assert [claim is None for claim in found].count(True) == 1
    assert {claim.holder for claim in found if claim} == {Claims(location, "s").holder("k")}


def test_the_same_holder_goes_on_and_a_claim_can_be_given_back(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path / "ledger.db"), "s")
    assert claims.claim("k", "run-1", "model") is None
    assert claims.claim("k", "run-1", "model") is None
    assert claims.claim("k", "run-2", "model").holder == "run-1"
    assert Claims(str(tmp_path / "ledger.db"), "other").claim("k", "run-2") is None
    claims.release("k", "run-2")
    assert claims.holder("k") == "run-1"
    claims.release("k", "run-1")
    assert claims.claim("k", "run-2", "model") is None
    assert claims.newest("model", besides="k") is None
    assert claims.newest("model", besides="other").key == "k"
    claims.forget(time.time() + 1)
    assert claims.holder("k") is None

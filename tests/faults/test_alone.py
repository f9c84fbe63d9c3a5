"""A thread that simulates its own call is killed at every edge: each caller gets its counts, no lane stays shut."""

import os
import time
from functools import partial
from pathlib import Path

import edges
import harness
import pytest
import sqlalchemy as sa

from infra.runtime.backends import registry as backends
from infra.runtime.figures.inspect import list_calls, list_open
from infra.runtime.leader import Leader
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.ledger import DONE, FAILED, Ledger
from infra.runtime.ledger.schema import batches, parts
from infra.runtime.queue import Runtime

ALONE = ("prepare", "claim", "submit", "results", "deliver")
CASES = [edge for edge in edges.DISTINCT if edge.partition(": ")[0] in ALONE]
LOST = ("claim: after", "submit: after", "results: after", "results: between two", "deliver: uncommitted")


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    alone = Runtime(tmp_path_factory.mktemp("alone") / "ledger.db", projection=harness.PROJECTION)
    return {name: harness.loop(alone.sampler(harness.scope(name)), name) for name in "ab"}


def caller(folder, edge, nth, name):
    """Be a caller that dies at the edge."""
    edges.arm(edge, Path(folder) / "killed", backends.open_backend("aer"), nth)
    runtime = Runtime(folder / "ledger.db", projection=harness.PROJECTION)
    return harness.Outcome(trace=harness.loop(runtime.sampler(harness.scope(name)), name))


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("edge", CASES)
@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_killed_caller_gets_its_counts_when_it_asks_again(tmp_path, right, names, edge, nth):
    Ledger(tmp_path / "ledger.db")
    missing, rounds = list(names), 0
    while missing:
        rounds += 1
        assert rounds <= 2, "one process is killed once"
        began = time.monotonic()
        children = {name: harness.fork(partial(caller, tmp_path, edge, nth, name)) for name in missing}
        outcomes = harness.gather(children, 60.0)
        assert time.monotonic() - began < 45, "no lease is waited for"
        for name, outcome in outcomes.items():
            assert outcome.error is None, outcome.text
            if not outcome.killed:
                assert outcome.trace == right[name]
                missing.remove(name)
    assert (tmp_path / "killed").exists()
    assert rounds == 2
    rows = list_calls(tmp_path / "ledger.db")
    assert [row["state"] for row in rows] == [DONE] * 2 * len(names)
    assert list_open(tmp_path / "ledger.db") == []
    ledger = Ledger(tmp_path / "ledger.db")
    assert Lane.acquire(ledger, "aer", 60) is not None, "no lease is left but that of a dead process"
    with ledger.database.read() as connection:
        ended = {row.tag: row.state for row in connection.execute(sa.select(batches.c.tag, batches.c.state))}
        of_parts = connection.execute(sa.select(parts.c.call, parts.c.batch, parts.c.result.is_(None))).all()
    assert {ended[tag] for _, tag, _ in of_parts} == {DONE}, "each part has the result of a batch that ended well"
    assert not any(missing for _, _, missing in of_parts)
    if names == "a":
        again = [FAILED] * (edge in LOST)
        assert sorted(ended.values()) == [DONE] * 2 + again, "what was stored is not simulated again"


def test_nothing_else_leads_in_such_a_process(tmp_path, right, monkeypatch):
    monkeypatch.setattr(Leader, "start", lambda _: os._exit(3))
    child, answer = harness.fork(partial(caller, tmp_path, "none", 1, "a"))
    (outcome,) = harness.gather({"a": (child, answer)}, 60.0).values()
    assert outcome.trace == right["a"]

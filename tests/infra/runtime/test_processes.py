"""Several processes on one ledger, some of them killed, and no dispatcher process anywhere."""

import json
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from infra.runtime.figures.inspect import list_calls, show_call
from infra.runtime.ledger.ledger import DONE
from infra.runtime.queue import Runtime

SCRIPT = Path(__file__).with_name("callers.py")
_spec = spec_from_file_location("callers", SCRIPT)
callers = module_from_spec(_spec)
_spec.loader.exec_module(callers)


def start(**spec):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in spec.items()})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def traces(folder, arms):
    return {arm: json.loads((folder / f"arm{arm}.json").read_text()) for arm in range(arms)}


def expected(tmp_path, arms, steps):
    """What one caller alone gets, in another run on another ledger."""
    runtime = Runtime(tmp_path / "alone.db")
    return {arm: callers.loop(runtime.sampler(callers.scope("alone", arm)), arm, steps) for arm in range(arms)}


def test_callers_in_four_processes_finish_without_a_dispatcher(tmp_path):
    ledger = tmp_path / "ledger.db"
    herd = start(ledger=ledger, out=tmp_path / "out", workers=4, arms=8, steps=3, run="r")
    _, errors = herd.communicate(timeout=120)
    assert herd.returncode == 0, errors
    assert traces(tmp_path / "out", 8) == expected(tmp_path, 8, 3)
    rows = list_calls(ledger, limit=100)
    assert len(rows) == 24
    assert {row["state"] for row in rows} == {DONE}


def test_eight_workers_killed_and_resumed_get_their_own_counts_and_nothing_runs_twice_after_done(tmp_path):
    ledger, out = tmp_path / "ledger.db", tmp_path / "out"
    herd = start(ledger=ledger, out=out, workers=8, arms=16, steps=3, run="r", kills=12)
    _, errors = herd.communicate(timeout=120)
    assert herd.returncode == 0, errors
    assert traces(out, 16) == expected(tmp_path, 16, 3)
    rows = list_calls(ledger, limit=100)
    assert len(rows) == 48
    assert {row["state"] for row in rows} == {DONE}
    from datetime import datetime

    done = {row["key"]: datetime.fromisoformat(show_call(ledger, row["key"])["updated"]).timestamp() for row in rows}
    executions = [line.split() for line in (out / "log").read_text().splitlines()]
    assert len(executions) >= 48
    late = [key for key, moment in executions if float(moment) > done[key] + 0.002]
    assert late == [], "executed again after it was done"


@pytest.mark.parametrize("submitted", [False, True])
def test_a_killed_leader_is_followed_at_once(tmp_path, submitted):
    runtime = Runtime(tmp_path / "ledger.db", lease_s=3600)
    job = runtime.sampler(callers.scope("r", 1)).run([(callers.build(1), [[0.3]])], shots=50)
    leader = start(ledger=tmp_path / "ledger.db", mode="hang", submitted=submitted)
    try:
        assert leader.stdout.readline().strip() == "claimed"
        results = []
        waiter = threading.Thread(target=lambda: results.append(job.result()))
        waiter.start()
        waiter.join(0.3)
        assert not results, "the leader lives, so nobody takes over"
        leader.kill()
        leader.wait()
        start_s = time.monotonic()
        waiter.join(20)
        assert time.monotonic() - start_s < 15, "long before the lease expires"
    finally:
        leader.kill()
        leader.communicate()
    alone = Runtime(tmp_path / "alone.db").sampler(callers.scope("other", 1))
    counts = alone.run([(callers.build(1), [[0.3]])], shots=50).result()[0].data.meas
    assert (results[0][0].data.meas.array == counts.array).all()
    shown = show_call(tmp_path / "ledger.db", job.job_id())
    assert shown["attempt"] == 2
    assert shown["state"] == DONE


def test_a_forked_child_leads_on_its_own(tmp_path):
    parent = start(ledger=tmp_path / "ledger.db", mode="fork")
    _, errors = parent.communicate(timeout=120)
    assert parent.returncode == 0, errors
    assert [row["state"] for row in list_calls(tmp_path / "ledger.db")] == [DONE, DONE]


def test_a_child_forked_amid_the_writes_of_another_thread_finds_the_ledger_free(tmp_path):
    herd = start(ledger=tmp_path / "ledger.db", mode="fork amid writes")
    _, errors = herd.communicate(timeout=120)
    assert herd.returncode == 0, errors

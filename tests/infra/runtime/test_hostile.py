"""The queue through nights in which the platform answers anything at all, by seeds.

Each night three runs ask for five circuits with known counts, some are cancelled, a dispatcher drains, then the
platform is well again. Whatever was answered: the dispatcher ends without an error, nobody gets another's counts,
nothing is sent while a job of the same circuits is listed, other people's jobs are left alone, no limit is exceeded,
and in the end the ledger charges what the platform bills.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from qiskit import QuantumCircuit

from infra.errors import BackendFailed, BadInput, RuntimeQueueError
from infra.runtime import billing, dispatcher
from infra.runtime.backends import registry as backends
from infra.runtime.backends.ibm.device import IBMDevice
from infra.runtime.figures.calibration import Correction
from infra.runtime.figures.inspect import list_parked
from infra.runtime.ledger.budget import set_limit, spending
from infra.runtime.ledger.ledger import DONE, FINAL
from infra.runtime.ledger.schema import batches
from infra.runtime.queue import Runtime, Scope

SHOTS = {"r0": 16, "r1": 24, "r2": 32}  # so that each run has a job of its own
CALLS = (("r0", "a", "00"), ("r0", "b", "01"), ("r1", "a", "10"), ("r1", "b", "11"), ("r2", "a", "00"))
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "doubles"))
    import hostile

    made, night = hostile.serve()
    yield f"http://127.0.0.1:{made.server_address[1]}", night
    made.shutdown()
    made.server_close()


@pytest.fixture
def night(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The platform, to which this process is set, with all waiting times shortened alike."""
    from ibm_jobs import Script
    from ibm_platform import environment
    from qiskit_ibm_runtime.api.session import PostForcelistRetry

    from infra.runtime.backends.ibm import platform

    url, made = server
    for name, value in environment(url, Script.api_key).items():
        monkeypatch.setenv(name, value)
    for name in ("IAM_URL", "GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("KETCYCLE_IBM_LISTING_DELAY_S", "0.2")
    monkeypatch.setattr(backends, "_open", {})
    monkeypatch.setattr(IBMDevice, "poll_s", 0.01)
    monkeypatch.setattr(IBMDevice, "linger_s", 0.0)
    monkeypatch.setattr(PostForcelistRetry, "get_backoff_time", lambda _: 0.0)
    monkeypatch.setattr(platform, "ANSWER_S", 0.3)
    monkeypatch.setattr(billing, "BILL_PATIENCE_S", 0.2)
    monkeypatch.setattr("infra.runtime.figures.calibration.correction", lambda *_: Correction(1.7, 1.7, 1.7, 0))
    monkeypatch.setattr(dispatcher, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(dispatcher, "TURNED_AWAY_S", 2.0)
    return made


def ask(runtime: Runtime, run: str, arm: str, bits: str) -> Any:
    circuit = QuantumCircuit(2)
    for qubit, bit in enumerate(reversed(bits)):
        if bit == "1":
            circuit.x(qubit)
    circuit.measure_all()
    return runtime.sampler(Scope(run, "inference", "pruning", "p", arm)).run([circuit], shots=SHOTS[run])


def drain(runtime: Runtime, stop: threading.Event | None = None) -> None:
    """Drain as `ketcycle queue drain` does; it must come to an end, and without an error."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            runtime.drain(stop)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the drain does not end"
    assert not errors, repr(errors[0])


def after(seconds: float, act: Callable[[], object]) -> None:
    """Do something later, unless the tests have ended by then."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def spend_a_night(night: Any, folder: Path, seed: int) -> None:
    import hostile

    rng = random.Random(seed)
    night.begin([])
    runtime = Runtime(folder / "ledger.db", "ibm:lagos", projection="fake_manila")
    limit = rng.choice((None, None, 9.0, 40.0))
    if limit is not None:
        set_limit(runtime.open(), "day", "qpu_s", limit)
    jobs = [ask(runtime, *call) for call in CALLS]
    bad = hostile.moods(rng)
    night.begin(
        bad,
        listing_s=rng.choice((0.0, 0.0, 0.1)),
        queued_polls=rng.choice((0, 2, 5)),
        running_polls=rng.choice((0, 2)),
        bill_late=rng.choice((0, 0, 2)),
        page=rng.choice((1, 20)),
        skew_s=rng.choice((0.0, 0.0, 4000.0, -4000.0)),
        pending_limit=rng.choice((2, 100)),
        seed=1,
    )
    stop = threading.Event()
    after(rng.choice((0.05, 0.3, 1.5, 60.0)), stop.set)
    dropped = jobs[0] if rng.random() < 0.3 else None
    if dropped is not None:
        after(rng.random() / 2, dropped.cancel)
    drain(runtime, stop)
    drain(runtime)
    for mood in night.moods:
        mood.times = 0
    night.script.pending_limit, night.script.queued_polls = 1000, 0
    time.sleep(0.25)
    for _ in range(2):
        drain(runtime)
    for parked in list_parked(runtime.ledger):  # sent several times without a trace: a person looks, and says so
        if not any(parked["tag"] in made.tags for made in night.ours):
            runtime.open().resolve(parked["tag"], None)
    drain(runtime)
    for made in night.ours:
        night.poll(made)
    settle_what_is_not_sound(runtime, night)
    check(night, runtime, jobs, dropped, limit)


def rows(runtime: Runtime) -> list[dict[str, Any]]:
    with runtime.open().database.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(batches).order_by(batches.c.created)).mappings()]


def settle_what_is_not_sound(runtime: Runtime, night: Any) -> None:
    """A person reads the bills of flagged batches from the platform's page."""
    for row in rows(runtime):
        if row["note"] and row["note"] != "settled by hand":
            assert row["flagged"], row
            assert 0 <= row["billed_s"] <= row["max_qpu_s"], row
            runtime.open().settle(row["tag"], night.jobs[row["job_id"]].billed_s)


def check(night: Any, runtime: Runtime, jobs: list[Any], dropped: Any, limit: float | None) -> None:
    standing = rows(runtime)
    known = {row["job_id"]: row for row in standing if row["job_id"] in night.jobs}
    assert night.stranger.state == "Queued", "another person's job was touched"
    assert night.stranger.id not in known, "another person's job was followed"
    assert not [again for again in night.again if again], "sent although a job of the same circuits was listed"
    parked = {row["tag"] for row in standing if row["state"] == "UNKNOWN"}
    for made in night.ours:
        row = known.get(made.id)
        assert row is not None, f"job {made.id} of batch {made.tags} is not in the ledger"
        assert row["billed_s"] == pytest.approx(made.billed_s), (row, made.facts())
    assert not parked, [(row["job_id"], row["error"], row["tries"]) for row in standing if row["tag"] in parked]
    spent = spending(runtime.open())
    assert spent.billed_s == pytest.approx(sum(made.billed_s for made in night.ours))
    assert spent.reserved_s == 0
    if limit is not None and len(night.ours) == len({made.tags[0] for made in night.ours}):
        assert spent.billed_s <= limit
    for (run, arm, bits), job in zip(CALLS, jobs, strict=True):
        state, error = runtime.open().state(job.job_id())
        assert state in FINAL, (run, arm, state)
        if state == DONE:
            assert dict(job.result()[0].data.meas.get_counts()) == {bits: SHOTS[run]}, (run, arm)
        else:
            assert error, (run, arm)
            with pytest.raises((BackendFailed, BadInput, RuntimeQueueError)):
                job.result(timeout=1)


@pytest.mark.parametrize("seed", [*range(8), 344])  # in the last, submissions are refused all night
def test_a_night(night: Any, tmp_path: Path, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spend_a_night(night, tmp_path, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(8, 400))
def test_many_nights(night: Any, tmp_path: Path, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spend_a_night(night, tmp_path, seed)

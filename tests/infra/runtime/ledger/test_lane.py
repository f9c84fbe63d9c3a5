import os
import time
from contextlib import contextmanager

import pytest

from infra.runtime.keeper import KEEPER
from infra.runtime.ledger import lease as leases
from infra.runtime.ledger.batch import Delivery, Item
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import DONE, FAILED, PREPARED, SUBMITTED, SUBMITTING, Call, Ledger, Part
from infra.runtime.limits import Limits


@pytest.fixture
def ledger(location):
    return Ledger(location, durable=False)


def prepare(ledger, key, count=1, backend="aer", shots=100):
    scope = {"run": "r", "stage": "s", "subtask": "t", "problem": "p", "arm": "a", "repetition": 0}
    call = Call(key, scope, 0, "sampler", backend, "", key, key, 5, count * shots, "fake_torino", {})
    ledger.prepare(call, [Part(key, i, 0, 0, "d", b"r", 1, shots) for i in range(count)], {})


def elsewhere(monkeypatch, pid=1):
    """Let the next leaders come from another machine."""
    monkeypatch.setattr(leases, "_identity", lambda _: ("another machine", pid, "1"))


def test_one_leader_at_a_time(ledger):
    first = Lane.acquire(ledger, "aer", 60)
    assert Lane.acquire(ledger, "aer", 60) is None
    assert Lane.acquire(ledger, "noisy:fake_manila", 60) is not None, "each backend has its own lane"
    first.release()
    second = Lane.acquire(ledger, "aer", 60)
    assert second.fence == first.fence + 1


def test_a_leader_on_this_machine_is_not_taken_over_while_it_lives(ledger):
    Lane.acquire(ledger, "aer", -1)  # expired at once, but its process runs
    assert Lane.acquire(ledger, "aer", 60) is None


def test_a_dead_process_is_taken_over_at_once(ledger):
    child = os.fork()
    if child == 0:
        try:
            Lane.acquire(Ledger(ledger.database.url, durable=False), "aer", 3600)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert Lane.acquire(ledger, "aer", 60) is not None


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("what", ["take", "take again", "release", "last write"])
def test_a_thread_that_is_interrupted_leaves_no_lease_behind(ledger, monkeypatch, what, committed):
    """What Ctrl-C does in the thread that waits for its result, which goes on with other calls."""
    write, lane = ledger.database.write, None
    if what != "take":
        Lane.acquire(ledger, "aer", 3600).release()
    if what in ("release", "last write"):
        lane = Lane.acquire(ledger, "aer", 3600)

    @contextmanager
    def interrupted(*, wait=True):
        with write(wait=wait) as connection:
            yield connection
            if not committed:
                raise KeyboardInterrupt
        raise KeyboardInterrupt

    writes = {"last write": lambda: lane.deliver([], release=True), "release": lambda: lane.release()}
    with monkeypatch.context() as patch:
        patch.setattr(ledger.database, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writes.get(what, lambda: Lane.acquire(ledger, "aer", 3600))()
    if what == "last write":
        lane.release()  # as each leader does in any case
    next_one = Lane.acquire(ledger, "aer", 3600)
    assert next_one is not None
    assert Lane.acquire(ledger, "aer", 3600) is None
    next_one.release()


def test_a_lease_may_be_taken_with_the_first_write_and_end_with_the_last(ledger, monkeypatch):
    prepare(ledger, "k0")
    Lane.acquire(ledger, "aer", 60).release()
    lane = Lane.acquire(ledger, "aer", 60, at_once=False)
    leases._RELEASED.clear()
    with monkeypatch.context() as patch:
        elsewhere(patch)
        other = Lane.acquire(ledger, "aer", 60)
    assert other is not None, "nothing is written yet"
    with pytest.raises(LeaseLost):
        lane.claim("aer", Limits())
    lane.release()
    assert ledger.state("k0")[0] == PREPARED
    other.release()
    lane = Lane.acquire(ledger, "aer", 60, at_once=False)
    assert lane.fence == other.fence + 1
    (batch,) = lane.claim("aer", Limits(), sent=True, alone="k0")
    assert Lane.acquire(ledger, "aer", 60) is None
    assert lane.deliver([Delivery(batch.items[0].part, b"r")], last_of=batch.tag, release=True) == {"k0"}
    with pytest.raises(LeaseLost):
        lane.renew()
    assert Lane.acquire(ledger, "aer", 60).fence == lane.fence + 1


def test_a_call_is_claimed_alone_only_if_no_other_one_waits_or_is_out(ledger):
    lane = Lane.acquire(ledger, "aer", 60)
    for key in ("k0", "k1"):
        prepare(ledger, key)
    prepare(ledger, "other", backend="noisy:fake_manila")
    assert lane.claim("aer", Limits(), alone="k0") == []
    assert ledger.request_cancel(key="k1") == 1
    assert lane.claim("aer", Limits(), alone="k1") == []
    (batch,) = lane.claim("aer", Limits(), alone="k0")
    prepare(ledger, "k2")
    assert lane.claim("aer", Limits(), alone="k2") == [], "a batch is out"
    lane.deliver([Delivery(batch.items[0].part, b"r")], last_of=batch.tag)
    assert [item.part.call for item in lane.claim("aer", Limits(), alone="k2")[0].items] == ["k2"]


def test_a_leader_on_another_machine_is_taken_over_when_its_lease_expires(ledger, monkeypatch):
    with monkeypatch.context() as patch:
        elsewhere(patch)
        Lane.acquire(ledger, "aer", 0.2)
    assert Lane.acquire(ledger, "aer", 60) is None
    time.sleep(0.25)
    assert Lane.acquire(ledger, "aer", 60) is not None


def test_leases_are_kept_while_their_leaders_write_nothing(ledger, monkeypatch):
    monkeypatch.setattr(leases, "_identity", lambda pid: ("elsewhere", 1, "1"))
    lanes = [Lane.acquire(ledger, name, 0.3) for name in ("aer", "ibm:x")]
    monkeypatch.undo()
    with KEEPER.kept(lanes[0]):
        with KEEPER.kept(lanes[1]):
            for _ in range(8):
                time.sleep(0.1)
                assert Lane.acquire(ledger, "aer", 60) is None
                assert Lane.acquire(ledger, "ibm:x", 60) is None
        time.sleep(0.4)
        taken = Lane.acquire(ledger, "ibm:x", 60)
        assert taken is not None, "it was kept no longer than its block"
        with KEEPER.kept(lanes[1]):
            time.sleep(0.3)  # it was lost, and the other one is kept on
            assert Lane.acquire(ledger, "aer", 60) is None
    taken.renew()


def test_a_leader_that_was_taken_over_writes_nothing_more(ledger, monkeypatch):
    prepare(ledger, "k0")
    with monkeypatch.context() as patch:
        elsewhere(patch)
        old = Lane.acquire(ledger, "aer", 0.0)
    (batch,) = old.claim("aer", Limits())
    old.ttl_s = 0.0
    old.submitted(batch.tag, "job")
    time.sleep(0.01)
    new = Lane.acquire(ledger, "aer", 60)
    late = [Delivery(batch.items[0].part, b"late", {})]
    for write in (
        lambda: old.deliver(late),
        lambda: old.close(batch.tag, FAILED, "late"),
        lambda: old.claim("aer", Limits()),
        lambda: old.submitted(batch.tag, "again"),
        lambda: old.put_back(batch.tag, "why"),
        old.renew,
    ):
        with pytest.raises(LeaseLost):
            write()
    old.release()
    new.renew()  # the old leader's release took nothing from the new one
    (left,) = new.look()[1]
    assert (left.tag, left.state, left.job_id) == (batch.tag, SUBMITTED, "job")
    new.put_back(left.tag, "its leader died with the job")
    assert ledger.state("k0")[0] == PREPARED
    (again,) = new.claim("aer", Limits())
    new.deliver([Delivery(again.items[0].part, b"right", {})])
    assert ledger.results("k0")[0]["result"] == b"right"


def test_parts_that_were_delivered_are_not_sent_again(ledger):
    prepare(ledger, "k0", count=3)
    lane = Lane.acquire(ledger, "aer", 60)
    (batch,) = lane.claim("aer", Limits())
    lane.deliver([Delivery(batch.items[1].part, b"kept", {})])
    left = lane.load(batch.tag)
    assert [item.part.position for item in left.items] == [0, 2]
    assert left.size == 3
    lane.put_back(batch.tag, "died")
    (again,) = lane.claim("aer", Limits())
    assert [item.part.position for item in again.items] == [0, 2]


def test_a_call_fails_with_the_reason_of_its_batch_although_another_part_waits_again(ledger):
    prepare(ledger, "k", count=2)
    lane = Lane.acquire(ledger, "aer", 60)
    lost, refused = lane.claim("aer", Limits(parts=1))
    lane.put_back(lost.tag, "its leader ended before it was sent")
    assert ledger.state("k") == (PREPARED, None)
    lane.close(refused.tag, FAILED, "401: the token is not valid")
    assert ledger.state("k") == (FAILED, "401: the token is not valid")
    assert lane.claim("aer", Limits()) == [], "nothing more is sent for it"
    ledger.prepare_again("k")
    (batch,) = lane.claim("aer", Limits())
    assert batch.size == 2


def test_waiting_calls_travel_together_up_to_the_limits(ledger):
    for key in "abcd":
        prepare(ledger, key, count=2)
    prepare(ledger, "other", backend="noisy:fake_manila")
    lane = Lane.acquire(ledger, "aer", 60)
    (first,) = lane.claim("aer", Limits(parts=5))
    assert [item.part.call for item in first.items] == ["a", "a", "b", "b"]
    assert ledger.state("c")[0] == PREPARED
    (second,) = lane.claim("aer", Limits(executions=400))
    assert [item.part.call for item in second.items] == ["c", "c", "d", "d"]
    assert lane.claim("aer", Limits()) == []


def test_a_call_too_large_for_one_job_becomes_several(ledger):
    prepare(ledger, "big", count=5)
    lane = Lane.acquire(ledger, "aer", 60)
    batches = lane.claim("aer", Limits(executions=200))
    assert [len(batch.items) for batch in batches] == [2, 2, 1]
    assert ledger.state("big")[0] == SUBMITTING
    for batch in batches:
        lane.deliver([Delivery(item.part, b"x", {}) for item in batch.items])
    assert ledger.state("big")[0] == DONE


def test_a_call_without_pubs_is_done_at_once(ledger):
    prepare(ledger, "empty", count=0)
    assert Lane.acquire(ledger, "aer", 60).claim("aer", Limits()) == []
    assert ledger.state("empty")[0] == DONE


@pytest.mark.parametrize(
    ("limits", "shots", "expected"),
    [
        (Limits(sets=512), 100, 512),
        (Limits(sets=512, samples=1000), 100, 10),
        (Limits(sets=512, executions=5000), 100, 50),
        (Limits(executions=10), 100, 1),
        (Limits(sets=7, samples=1000), 0, 7),
    ],
)
def test_a_pub_is_cut_so_that_its_parts_fit(limits, shots, expected):
    assert limits.sets_per_part(shots) == expected


def test_splitting_keeps_order_and_limits():
    items = [
        Item(Part("k", i, 0, 0, "d", b"", 1, shots), 0, 0, "sampler", "", 0, {}) for i, shots in enumerate([5, 9, 3, 3])
    ]
    groups = Limits(executions=8, parts=2).split(items)
    assert [[item.part.position for item in group] for group in groups] == [[0], [1], [2, 3]]

"""Random walks over the ledger with leaders that die: no part is ever out twice, no result lost or replaced."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from infra.runtime import lease as leases
from infra.runtime.lane import Delivery, Lane, LeaseLost, Limits
from infra.runtime.ledger import CANCELLED, DONE, FAILED, PREPARED, Call, Ledger, Part


class LedgerWalk(RuleBasedStateMachine):
    """Callers, one leader at a time, and leaders that were taken over but do not know it yet."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self._folder.name) / "ledger.db", durable=False)
        self.sizes, self.results, self.failed, self.cancelled = {}, {}, set(), set()
        self.out, self.batches = set(), []  # parts on their way, and the batches they travel in
        self.leader, self.stale = None, []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(leases, "_abandoned", lambda row, overdue_s: True)

    def teardown(self):
        self.take_over()
        while batches := self.leader.claim("aer", Limits(parts=3)):
            for batch in batches:
                for item in batch.items:
                    assert (item.part.call, item.part.position) not in self.results
                self.leader.deliver([Delivery(item.part, b"end", {}) for item in batch.items], last_of=batch.tag)
        for key in set(self.sizes) - self.failed - self.cancelled:
            assert self.ledger.state(key)[0] == DONE, "nothing is left behind"
        self.patch.undo()
        self._folder.cleanup()

    @initialize()
    def first_leader(self):
        self.take_over()

    @precondition(lambda self: len(self.sizes) < 4)
    @rule(size=st.integers(0, 4))
    def call(self, size):
        key = f"call{len(self.sizes)}"
        scope = {"run": "r", "stage": "s", "subtask": "t", "problem": "p", "arm": "a", "repetition": 0}
        call = Call(key, scope, 0, "sampler", "aer", "", key, key, 0, size, "fake_torino", {})
        parts = [Part(key, i, 0, 0, "digest", b"request", 1, 1) for i in range(size)]
        assert self.ledger.prepare(call, parts, {})
        assert not self.ledger.prepare(call, parts, {})
        self.sizes[key] = size

    @rule()
    def take_over(self):
        """The leader dies, or is only thought dead; the next one puts back what it left."""
        if self.leader is not None:
            self.stale.append(self.leader)
        self.leader = Lane.acquire(self.ledger, "aer", 60)
        assert self.leader is not None
        for left in self.leader.look()[1]:
            batch = self.leader.load(left.tag)
            named = {(item.part.call, item.part.position) for item in batch.items}
            assert named == self._open(batch.tag)
            self.leader.put_back(batch.tag, "died")
        self.out.clear()
        self.batches.clear()

    def _open(self, tag):
        return {(call, position) for t, call, position in self.out if t == tag and (call, position) not in self.results}

    @rule(parts=st.integers(1, 4))
    def claim(self, parts):
        for batch in self.leader.claim("aer", Limits(parts=parts)):
            assert 1 <= len(batch.items) <= parts
            for item in batch.items:
                name = (item.part.call, item.part.position)
                assert name not in {(call, position) for _, call, position in self.out}, "already on its way"
                assert name not in self.results, "it has a result"
                self.out.add((batch.tag, *name))
            self.leader.submitted(batch.tag, "job")
            self.batches.append(batch)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 9), some=st.integers(1, 15), value=st.binary(min_size=1, max_size=2))
    def deliver(self, which, some, value):
        batch = self.batches[which % len(self.batches)]
        chosen = [item for index, item in enumerate(batch.items) if some >> index & 1] or list(batch.items)
        self.leader.deliver([Delivery(item.part, value, {"cpu_s": 1.0}) for item in chosen])
        for item in chosen:
            self.results.setdefault((item.part.call, item.part.position), value)

    @precondition(lambda self: self.batches and not self.failed)
    @rule(data=st.data())
    def fail(self, data):
        item = data.draw(st.sampled_from(data.draw(st.sampled_from(self.batches)).items))
        key = item.part.call
        self.leader.deliver([Delivery(item.part, error="broken")])
        if not self._complete(key):
            self.failed.add(key)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def close(self, data):
        batch = data.draw(st.sampled_from(self.batches))
        deliveries = [Delivery(item.part, b"last", {}) for item in batch.items]
        self.leader.deliver(deliveries, last_of=batch.tag)
        for item in batch.items:
            self.results.setdefault((item.part.call, item.part.position), b"last")
        self.batches.remove(batch)
        self.out = {entry for entry in self.out if entry[0] != batch.tag}

    @precondition(lambda self: len(self.sizes) > 2 and not self.cancelled)
    @rule(data=st.data())
    def cancel(self, data):
        key = data.draw(st.sampled_from(sorted(self.sizes)))
        if self.ledger.state(key)[0] == PREPARED:
            assert self.ledger.request_cancel(key=key) == 1
            self.cancelled.add(key)

    @precondition(lambda self: self.stale and self.batches)
    @rule(data=st.data())
    def write_late(self, data):
        old, batch = data.draw(st.sampled_from(self.stale)), self.batches[0]
        late = [Delivery(item.part, b"late", {}) for item in batch.items]
        for write in (lambda: old.deliver(late), lambda: old.close(batch.tag, FAILED, "late"), old.renew):
            with pytest.raises(LeaseLost):
                write()
        old.release()

    def _complete(self, key):
        return all((key, position) in self.results for position in range(self.sizes[key]))

    @invariant()
    def results_stand_and_states_follow(self):
        for key, size in self.sizes.items():
            stored = {row["position"]: row["result"] for row in self.ledger.results(key)}
            assert len(stored) == size
            for position, value in stored.items():
                assert value == self.results.get((key, position))
            state = self.ledger.state(key)[0]
            assert (state == CANCELLED) == (key in self.cancelled)
            assert (state == FAILED) == (key in self.failed)
            if state == DONE:
                assert self._complete(key)


LedgerWalk.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    phases=(Phase.generate,),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLedgerWalk = LedgerWalk.TestCase

"""A leader in a thread of the process whose call waits for a result."""

from __future__ import annotations

import os
import threading

from infra.runtime.backends.registry import open_backend
from infra.runtime.dispatcher import Manner, answer_alone, lead
from infra.runtime.ledger.batch import Delivery
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost
from infra.runtime.ledger.ledger import DONE, FINAL, Ledger

LETTING_GO_S = 10.0  # that a caller waits for its leader to end, which a slow machine or service may draw out


class Leader(threading.Thread):
    """Leads for everybody until the call that started it is answered or wanted no more.

    Attributes:
        answer: final state and error of that call, once it is answered.
        deliveries: what came of its parts, if it is DONE and the caller's own thread has simulated them.
    """

    _lock = threading.Lock()
    _leading: set[tuple[str, str]] = set()  # noqa: RUF012  (one for the process)

    def __init__(self, lane: Lane, key: str, manner: Manner) -> None:
        super().__init__(name=f"ketcycle-dispatch-{lane.name}", daemon=True)
        self._lane, self._key, self._manner = lane, key, manner
        self._stop_leading, self._over = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self.answer: tuple[str, str | None] | None = None
        self.deliveries: list[Delivery] = []

    @classmethod
    def start_if_free(
        cls, ledger: Ledger, backend: str, key: str, manner: Manner, *, here: bool = False
    ) -> Leader | None:
        """Start leading unless another thread of this process, or another process, leads.

        Args:
            ledger: the calls.
            backend: of the lane.
            key: call that is waited for.
            manner: how to lead.
            here: whether to simulate the call in this thread if no other one waits or is out; it is over on return.
        """
        spot = (ledger.database.url, backend)
        with cls._lock:
            if spot in cls._leading:
                return None
            lane = Lane.acquire(ledger, backend, manner.lease_s, at_once=not here)
            if lane is None:
                return None
            cls._leading.add(spot)
        leader = cls(lane, key, manner)
        try:
            if not (here and leader._answer_alone()):
                leader.start()
        except BaseException as error:
            lane.release()
            leader._leave()
            if isinstance(error, LeaseLost):
                return None
            raise
        return leader

    def _answer_alone(self) -> bool:
        """Simulate the call in this thread if it is the only one, and say whether that was done."""
        found = answer_alone(self._lane, open_backend(self._lane.name), self._key, self._manner)
        if found is None:
            return False
        if found:
            self.deliveries, self.answer = found, (DONE, None)
        self._leave()
        return True

    def run(self) -> None:
        """Lead, and keep what went wrong for the caller."""
        try:
            lead(self._lane, open_backend(self._lane.name), self._unanswered, self._manner, self._stop_leading)
        except Exception as error:  # noqa: BLE001  (the caller that waits raises it)
            self._error = error
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._leading.discard((self._lane.ledger.database.url, self._lane.name))
        self._over.set()

    def wait(self, seconds: float) -> None:
        """Wait until the call that started it is answered, it ends, or the time is over."""
        self._over.wait(seconds)

    def let_go(self, *, answered: bool) -> None:
        """Be left by the caller: jobs that are out run on for the next leader.

        Args:
            answered: whether the caller's own call is; then bills of its job may be charged before. Else leading ends
                after the current write.
        """
        if not answered:
            self._stop_leading.set()
        if answered and open_backend(self._lane.name).local:
            return  # others' simulations are not waited for
        if self.is_alive():
            self.join(LETTING_GO_S)

    @classmethod
    def forget(cls) -> None:
        """Forget the leader: no thread of this process leads."""
        cls._lock, cls._leading = threading.Lock(), set()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def _unanswered(self) -> bool:
        state, error = self._lane.ledger.state(self._key)
        if state in FINAL:
            self.answer = state, error
            self._over.set()
        return not self._over.is_set()


# The threads of a parent do not exist in its child.
os.register_at_fork(after_in_child=Leader.forget)

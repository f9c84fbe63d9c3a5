"""A call in the ledger as a Qiskit job: it waits for its result, and dispatches meanwhile if no other process does."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NoReturn

from qiskit.primitives import BasePrimitiveJob, PrimitiveResult

from infra.energy.usage import Usage
from infra.errors import BackendFailed, BadInput, BudgetExceeded, RuntimeQueueError, StillQueued
from infra.runtime.circuits.payload import decode_arrays
from infra.runtime.circuits.pubs import Outline
from infra.runtime.dispatcher import Manner
from infra.runtime.leader import Leader
from infra.runtime.ledger.batch import Delivery
from infra.runtime.ledger.ledger import CANCELLED, DONE, FAILED, FINAL, PREPARED, SUBMITTED, UNKNOWN, Call, Ledger
from infra.runtime.overhead import OVERHEAD

PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05
FRESH_S = 0.005  # after its recording, in which another leader has hardly answered a call: it is not looked up first


class QueuedJob(BasePrimitiveJob):  # type: ignore[misc]  # the library is not typed
    """A call in the ledger.

    Args:
        ledger: where it is recorded.
        call: the call.
        outlines: how its results are put together.
        manner: how to lead while it waits.
        deadline: seconds since the epoch after which its result is not waited for, or None.
        reused: whether it was finished before this process asked.
        parts: number of its parts, if this process has just recorded it and the thread that waits may simulate it.

    Attributes:
        reused: whether the call was finished before this process asked.
        usage: what the call used, once its result is there.
        prepare_cpu_s: CPU seconds of compiling, by circuit.
    """

    def __init__(
        self,
        ledger: Ledger,
        call: Call,
        outlines: Sequence[Outline],
        manner: Manner,
        deadline: float | None,
        *,
        reused: bool,
        parts: int | None = None,
    ) -> None:
        super().__init__(call.key)
        self.reused, self.usage = reused, Usage()
        self.prepare_cpu_s: dict[str, float] = {}
        self.open = True
        self._ledger, self._call, self._outlines = ledger, call, outlines
        self._manner, self._deadline, self._parts = manner, deadline, parts
        self._recorded = time.monotonic()
        self._result: PrimitiveResult | None = None

    def send(self) -> None:
        """Let a thread of this process send the call and follow its job, unless another one does already.

        The thread ends with the process; what is out then is followed by the next process that waits, by
        `ketcycle queue drain`, or by the deployment `queue`.
        """
        Leader.start_if_free(self._ledger, self._call.backend, self._call.key, self._manner)

    def __await__(self) -> Generator[Any, None, PrimitiveResult]:
        """Wait for the result in a thread, so that the event loop goes on."""
        return asyncio.to_thread(self.result).__await__()

    def result(self, timeout: float | None = None) -> PrimitiveResult:
        """Wait for the result; dispatch meanwhile if no other process does.

        Args:
            timeout: seconds to wait at most; None = to the deadline of the sampler or estimator, if it has one.

        Raises:
            StillQueued: the deadline or the timeout has passed; the call stays in the ledger.
            BackendFailed: the backend answered with an error.
            BadInput: the backend cannot run the circuit.
        """
        if self._result is None:
            with OVERHEAD.counted(elapsed=False):
                self._collect(self._wait(self._deadline if timeout is None else time.time() + timeout))
        return self._result

    def status(self) -> str:
        """Return the state in the ledger."""
        return self._ledger.state(self._call.key)[0]

    def done(self) -> bool:
        """Whether the result is there."""
        return self.status() == DONE

    def running(self) -> bool:
        """Whether the call is with the backend."""
        return self.status() == SUBMITTED

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self.status() == CANCELLED

    def in_final_state(self) -> bool:
        """Whether nothing more will happen to the call."""
        return self.status() in FINAL

    def cancel(self) -> bool:
        """Ask for the call to be cancelled and say whether it was still open.

        What waits is cancelled at once; a job that is out is cancelled by who leads, with its last caller.
        """
        return self._ledger.request_cancel(key=self._call.key) > 0

    def _wait(self, deadline: float | None) -> list[Delivery]:
        """Wait until the call is over, and return what came of its parts where this thread has simulated them."""
        pause, leader = PAUSE_S, None
        here = deadline is None and self._parts is not None  # a simulation cannot be left in the middle
        known = (PREPARED, None) if here and time.monotonic() - self._recorded < FRESH_S else None
        try:
            while True:
                state, error = known or (leader and leader.answer) or self._ledger.state(self._call.key)
                known = None
                if state in FINAL:
                    self.open = False
                    if state != DONE:
                        self._raise(state, error)
                    return leader.deliveries if leader is not None else []
                if leader is not None and not leader.is_alive():
                    leader.check()
                    leader = None
                left = None if deadline is None else deadline - time.time()
                if left is not None and left <= 0:
                    raise StillQueued(f"call {self._call.key} is {state} at its deadline; it stays in the ledger")
                asked = self._ledger, self._call.backend, self._call.key, self._manner
                leader = leader or Leader.start_if_free(*asked, here=here)
                if leader is not None:
                    leader.wait(LONGEST_PAUSE_S if left is None else min(LONGEST_PAUSE_S, left))
                    continue
                time.sleep(pause if left is None else min(pause, left))
                pause = min(1.5 * pause, LONGEST_PAUSE_S)
        finally:
            if leader is not None:
                leader.let_go(answered=not self.open)

    def _collect(self, deliveries: list[Delivery]) -> None:
        """Put the result together, from the ledger unless all of it has just been stored by this thread."""
        stored: list[tuple[int, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]
        if len(deliveries) == self._parts:
            stored = [(item.part.position, item.arrays, item.usage, item.facts) for item in deliveries]
        else:
            rows = self._ledger.results(self._call.key)
            stored = [(row["position"], decode_arrays(row["result"]), row["usage"], row["facts"]) for row in rows]
        pieces: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for position, arrays, _, facts in stored:
            pieces[position].append(arrays)
            self.prepare_cpu_s |= facts.get("prepare_cpu_s", {})
        self.usage = sum((Usage(**usage) for _, _, usage, _ in stored), Usage())
        metadata = {"call": self._call.key, "backend": self._call.backend, "reused": self.reused}
        pubs = [outline.assemble(pieces[position], metadata) for position, outline in enumerate(self._outlines)]
        self._result = PrimitiveResult(pubs, metadata={"version": 2, "options": dict(self._call.options)})

    def _raise(self, state: str, error: str | None) -> NoReturn:
        """Raise what became of a call that has no result."""
        call = self._call
        where = f"call {call.ordinal} of {call.scope['subtask']}/{call.scope['arm']} on {call.backend}"
        for kind in (BadInput, BudgetExceeded):
            if state == FAILED and error is not None and error.startswith(f"{kind.__name__}: "):
                raise kind(f"{where}: {error.removeprefix(f'{kind.__name__}: ')}")
        if state == FAILED:
            found = self._ledger.find(call.key)
            again = "; it is not sent again by itself: ketcycle queue retry " + call.key[:12]
            raise BackendFailed(f"{where} failed: {error}{again if found and found['permanent'] else ''}")
        if state == UNKNOWN:
            raise BackendFailed(
                f"{where} has an unknown outcome ({error}); look for its job and say what you found: "
                "ketcycle queue resolve"
            )
        raise RuntimeQueueError(f"{where} was cancelled: {error}")

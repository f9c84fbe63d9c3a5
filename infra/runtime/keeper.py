"""Renews the leases of lanes whose leaders write nothing for long: one thread for all of them.

A leader is short-lived, often a few milliseconds; the thread outlives it, so that starting one is not part of a call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import RuntimeQueueError
from infra.runtime.ledger.lane import Lane
from infra.runtime.ledger.lease import LeaseLost

log = logging.getLogger("ketcycle.queue")

IDLE_S = 60.0  # without a lane to keep, after which the thread ends


class Keeper:
    """Keeps leases alive from a thread that runs while there is one to keep, and a little longer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[Lane, float] = {}
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def kept(self, lane: Lane) -> Iterator[None]:
        """Renew the lease of a lane each third of its time, until the end of the block."""
        due = time.monotonic() + lane.ttl_s / 3
        with self._changed:
            self._due[lane] = due
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="ketcycle-lease", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(lane, None)

    def _keep(self) -> None:
        idle = False
        while True:
            with self._changed:
                if idle and not self._due:
                    self._thread = None
                    return
                idle = not self._due
                self._wakes = min(self._due.values(), default=time.monotonic() + IDLE_S)
                self._changed.wait(max(0.0, self._wakes - time.monotonic()))
                late = [lane for lane, due in self._due.items() if due <= time.monotonic()]
            for lane in late:
                self._renew(lane)

    def _renew(self, lane: Lane) -> None:
        lost = False
        try:
            lane.renew()
        except LeaseLost:  # the leader finds out at its next write
            lost = True
        except RuntimeQueueError as error:
            log.warning("the lease of %s was not renewed: %s", lane.name, error)
        with self._changed:
            if self._due.pop(lane, None) is not None and not lost:
                self._due[lane] = time.monotonic() + lane.ttl_s / 3


KEEPER = Keeper()


def _renew_after_fork() -> None:
    """Forget the parent's thread, which does not exist in the child."""
    KEEPER.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_renew_after_fork)

"""Cancelling calls: what waits ends in the ledger at once, what is out is cancelled at the backend by who leads."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from infra.errors import BadInput, KetcycleError
from infra.runtime.figures.inspect import full_key, lanes_with_work
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings

log = logging.getLogger("ketcycle.queue")

PATIENCE_S = 60.0
LOOK_S = 0.2


def cancel_calls(location: str | Path, *, run: str | None = None, key: str | None = None) -> dict[str, Any]:
    """Ask for calls to be cancelled; return how many, and the backends where a leader has something left to do.

    Args:
        location: path or URL of the ledger.
        run: all open calls of this run.
        key: or one call, by its replay key or the first characters.

    Raises:
        BadInput: no ledger there, or no such call.
    """
    ledger = Ledger(location, create=False)
    asked = ledger.request_cancel(run=run, key=full_key(location, key) if key is not None else None)
    return {"cancelled": asked, "remote": lanes_with_work(location, run=run)}


def cancel_run(settings: Settings, run: str, patience_s: float = PATIENCE_S) -> int:
    """Cancel all open calls of a run and see to it that remote jobs are cancelled; return the calls.

    Whoever leads carries it out; where nobody does, this process leads. After `patience_s` the rest stands in the
    ledger for the next leader.
    """
    try:
        found = cancel_calls(settings.ledger, run=run)
    except BadInput:  # no quantum call was ever made
        return 0
    carrying = threading.Thread(target=_carry_out, args=(settings, run, patience_s), daemon=True)
    carrying.start()
    carrying.join(patience_s)
    if left := lanes_with_work(settings.ledger, run=run):
        log.warning("jobs of run %s on %s are left to the next leader: ketcycle queue drain", run, ", ".join(left))
    return int(found["cancelled"])


def _carry_out(settings: Settings, run: str, patience_s: float) -> None:
    """Lead, or wait for those who lead, until nothing of the run is open."""
    give_up = time.monotonic() + patience_s
    while (lanes := lanes_with_work(settings.ledger, run=run)) and time.monotonic() < give_up:
        from infra.runtime.queue import Runtime  # circuits load only where something is out

        for lane in lanes:
            try:
                Runtime(settings.ledger, lane, home=settings.home, projection=settings.projection_device).drain()
            except KetcycleError as error:
                log.warning("the jobs of %s were not cancelled yet: %s", lane, error)
        time.sleep(LOOK_S)

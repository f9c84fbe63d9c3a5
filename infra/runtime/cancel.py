"""Cancelling calls: one that waits ends in the ledger at once, the leader of its lane cancels one that is out."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from infra.errors import BadInput, KetcycleError
from infra.runtime.figures.inspect import full_key, lanes_to_cancel
from infra.runtime.ledger.ledger import Ledger
from infra.settings import Settings

log = logging.getLogger("ketcycle.queue")

PATIENCE_S = 60.0
LOOK_S = 0.2


def cancel_calls(location: str | Path, *, run: str | None = None, key: str | None = None) -> dict[str, Any]:
    """Request the cancellation of calls; return how many, and the backends where a leader has to carry it out.

    Args:
        location: path or URL of the ledger.
        run: all open calls of this run.
        key: or one call, by its replay key or the first characters.

    Raises:
        BadInput: no ledger there, or no such call.
    """
    ledger = Ledger(location, create=False)
    whole = full_key(location, key) if key is not None else None
    asked = ledger.request_cancel(run=run, key=whole)
    return {"cancelled": asked, "remote": lanes_to_cancel(location, run=run, key=whole)}


def cancel_now(
    settings: Settings, *, run: str | None = None, key: str | None = None, patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    """Cancel calls with their remote jobs; return how many, and the backends where that is left to the next leader.

    The process that leads a lane carries it out; where none does, this process leads, and sends nothing meanwhile.

    Args:
        settings: of the installation.
        run: all open calls of this run.
        key: or one call, by its replay key or the first characters.
        patience_s: seconds after which the rest is left to the next leader.

    Raises:
        BadInput: no ledger there, or no such call.
    """
    found = cancel_calls(settings.ledger, run=run, key=key)
    whole = full_key(settings.ledger, key) if key is not None else None
    if found["remote"]:
        carrying = threading.Thread(target=_carry_out, args=(settings, run, whole, patience_s), daemon=True)
        carrying.start()
        carrying.join(patience_s)
        found["remote"] = lanes_to_cancel(settings.ledger, run=run, key=whole)
    return found


def cancel_run(settings: Settings, run: str, patience_s: float = PATIENCE_S) -> int:
    """Cancel all open calls of a run with their remote jobs; return the calls.

    After `patience_s` the rest is recorded in the ledger for the next leader.
    """
    try:
        found = cancel_now(settings, run=run, patience_s=patience_s)
    except BadInput:  # no quantum call was ever made
        return 0
    if left := found["remote"]:
        log.warning("jobs of run %s on %s are left to the next leader: ketcycle queue drain", run, ", ".join(left))
    return int(found["cancelled"])


def _carry_out(settings: Settings, run: str | None, key: str | None, patience_s: float) -> None:
    """Lead, or wait for other leaders, until every requested cancellation is carried out."""
    give_up = time.monotonic() + patience_s
    while (lanes := lanes_to_cancel(settings.ledger, run=run, key=key)) and time.monotonic() < give_up:
        from infra.runtime.queue import Runtime  # circuits load only where something is out

        for lane in lanes:
            runtime = Runtime(settings.ledger, lane, home=settings.home, projection=settings.projection_device)
            try:
                runtime.drain(send=False)
            except KetcycleError as error:
                log.warning("the jobs of %s were not cancelled yet: %s", lane, error)
        time.sleep(LOOK_S)

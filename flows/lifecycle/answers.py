"""Shared by the flows that answer an event: idempotency keys, names of flow runs, and final states with a reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import State
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed

from infra.claims import Claim, Claims
from infra.settings import Settings

log = logging.getLogger("ketcycle.answers")

LISTED = 3  # maximum number of values of a field in the name of a flow run


def claims_of(loaded: Settings, scope: str) -> Claims:
    """Return the idempotency keys of a flow; the key of a flow run that ended without finishing is released."""
    return Claims(loaded.ledger, scope, at_work)


def at_work(holder: str) -> bool:
    """Return whether a flow run can still finish its claimed work: it is scheduled, paused or running."""
    if not _is_id(holder):
        return False  # called without Prefect
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(holder)).state
        except ObjectNotFound:
            return False
    return state is None or not state.is_final()


def scheduled() -> datetime:
    """Return the time that this flow run was scheduled for, UTC: the same on every retry, also if it starts late."""
    return (flow_run.scheduled_start_time or datetime.now(UTC)).astimezone(UTC)


def own_id() -> str:
    """Return the id of this flow run; a retry has the same id."""
    return str(flow_run.id or "by hand")


def named_by(parameter: str, *fields: str) -> str:
    """Return a readable name of a flow run: the flow and fields of its event, e.g. `curate-on-arrival: aug.parquet`."""
    given = flow_run.parameters[parameter]
    values = given if isinstance(given, Mapping) else given.model_dump()
    return f"{flow_run.flow_name}: {' '.join(_shown(values.get(name)) for name in fields)}"


def named_by_time() -> str:
    """Return a readable name of a scheduled flow run: the flow and its time, e.g. `status 2026-11-29 08:15`."""
    return f"{flow_run.flow_name} {scheduled():%Y-%m-%d %H:%M}"


def _shown(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return str(value)
    more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
    return ", ".join(str(item).rpartition("/")[2] for item in value[:LISTED]) + more


def done(message: str) -> State[Any]:
    """Return the state of a flow run that completed its work; the message is logged too."""
    log.info("%s", message)
    return Completed(message=message)


def skipped(reason: str) -> State[Any]:
    """Return the state of a flow run without work."""
    log.info("nothing to do: %s", reason)
    return Completed(name="Skipped", message=reason)


def taken(what: str, claim: Claim) -> State[Any]:
    """Return the state of a flow run whose event is or was handled by another flow run."""
    return skipped(f"{what}: {claim.said}")


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True

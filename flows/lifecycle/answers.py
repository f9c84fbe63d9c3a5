"""What the flows share that answer an event: once for each occurrence, and a word on why nothing was done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect import State
from prefect.runtime import flow_run
from prefect.states import Completed

from infra.claims import Claim

log = logging.getLogger("ketcycle.answers")


def me() -> str:
    """Return the id of this flow run, which a retry keeps."""
    return str(flow_run.id or "by hand")


def named_by(parameter: str, *fields: str) -> str:
    """Name a flow run for people: the flow and fields of the event it answers."""
    given = flow_run.parameters[parameter]
    values = given if isinstance(given, Mapping) else given.model_dump()
    return " ".join([str(flow_run.flow_name), *(str(values.get(name)) for name in fields)])


def done(message: str) -> State[Any]:
    """Return the state of a flow run that did something; what it says stands in the log too, which people look at."""
    log.info("%s", message)
    return Completed(message=message)


def skipped(reason: str) -> State[Any]:
    """Return the state of a flow run that found nothing to do."""
    log.info("nothing to do: %s", reason)
    return Completed(name="Skipped", message=reason)


def taken(what: str, claim: Claim) -> State[Any]:
    """Return the state of a flow run whose event was answered before."""
    return skipped(f"{what} was answered by flow run {claim.holder} already")

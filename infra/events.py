"""Names and payloads of the events, and `emit`. The same names stand in prefect.yaml."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from infra.errors import BadInput
from infra.settings import environment

log = logging.getLogger("ketcycle.events")

PREFIX: Final = "ketcycle"
NAMES: Final = (
    "corpus.arrived",
    "drift.warning",
    "drift.detected",
    "drift.cleared",
    "model.registered",
    "model.validated",
    "budget.exhausted",
    "backend.calibrated",
    "quality.regressed",
    "run.finished",
)


def emit(name: str, resource: str, payload: Mapping[str, Any], *, once: str | None = None) -> bool:
    """Send an event to the Prefect API of this process.

    Args:
        name: one of `NAMES`, without the project's prefix.
        resource: what it happened to, e.g. `ketcycle.model.demo`.
        payload: plain values that JSON can carry.
        once: names the occurrence; told again by a run that was killed and goes on, it is still one event.

    Returns:
        Whether there was an API to send it to; without one the event is logged only.

    Raises:
        BadInput: an unknown name or a payload that is not plain JSON.
    """
    if name not in NAMES:
        raise BadInput(f"unknown event {name!r}; known are {', '.join(NAMES)}")
    try:
        plain = json.loads(json.dumps(dict(payload)))
    except (TypeError, ValueError) as error:
        raise BadInput(f"the payload of {name} must be plain JSON values: {error}") from error
    log.info("event %s.%s on %s", PREFIX, name, resource)
    if not environment("PREFECT_API_URL"):
        return False
    from prefect.events import emit_event

    number = uuid5(NAMESPACE_URL, f"{PREFIX}.{name} {resource} {once}") if once else None
    emit_event(event=f"{PREFIX}.{name}", resource={"prefect.resource.id": resource}, payload=plain, id=number)
    return True

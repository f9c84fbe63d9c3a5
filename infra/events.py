"""Names and payloads of the events, and `emit`. The same names stand in prefect.yaml."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final

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


def emit(name: str, resource: str, payload: Mapping[str, Any]) -> bool:
    """Send an event to the Prefect API of this process.

    Args:
        name: one of `NAMES`, without the project's prefix.
        resource: what it happened to, e.g. `ketcycle.model.demo`.
        payload: plain values that JSON can carry.

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

    emit_event(event=f"{PREFIX}.{name}", resource={"prefect.resource.id": resource}, payload=plain)
    return True

"""Names and payloads of the events, and `emit`: what the code, the automations and the webhooks share.

Automations act on events of the resources `REAL` alone. What a demonstration of the lifecycle finds in traffic that it
drifted itself is an event too, but of another resource.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from infra.errors import BadInput, EventNotSent
from infra.settings import environment

log = logging.getLogger("ketcycle.events")

PREFIX: Final = "ketcycle"
REAL: Final = (f"{PREFIX}.corpus", f"{PREFIX}.model.*", f"{PREFIX}.budget")

Reference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*@[0-9a-f]{16}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\- ]{0,199}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Payload(BaseModel):
    """Base of all payloads: plain values under fixed names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusArrived(Payload):
    """New files of text arrived."""

    files: tuple[Annotated[str, StringConstraints(min_length=1, max_length=4096)], ...] = Field(
        min_length=1, max_length=1000, description="The new files, as paths that the worker can read."
    )


class Drift(Payload):
    """A window of requests was judged."""

    model: Text = Field(description="The model that served: a lake reference, or a name in the registry.")
    window: Text = Field(description="Name of the window.")
    data: Reference | None = Field(None, description="Lake reference of the data set that holds the window.")
    streak: Text = Field(description="Names the run of drifted windows that this one belongs to.")
    requests: int = Field(ge=0, description="Requests in the window.")
    p_value: float = Field(ge=0, le=1, description="Of the drift test.")
    state: Literal["ok", "warning", "alert", "insufficient"] = Field(description="State of the watch.")
    mean_logprob: float | None = Field(None, description="Mean log-likelihood per token, nats; None = not known.")
    run_id: str = Field("", max_length=64, description="The run that judged it.")
    demonstration: bool = Field(False, description="Whether the drift was planted by the run that found it.")


class ModelRegistered(Payload):
    """A model has a new version in the registry."""

    name: Name = Field(description="Name of the registered model.")
    version: int = Field(ge=1, description="Its version.")
    source: str = Field("", max_length=2000, description="Where its files are.")
    run_id: str = Field("", max_length=64, description="The run that made it, if one did.")


class ModelValidated(Payload):
    """A version of a model passed: it may serve."""

    name: Name = Field(description="Name of the registered model.")
    version: int = Field(ge=1, description="Its version.")
    by: Text = Field(description="Who validated it: the gate, or a person's tag in the registry.")
    reason: str = Field("", max_length=2000, description="The figures behind it.")


class BudgetExhausted(Payload):
    """Something was not done because a budget does not allow it."""

    what: Text = Field(description="What was not done.")
    reason: str = Field(max_length=2000, description="The limit in the way, with its numbers.")
    run_id: str = Field("", max_length=64, description="The run that made the request.")


class BackendCalibrated(Payload):
    """A backend has a new calibration."""

    backend: Text = Field(description="The backend, e.g. ibm:ibm_fez.")
    calibration: Text = Field(description="Name of the calibration: its time, or the device's version.")


class QualityRegressed(Payload):
    """A model, or its answers, are worse than the model or window that they are compared with."""

    model: Text = Field(description="The model that is worse.")
    against: Text = Field(description="What it was compared with.")
    metric: Text = Field(description="Name and unit of the quality, higher is better.")
    difference: float = Field(description="Mean difference of the qualities; negative = worse.")
    interval: tuple[float, float] | None = Field(None, description="95 % interval of the difference.")
    run_id: str = Field("", max_length=64, description="The run that measured it.")
    demonstration: bool = Field(False, description="Whether the traffic was made by the run that measured it.")


class RunFinished(Payload):
    """A run of the lifecycle is over."""

    status: Literal["done", "failed"] = Field(description="How it ended.")


PAYLOADS: Final[dict[str, type[Payload]]] = {
    "corpus.arrived": CorpusArrived,
    "drift.warning": Drift,
    "drift.detected": Drift,
    "drift.cleared": Drift,
    "model.registered": ModelRegistered,
    "model.validated": ModelValidated,
    "budget.exhausted": BudgetExhausted,
    "backend.calibrated": BackendCalibrated,
    "quality.regressed": QualityRegressed,
    "run.finished": RunFinished,
}


def checked(name: str, payload: Mapping[str, Any] | Payload) -> Payload:
    """Return a payload as the model of its event.

    Raises:
        BadInput: an unknown event, or a payload that does not fit; the message says every field that is wrong.
    """
    model = PAYLOADS.get(name.removeprefix(f"{PREFIX}."))
    if model is None:
        raise BadInput(f"unknown event {name!r}; known are {', '.join(PAYLOADS)}")
    given = payload.model_dump() if isinstance(payload, Payload) else dict(payload)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in error.errors())
        raise BadInput(f"the payload of {name} does not fit: {said}") from None


def resource_of(payload: Payload) -> str:
    """Return the resource of an event, e.g. `ketcycle.model.demo`; automations select and count by it."""
    match payload:
        case Drift() | QualityRegressed() if payload.demonstration:
            return f"{PREFIX}.demonstration.{payload.model}"
        case CorpusArrived():
            return f"{PREFIX}.corpus"
        case Drift() | QualityRegressed():
            return f"{PREFIX}.model.{payload.model}"
        case ModelRegistered() | ModelValidated():
            return f"{PREFIX}.model.{payload.name}"
        case BackendCalibrated():
            return f"{PREFIX}.backend.{payload.backend}"
        case BudgetExhausted():
            return f"{PREFIX}.budget"
        case _:
            return f"{PREFIX}.run"


def event_id(name: str, payload: Payload, once: str) -> UUID:
    """Return an event id derived from the content, so that a repeat is recognised and dropped by Prefect."""
    return uuid5(NAMESPACE_URL, f"{PREFIX}.{name.removeprefix(f'{PREFIX}.')} {resource_of(payload)} {once}")


def emit(
    name: str, payload: Mapping[str, Any] | Payload, *, once: str | None = None, resource: str | None = None
) -> bool:
    """Report an event to the Prefect API of this process; if the server does not answer, the work goes on.

    Args:
        name: one of `PAYLOADS`, with or without the project's prefix.
        payload: values for the model of the event.
        once: idempotency key: the same event emitted again, as by a resumed run, is dropped.
        resource: what it happened to; None = derived from the payload.

    Returns:
        Whether an API took it; without one the event is logged only.

    Raises:
        BadInput: an unknown name, or a payload that does not fit.
    """
    known = checked(name, payload)
    about = resource or resource_of(known)
    log.info("event %s.%s on %s", PREFIX, name, about)
    if not environment("PREFECT_API_URL"):
        return False
    try:
        send(name, known, event_id(name, known, once) if once else uuid4(), resource=about)
    except (EventNotSent, ModuleNotFoundError) as error:  # the latter where the queue alone is installed
        log.warning("%s", error)
        return False
    return True


def send(
    name: str, payload: Payload, identity: UUID, *, resource: str | None = None, occurred: datetime | None = None
) -> None:
    """Send an event to the Prefect API and wait until it has taken it.

    Raises:
        EventNotSent: the API did not take it.
    """
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    run = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}
    event = {
        "id": str(identity),
        "event": f"{PREFIX}.{name.removeprefix(f'{PREFIX}.')}",
        "occurred": (occurred or datetime.now(UTC)).isoformat(),
        "resource": {"prefect.resource.id": resource or resource_of(payload)},
        "related": [run] if flow_run.id else [],
        "payload": payload.model_dump(mode="json"),
    }
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event])
    except Exception as error:  # whatever the client raises, the event was not sent
        raise EventNotSent(f"event {name} was not taken by the Prefect API: {error}") from error

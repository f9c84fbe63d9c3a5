"""Names and payloads of the events, and `emit`: what the code, the automations and the webhooks share."""

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

Reference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*@[0-9a-f]{16}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\- ]{0,199}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Payload(BaseModel):
    """What every payload is: plain values under fixed names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusArrived(Payload):
    """New files of text are there."""

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


class ModelRegistered(Payload):
    """A model has a new version in the registry."""

    name: Name = Field(description="Name of the registered model.")
    version: int = Field(ge=1, description="Its version.")
    source: str = Field("", max_length=2000, description="Where its files are.")
    run_id: str = Field("", max_length=64, description="The run that made it, if one did.")


class ModelValidated(Payload):
    """A version of a model was found fit to serve."""

    name: Name = Field(description="Name of the registered model.")
    version: int = Field(ge=1, description="Its version.")
    by: Text = Field(description="What found it fit: the gate, or a person's tag in the registry.")
    reason: str = Field("", max_length=2000, description="The figures that it rests on.")


class BudgetExhausted(Payload):
    """Something was not done because a budget does not allow it."""

    what: Text = Field(description="What was not done.")
    reason: str = Field(max_length=2000, description="The limit in the way, with its numbers.")
    run_id: str = Field("", max_length=64, description="The run that asked.")


class BackendCalibrated(Payload):
    """A backend has a calibration that was not seen before."""

    backend: Text = Field(description="The backend, e.g. ibm:ibm_fez.")
    calibration: Text = Field(description="Name of the calibration: its time, or the device's version.")


class QualityRegressed(Payload):
    """A model, or what it answers, is worse than what it is held against."""

    model: Text = Field(description="The model that is worse.")
    against: Text = Field(description="What it was held against.")
    metric: Text = Field(description="Name and unit of the quality, higher is better.")
    difference: float = Field(description="Mean difference of the qualities; negative = worse.")
    interval: tuple[float, float] | None = Field(None, description="95 % interval of the difference.")
    run_id: str = Field("", max_length=64, description="The run that measured it.")


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
    """Return what an event happened to, e.g. `ketcycle.model.demo`; automations count occurrences by it."""
    match payload:
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


def number_of(name: str, payload: Payload, once: str) -> UUID:
    """Return the id of an occurrence: told twice, by whomever, it is one event."""
    return uuid5(NAMESPACE_URL, f"{PREFIX}.{name.removeprefix(f'{PREFIX}.')} {resource_of(payload)} {once}")


def emit(
    name: str, payload: Mapping[str, Any] | Payload, *, once: str | None = None, resource: str | None = None
) -> bool:
    """Tell the Prefect API of this process what happened; a server that does not answer stops nobody.

    Args:
        name: one of `PAYLOADS`, without the project's prefix.
        payload: what its model asks for.
        once: names the occurrence; told again by a run that was killed and goes on, it is still one event.
        resource: what it happened to; None = what the payload says.

    Returns:
        Whether there was an API that took it; without one the event is logged only.

    Raises:
        BadInput: an unknown name, or a payload that does not fit.
    """
    known = checked(name, payload)
    about = resource or resource_of(known)
    log.info("event %s.%s on %s", PREFIX, name, about)
    if not environment("PREFECT_API_URL"):
        return False
    try:
        send(name, known, number_of(name, known, once) if once else uuid4(), resource=about)
    except EventNotSent as error:
        log.warning("%s", error)
        return False
    return True


def send(
    name: str, payload: Payload, number: UUID, *, resource: str | None = None, occurred: datetime | None = None
) -> None:
    """Hand an event to the Prefect API and wait until it has taken it.

    Raises:
        EventNotSent: the API did not take it.
    """
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    number_of_run = flow_run.id
    related = (
        [{"prefect.resource.id": f"prefect.flow-run.{number_of_run}", "prefect.resource.role": "flow-run"}]
        if number_of_run
        else []
    )
    event = {
        "id": str(number),
        "event": f"{PREFIX}.{name.removeprefix(f'{PREFIX}.')}",
        "occurred": (occurred or datetime.now(UTC)).isoformat(),
        "resource": {"prefect.resource.id": resource or resource_of(payload)},
        "related": related,
        "payload": payload.model_dump(mode="json"),
    }
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event])
    except Exception as error:  # seam: whatever keeps the event from arriving, the caller decides what it means
        raise EventNotSent(f"event {name} was not taken by the Prefect API: {error}") from error

"""Prefect automations as code: which event starts which deployment, and which messages are sent.

`ketcycle deploy` applies them. The flows deduplicate events; an automation only passes on the payload. It can be paused
on the Prefect page, or with `prefect automation pause NAME`, and stays paused when applied again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from infra.events import PAYLOADS, PREFIX, REAL
from infra.installation.flow_runs import HEARTBEAT, SILENCE, SILENT

TAG = PREFIX
# The typed form: a plain template would turn every value into a string.
WHOLE_PAYLOAD = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"},
}
ANNOUNCED = ("drift.detected", "quality.regressed", "budget.exhausted")
INCIDENT = timedelta(hours=1)  # a repeat within it is the same incident
BODY = "{% for name, value in event.payload.items() %}{{ name }}: {{ value }}\n{% endfor %}"


@dataclass(frozen=True)
class Answer:
    """An event that starts a deployment.

    Attributes:
        event: its name in `infra.events`.
        deployment: the deployment, as flow/name.
        parameter: the flow's parameter that takes the payload.
        description: the effect, for the Prefect page.
    """

    event: str
    deployment: str
    parameter: str
    description: str

    @property
    def name(self) -> str:
        """Name of the automation."""
        return f"{PREFIX}: {self.event} -> {self.deployment.partition('/')[0]}"

    def automation(self, deployment_id: UUID) -> AutomationCore:
        """Return the automation."""
        return AutomationCore(
            name=self.name,
            description=self.description,
            tags=[TAG],
            trigger=_on(self.event),
            actions=[
                RunDeployment(deployment_id=deployment_id, parameters={self.parameter: WHOLE_PAYLOAD}),
            ],
        )


ANSWERS = (
    Answer(
        "drift.detected",
        "retrain-on-drift/retrain-on-drift",
        "drift",
        "Trains a challenger on drifted traffic: once per streak, not during the cool-down, within the budget. "
        "The gate decides whether it may serve.",
    ),
    Answer(
        "corpus.arrived",
        "curate-on-arrival/curate-on-arrival",
        "arrival",
        "Curates the files of the arrival that were not curated before.",
    ),
    Answer(
        "model.validated",
        "promote-on-validation/promote-on-validation",
        "model",
        "Moves the alias that the server follows to the validated version.",
    ),
)


def automations(deployments: Mapping[str, UUID], block: UUID | None) -> list[AutomationCore]:
    """Return all automations.

    Args:
        deployments: ids by flow/name; automations of other deployments are left out.
        block: the block that posts messages; None = no messages.
    """
    answers = [
        answer.automation(deployments[answer.deployment]) for answer in ANSWERS if answer.deployment in deployments
    ]
    messages = [] if block is None else [*(_announcement(event, block) for event in ANNOUNCED), _failure(block)]
    return [*answers, _crash(), *messages]


def _crash() -> AutomationCore:
    """Return the automation that ends flow runs without heartbeats: their process, worker or machine is gone."""
    return AutomationCore(
        name=SILENT,
        description=f"Ends a flow run without a heartbeat for {SILENCE.seconds} s, which frees its deployment's limit.",
        tags=[TAG],
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENCE.seconds} s: its process, worker or machine is gone",
            )
        ],
    )


def _announcement(event: str, block: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}: announce {event}",
        description=f"Posts {event} to notify_url, once an hour for each model or budget.",
        tags=[TAG],
        trigger=_on(event, within=INCIDENT, for_each={"prefect.resource.id"}),
        actions=[
            SendNotification(block_document_id=block, subject="{{ event.event }} on {{ event.resource.id }}", body=BODY)
        ],
    )


def _failure(block: UUID) -> AutomationCore:
    """Return the automation that reports failed flow runs of deployments; child flow runs have no deployment."""
    return AutomationCore(
        name=f"{PREFIX}: announce failed runs",
        description="Posts a failed or crashed run of a deployment to notify_url, once an hour for each deployment.",
        tags=[TAG],
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification({"prefect.resource.role": "deployment"}),
            for_each={"related:deployment:prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=INCIDENT,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }} {{ flow_run.state.name }}: {{ flow_run.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
            )
        ],
    )


def answered(event: str) -> bool:
    """Return whether the Prefect server of this process has an automation for an event, paused or not."""
    names = {answer.name for answer in ANSWERS if answer.event == event}
    with get_client(sync_client=True) as client:
        return any(item.name in names for item in client.read_automations())


def _on(event: str, within: timedelta = timedelta(0), for_each: Sequence[str] | set[str] = ()) -> EventTrigger:
    if event not in PAYLOADS:
        raise ValueError(f"no such event: {event}")
    resources: Any = {"prefect.resource.id": list(REAL)}
    return EventTrigger(
        expect={f"{PREFIX}.{event}"},
        match=ResourceSpecification(resources),
        for_each=set(for_each),
        posture=Posture.Reactive,
        threshold=1,
        within=within,
    )

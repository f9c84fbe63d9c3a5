"""Automations as code: which event starts which deployment, and what a person is told. `ketcycle deploy` applies them.

The flows themselves see to it that an occurrence is answered once; an automation only hands the payload on. It is
paused in the page, or with `prefect automation pause NAME`; applying them again leaves it paused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from infra.events import PAYLOADS, PREFIX

TAG = PREFIX
# The typed form: a plain template would make a string of everything.
WHOLE_PAYLOAD = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.payload | tojson }}"},
}


@dataclass(frozen=True)
class Answer:
    """An event that starts a deployment.

    Attributes:
        event: its name in `infra.events`.
        deployment: the deployment, as flow/name.
        parameter: the flow's parameter that takes the payload.
        description: what follows, for the page.
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
            trigger=_when([self.event]),
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
        "The gate tells whether it may serve.",
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
TOLD = ("drift.detected", "quality.regressed", "budget.exhausted")


def automations(deployments: Mapping[str, UUID], block: UUID | None) -> list[AutomationCore]:
    """Return all automations.

    Args:
        deployments: ids by flow/name; the answer of a deployment that is not there is left out.
        block: the block that notifies; None = nobody is told.
    """
    found = [
        answer.automation(deployments[answer.deployment]) for answer in ANSWERS if answer.deployment in deployments
    ]
    if block is not None:
        found.append(
            AutomationCore(
                name=f"{PREFIX}: tell",
                description=f"Posts {', '.join(TOLD)} to the address of the setting notify_url.",
                tags=[TAG],
                trigger=_when(TOLD),
                actions=[
                    SendNotification(
                        block_document_id=block,
                        subject="{{ event.event }} on {{ event.resource.id }}",
                        body="{{ event.payload | tojson }}",
                    )
                ],
            )
        )
    return found


def answered(event: str) -> bool:
    """Return whether the Prefect server of this process has an automation that answers an event, be it paused."""
    names = {answer.name for answer in ANSWERS if answer.event == event}
    with get_client(sync_client=True) as client:
        return any(item.name in names for item in client.read_automations())


def _when(events: Any) -> EventTrigger:
    unknown = set(events) - set(PAYLOADS)
    if unknown:
        raise ValueError(f"no such events: {', '.join(sorted(unknown))}")
    return EventTrigger(
        expect={f"{PREFIX}.{name}" for name in events},
        match={"prefect.resource.id": f"{PREFIX}.*"},
        posture=Posture.Reactive,
        threshold=1,
        within=0,
    )

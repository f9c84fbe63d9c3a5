"""The status of the installation as an artifact on the Prefect page, and as text for the console."""

from __future__ import annotations

from typing import Any

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact

from flows.lifecycle.answers import done, named_by_time
from flows.reports.status import markdown
from infra import settings
from infra.installation.status import look


@flow(name="status", flow_run_name=named_by_time)
def status() -> State[Any]:
    """Write the status of the installation to the page: services, runs, queue, champion, drift, events, disk."""
    found = look(settings.load())
    create_markdown_artifact(markdown(found), key="ketcycle-status", description="Status of the installation")
    silent = [service.name for service in found.services if not service.answers]
    return done(
        f"{len(found.active)} runs going on; " + (f"no answer: {', '.join(silent)}" if silent else "all answer")
    )

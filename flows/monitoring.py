"""Stage flow `monitoring`."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from flows.stages import StageResult, run_name, run_stage
from infra.compute import task_runner


@flow(name="monitoring", flow_run_name=run_name, task_runner=task_runner())
def monitoring(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Watch the served requests for drift."""
    return run_stage("monitoring", config, inputs, join_shadows=join_shadows)

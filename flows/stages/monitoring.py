"""Stage flow `monitoring`."""

from __future__ import annotations

from prefect import flow

from flows.lifecycle.config import RunConfig
from flows.lifecycle.walk import StageResult, run_name, run_stage
from infra.compute import task_runner


@flow(name="monitoring", flow_run_name=run_name, task_runner=task_runner())
def monitoring(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Test the served requests for drift, and write a drift page next to the report of the run.

    Args:
        config: The run that the stage belongs to.
        inputs: Lake references by the name of the data set; none = the newest products in the lake.
        join_shadows: whether the flow waits for the shadow arms before it ends.
    """
    return run_stage("monitoring", config, inputs, join_shadows=join_shadows)

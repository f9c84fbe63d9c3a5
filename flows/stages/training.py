"""Stage flow `training`."""

from __future__ import annotations

from prefect import flow

from flows.lifecycle.config import RunConfig
from flows.lifecycle.walk import StageResult, run_name, run_stage
from infra.compute import task_runner, trainer


@flow(name="training", flow_run_name=run_name, task_runner=task_runner())
def training(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Train the model from scratch.

    Args:
        config: The run that the stage belongs to.
        inputs: Lake references by the name of the data set; none = the newest products in the lake.
        join_shadows: whether the flow waits for the shadow arms before it ends.
    """
    with trainer():
        return run_stage("training", config, inputs, join_shadows=join_shadows)

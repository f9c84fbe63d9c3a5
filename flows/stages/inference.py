"""Stage flow `inference`."""

from __future__ import annotations

from prefect import flow

from flows.lifecycle.config import RunConfig
from flows.lifecycle.walk import StageResult, run_name, run_stage
from infra.compute import task_runner


@flow(name="inference", flow_run_name=run_name, task_runner=task_runner())
def inference(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Prune, recover, register and serve the model.

    Args:
        config: The run that the stage belongs to.
        inputs: Lake references by the name of the data set; none = the newest products in the lake.
        join_shadows: whether the flow waits for the shadow arms before it ends.
    """
    return run_stage("inference", config, inputs, join_shadows=join_shadows)

"""Stage flow `finetuning`."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from flows.stages import StageResult, run_name, run_stage
from infra.compute import task_runner, trainer


@flow(name="finetuning", flow_run_name=run_name, task_runner=task_runner())
def finetuning(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Adapt the model to the second domain."""
    with trainer():
        return run_stage("finetuning", config, inputs, join_shadows=join_shadows)

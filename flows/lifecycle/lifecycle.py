"""The lifecycle as a Prefect flow."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.lifecycle.cancel import on_cancellation, on_crashed
from flows.lifecycle.config import RunConfig
from flows.lifecycle.gate import GATE, Gate
from flows.lifecycle.run import run_lifecycle
from flows.lifecycle.walk import run_name
from infra.compute import task_runner


@flow(
    name="lifecycle",
    flow_run_name=run_name,
    task_runner=task_runner(),
    log_prints=True,
    on_cancellation=[on_cancellation],
    on_crashed=[on_crashed],
)
def lifecycle(config: RunConfig, gate: Gate | None = GATE) -> dict[str, Any]:
    """Run the stages in order, judge the new model, and report quality and cost of each decision.

    Args:
        config: The run: data, model, and how decisions pick their arms.
        gate: When a new model may serve; none = it is not judged here.
    """
    return run_lifecycle(config, gate)

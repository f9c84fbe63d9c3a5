"""Stage flow `monitoring`."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.lifecycle.config import RunConfig
from flows.lifecycle.walk import StageResult, run_name, run_stage
from flows.reports.drift import of_run
from infra import runs, settings
from infra.compute import task_runner
from infra.lake import write_atomic


@flow(name="monitoring", flow_run_name=run_name, task_runner=task_runner())
def monitoring(config: RunConfig, inputs: dict[str, str] | None = None, *, join_shadows: bool = True) -> StageResult:
    """Test the served requests for drift, and write a drift page next to the report of the run.

    Args:
        config: The run that the stage belongs to.
        inputs: Lake references by the name of the data set; none = the newest products in the lake.
        join_shadows: whether the flow waits for the shadow arms before it ends.
    """
    config = config.named()
    result = run_stage("monitoring", config, inputs, join_shadows=join_shadows)
    home = settings.load().home
    page, table = of_run(home, config.run_id, result.refs, result.facts)
    path = runs.folder(home, config.run_id) / "drift.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    create_markdown_artifact(f"{table}\n\nPage: `{path}`", key="ketcycle-drift", description=f"Drift, {config.run_id}")
    return result

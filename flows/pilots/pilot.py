"""`ketcycle pilot`: the study of a published case, and its page."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.pilots.config import PilotConfig
from flows.pilots.page import build_page
from flows.reports.study.pilot import markdown, write_pilot
from flows.study.config import read_record
from flows.study.study import study
from infra import engine, settings


@flow(name="pilot", flow_run_name="pilot-{config.pilot}", log_prints=True)
def pilot(config: PilotConfig) -> dict[str, Any]:
    """Run the arms of a pilot over its bank, judge the published claim, and write the page."""
    loaded = settings.load()
    study_id = config.study_id or f"{config.pilot}-{str(flow_run.id)[:8]}"
    (study if engine.in_flow() else study.fn)(config.study(study_id))
    found = build_page(loaded, read_record(loaded.home, study_id))
    write_pilot(loaded.home / "studies" / study_id, found)
    engine.publish(markdown(found), key="ketcycle-pilot", description=found["title"])
    return found

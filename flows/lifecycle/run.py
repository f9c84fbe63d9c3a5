"""A run: its stages in order, then one wait for all shadow arms, then one report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import distributed

from flows.lifecycle.cancel import cancellable
from flows.lifecycle.config import RunConfig
from flows.lifecycle.gate import GATE, Gate, judge_run
from flows.lifecycle.in_mlflow import Figures, curves_in_mlflow, write_figures
from flows.lifecycle.pending import complete_run
from flows.lifecycle.walk import ShadowBudget, StageResult, Started, join, run_stage, start_shadows
from flows.reports.run.report import build_report, metrics, write_report
from flows.reports.run.text import markdown
from infra import completion, engine, runs, settings
from infra.compute import cluster
from infra.energy.processes import ProcessTree, machine, whereabouts
from infra.errors import BadInput, KetcycleError, StageFailed, StageRefused
from infra.events import emit
from infra.run_log import logged
from infra.runtime.figures.summary import summary_of
from infra.settings import Settings
from infra.shared import open_evidence
from infra.tracking import where_open
from tasks.contract import STAGES
from tasks.records import record_orchestration

log = logging.getLogger("ketcycle.lifecycle")


def run_lifecycle(config: RunConfig, gate: Gate | None = GATE) -> dict[str, Any]:
    """Run the stages in order, judge the new model, and report quality and cost of each decision.

    Args:
        config: the run.
        gate: when a new model may serve; None = it is not judged here.

    Raises:
        StageFailed: a stage failed; finished stages are kept and reported.
    """
    config = config.named()
    loaded = settings.load()
    with completion.claimed(loaded.home, config.run_id), cluster(loaded, config.modules):
        failure = _run_stages(config, loaded, gate)
        report = _conclude(config.run_id)
    if failure:
        raise failure
    return report


def _run_stages(config: RunConfig, loaded: Settings, gate: Gate | None) -> StageFailed | None:
    """Run the stages in order and judge the new model; return the failure, if any."""
    began, since = time.monotonic(), datetime.now(UTC).isoformat(timespec="microseconds")
    with (
        logged(runs.folder(loaded.home, config.run_id), config.run_id),
        ThreadPoolExecutor(1) as background,
        cancellable(config.run_id),
    ):
        near, far = _workers()
        tree = ProcessTree(near, lambda: _workers()[1] if far else {})
        run = _begun(loaded.home, config)
        try:
            with curves_in_mlflow(config, background):
                failure = _in_order(config, loaded, run, lambda: _save(loaded.home, run))
        except BaseException:
            _save(loaded.home, run | {"status": "stopped"})
            raise
        if gate and "inference" in config.stages:
            run |= _judged(loaded, config.run_id, gate)
        tree.stop()
        run |= {
            "status": "failed" if failure else "done",
            "wall_s": time.monotonic() - began,
            "peak_mb": tree.peak_mb,
            "elsewhere_cpu_s": tree.elsewhere_cpu_s(),
        }
        record_orchestration(loaded.home, config.run_id, since, tree.cpu_s())
        open_evidence(loaded.home).compact()
        _save(loaded.home, run)
    if failure:
        return type(failure)(f"{failure}; continue with: ketcycle run --resume {config.run_id}")
    return None


def charge(run_id: str, since: str) -> None:
    """Record the CPU time of this process tree, stopped services included, that is in no evidence row yet.

    Args:
        run_id: the run.
        since: when this process began the run (ISO 8601, as in evidence rows).
    """
    loaded = settings.load()
    elsewhere_s = runs.read(loaded.home, run_id)[1].get("elsewhere_cpu_s", 0.0)  # by workers not started here
    record_orchestration(loaded.home, run_id, since, elsewhere_s + _tree_cpu_s())


def _conclude(run_id: str) -> dict[str, Any]:
    """Write the report of a finished run, also to MLflow and on the Prefect page; emit `run.finished`; return it."""
    loaded = settings.load()
    report = build_report(loaded, *runs.read(loaded.home, run_id))
    write_report(loaded.home, report)
    try:
        _track(report)
    except Exception as error:  # noqa: BLE001  (a tracking server that fails must not undo a finished run)
        log.warning("not in MLflow: %s; ketcycle run --resume %s puts it there", error, run_id)
    engine.publish(markdown(report), key="ketcycle-report", description=f"Run {run_id}")
    if queued := summary_of(loaded.ledger, loaded.home, run_id):
        engine.publish(queued, key="ketcycle-queue", description=f"Quantum calls of {run_id}")
    emit("run.finished", {"status": report["status"]}, once=run_id, resource=f"ketcycle.run.{run_id}")
    return report


def _judged(loaded: Settings, run_id: str, gate: Gate) -> dict[str, Any]:
    """Return the gate's verdict on the run's model, for the report."""
    try:
        found = judge_run(loaded, run_id, gate)
    except Exception as error:  # noqa: BLE001  (a registry or server that fails must not undo a finished run)
        log.warning("the new model was not judged: %s; ketcycle run --resume %s judges it", error, run_id)
        return {"gate": {"said": f"not judged: {error}"}}
    return {"gate": vars(found) | {"said": str(found)}} if found else {}


def _tree_cpu_s() -> float:
    """Return the CPU seconds of this process and its finished child processes."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _begun(home: Path, config: RunConfig) -> dict[str, Any]:
    """Return the record of a new or continued run; results of stages that do not run now are kept."""
    before = runs.find(home, config.run_id) or {"stages": {}}
    kept = {name: entry for name, entry in before["stages"].items() if name not in config.stages}
    plain = config.model_dump(mode="json")
    plain["stages"] = [name for name in STAGES if name in (*config.stages, *kept)]
    now = {"config": plain, "status": "running", "began_s": time.time(), "stages": kept, "gate": before.get("gate")}
    runs.write(home, config.run_id, now)
    return now


def _save(home: Path, run: Mapping[str, Any]) -> None:
    stages = {name: run["stages"][name] for name in STAGES if name in run["stages"]}
    runs.write(home, run["config"]["run_id"], {**run, "stages": stages})


def _in_order(config: RunConfig, loaded: Settings, run: dict[str, Any], save: Callable[[], None]) -> StageFailed | None:
    """Run the stages, save each result in `run`, wait for the shadow arms; return the failure, if any."""
    inputs: dict[str, str] = {}
    for stage in _stages_before(config):
        found = completion.find(loaded.home, config.run_id, stage)
        inputs |= found.result["refs"] if found else {}
    whole = config.stages[0] == "curation" or bool(inputs)
    pending: list[Started] = []
    budget = ShadowBudget(loaded, config.run_id)
    failure: StageFailed | None = None
    for name in config.stages:
        if failure:
            failed = next(stage for stage in config.stages if run["stages"][stage]["status"] == "failed")
            run["stages"][name] = {"status": "skipped", "reason": f"{failed} failed"}
            log.info("%s: skipped, %s failed", name, failed, extra={"stage": (name, "skipped")})
            continue
        log.info("%s begins", name, extra={"stage": (name, "running")})
        try:
            result = _run_one(name, config, inputs if whole else None)
        except BadInput as error:
            failure = StageRefused(f"{name}: {error}")
        except KetcycleError as error:
            failure = StageFailed(f"{name}: {error}")
        except Exception as error:  # a stage may fail in any way; the report of the others must still be written
            log.exception("%s failed", name)
            failure = StageFailed(f"{name}: {type(error).__name__}: {error}")
        if failure:
            log.error("%s", failure, extra={"stage": (name, "failed")})
            run["stages"][name] = {"status": "failed", "reason": str(failure).removeprefix(f"{name}: ")}
            save()
            continue
        run["stages"][name] = {k: v for k, v in vars(result).items() if k != "shadows"}
        save()
        inputs |= result.refs
        pending += (begun := start_shadows(result.shadows, budget))
        if arms := sum(len(item.shadow.arms) for item in begun):
            log.info("%s: %d shadow arms submitted", name, arms, extra={"count": ("arms", 0, arms)})
    _say_what_ran({name: run["stages"][name] for name in config.stages})
    if pending:
        log.info("waiting for the shadow arms of %d decisions", len(pending))
    join(pending)
    late = [item for item in complete_run(loaded, config.run_id) if item.status == "pending"]
    if late:
        log.info("%d arms wait for a remote queue; ketcycle queue drain completes the report", len(late))
    return failure


def _say_what_ran(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Log which stages of a continued run were repeated, and why."""
    done = {name: entry for name, entry in stages.items() if entry["status"] == "done"}
    again = [f"{name}: {entry['reason']}" for name, entry in done.items() if entry["reason"]]
    reused = [name for name, entry in done.items() if entry["reused"]]
    if again or reused:
        log.info("reused: %s; run again: %s", ", ".join(reused) or "none", "; ".join(again) or "none")


def _stages_before(config: RunConfig) -> tuple[str, ...]:
    return STAGES[: STAGES.index(config.stages[0])]


def _run_one(name: str, config: RunConfig, inputs: Mapping[str, str] | None) -> StageResult:
    """Run a stage: within a flow run as a child flow run, else as a function."""
    if not engine.in_flow():
        return run_stage(name, config, inputs, join_shadows=False)
    found: StageResult = getattr(import_module(f"flows.stages.{name}"), name)(config, inputs, join_shadows=False)
    return found


def _workers() -> tuple[list[int], dict[str, float]]:
    """Return the process ids of the workers on this machine, and the CPU seconds of those on other machines."""
    client = distributed.get_client()
    workers = client.scheduler_info(n_workers=-1)["workers"]
    found = {
        (place, pid): cpu_s
        for kept in (True, False)  # a worker under a nanny counts with it, so that a killed worker is counted too
        if (those := [address for address, about in workers.items() if bool(about["nanny"]) is kept])
        for place, pid, cpu_s in client.run(whereabouts, workers=those, nanny=kept).values()
    }
    here = machine()
    near = [pid for place, pid in found if place == here]
    return near, {f"{place} {pid}": cpu_s for (place, pid), cpu_s in found.items() if place != here}


def _track(report: Mapping[str, Any]) -> None:
    """Log the report's figures to MLflow."""
    stages = {
        stage["stage"]: Figures(
            stage["began_s"],
            stage["began_s"] + stage["wall_s"],
            stage["status"] == "failed",
            metrics(report, stage["stage"]),
        )
        for stage in report["stages"]
        if stage["began_s"] is not None
    }
    whole = Figures(report["began_s"], time.time(), report["status"] == "failed", metrics(report))
    where_open(write_figures, report["run_id"], whole, stages)

"""Runs a stage: the steps and decisions of its `ROAD` in order; a complete stage is not repeated."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import distributed
from dask.base import annotate

from flows.lifecycle.config import RunConfig, named_after, resolve_options
from flows.reports.drift.page import of_run
from infra import completion, engine, runs, settings
from infra.compute import cluster
from infra.errors import BadInput, LakeError
from infra.lake import Lake, Ref, write_atomic
from infra.settings import Settings
from infra.shared import open_evidence, open_lake
from tasks import steps
from tasks.contract import STAGES, Method
from tasks.options import SETTLE
from tasks.stage import Context, Outline, State, headline, outline, plain_sections
from tasks.workbench import Shadow, Workbench

log = logging.getLogger("ketcycle.flows")

P = ParamSpec("P")
R = TypeVar("R")

LOOK_S = 1.0  # seconds between two looks whether the workers of a task are still there


@dataclass(frozen=True)
class StageResult:
    """The result of a stage flow.

    Attributes:
        stage: the stage.
        status: `done`.
        reused: whether the stored result of this run was returned, without any work.
        reason: why the stage ran again although a result was stored.
        data: fingerprint of the data of its evidence.
        began_s: when it began, seconds since the epoch.
        wall_s: elapsed seconds of its steps and decisions, without shadow arms.
        refs: its products, name to lake reference.
        facts: figures for the report.
        decisions: why each arm was chosen, by subtask.
        shadows: shadow arms that the caller must still run.
        sections: tables and charts for the report, as plain values (`tasks.sections`).
    """

    stage: str
    status: str
    began_s: float
    wall_s: float
    refs: dict[str, str]
    facts: dict[str, Any]
    decisions: dict[str, dict[str, Any]]
    reused: bool = False
    reason: str = ""
    data: str = ""
    shadows: tuple[Shadow, ...] = field(default=())
    sections: list[dict[str, Any]] = field(default_factory=list)


def run_name() -> str:
    """Return a readable name of a flow run: the flow and its run."""
    from prefect.runtime import flow_run

    given = flow_run.parameters["config"]
    run_id = given.get("run_id") if isinstance(given, Mapping) else given.run_id
    return f"{flow_run.flow_name} {run_id or named_after(str(flow_run.id))}"


def run_stage(name: str, config: RunConfig, inputs: Mapping[str, str] | None, *, join_shadows: bool) -> StageResult:
    """Run one stage on the current Dask cluster, or return the stored result if it is complete."""
    config = config.named()
    loaded = settings.load()
    options = resolve_options(config, loaded)
    lake = open_lake(loaded.home)
    refs = _newest(lake, name) if inputs is None else dict(inputs)
    data = completion.digest(
        corpus=config.corpus, second=config.second, **({"model": config.model} if config.model else {})
    )
    found = completion.find(loaded.home, config.run_id, name)
    with cluster(loaded):
        seen = _on_a_worker(outline, name)
        parts = {
            "inputs": refs,
            "options": options.get(name, {}),
            "settle": options.get(SETTLE, {}),
            "seed": config.seed,
            "method": str(config.method),
            "objective": config.objective,
            "backend": config.backend,
            "arms": seen.arms,
        }
        context, bench = context_of(loaded, config.run_id, name, parts), bench_of(loaded, config.run_id, parts, data)
        reason = _changed(lake, found, parts) if found else ""
        if found and not reason:
            log.info("%s: already complete, nothing to do", name, extra={"stage": (name, "reused")})
            shadows = (shadow.left() for shadow in shadows_of(found, context, bench))
            left = tuple(shadow for shadow in shadows if shadow.arms)
            result = StageResult(**{**found.result, "reused": True, "reason": "", "shadows": left})
        else:
            if reason:
                log.info("%s: %s: runs again", name, reason)
            _sweep(context)
            result = replace(_walk(context, seen, bench), reason=reason, data=data)
            completion.record(loaded.home, config.run_id, name, parts, _plain(result))
            shutil.rmtree(bench.resume_root(name), ignore_errors=True)
        result = replace(result, sections=_on_a_worker(plain_sections, name, result.facts))
        if join_shadows:
            join(start_shadows(result.shadows, ShadowBudget(loaded, config.run_id)))
    if name in PAGES:
        PAGES[name](loaded.home, config.run_id, result)
    return result


def _drift_page(home: Path, run_id: str, result: StageResult) -> None:
    page, table = of_run(home, run_id, result.refs, result.facts)
    path = runs.folder(home, run_id) / "drift.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
    engine.publish(f"{table}\n\nPage: `{path}`", key="ketcycle-drift", description=f"Drift, {run_id}")


PAGES = {"monitoring": _drift_page}  # further pages of a stage


def _on_a_worker(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Call a function on a worker, which has the modules of the stages imported."""
    client = distributed.get_client()
    found: R = client.submit(function, *arguments, **named, pure=False, priority=10).result()
    return found


def context_of(loaded: Settings, run_id: str, stage: str, parts: Mapping[str, Any]) -> Context:
    """Return the context of a stage, from the parts of its digest."""
    inputs = {name: Ref.parse(text) for name, text in parts["inputs"].items()}
    return Context(run_id, stage, loaded.home, parts["seed"], parts["options"], inputs)


def bench_of(loaded: Settings, run_id: str, parts: Mapping[str, Any], data: str) -> Workbench:
    """Return the workbench for the decisions of a stage, from the parts of its digest."""
    return Workbench(
        run_id=run_id,
        home=loaded.home,
        ledger=loaded.ledger,
        backend=parts["backend"],
        seed=parts["seed"],
        method=Method(parts["method"]),
        objective=parts["objective"],
        projection_device=loaded.projection_device,
        simulation_limit_s=loaded.simulation_limit_s,
        remote_deadline_s=loaded.remote_deadline_s,
        data=data,
        **parts["settle"],
    )


def shadows_of(done: completion.Completion, context: Context, bench: Workbench) -> Iterator[Shadow]:
    """Yield the shadow arms that a finished stage did not run, one item for each decision."""
    for item in done.result["shadows"]:
        state = State({name: Ref.parse(text) for name, text in item["refs"].items()})
        arms = tuple(item["arms"])
        yield Shadow(context, state, item["subtask"], item["problem"], arms, bench, item["since"])


def _changed(lake: Lake, found: completion.Completion, parts: Mapping[str, Any]) -> str:
    """Return why a finished stage must run again; empty if it need not."""
    if different := completion.differences(found.parts, parts):
        return different
    for text in found.result["refs"].values():
        try:
            lake.check(Ref.parse(text))
        except LakeError as error:
            return f"its product is gone ({error})"
    return ""


def _sweep(context: Context) -> None:
    """Delete the temporary folders of a killed attempt; checkpoints stay."""
    for folder in context.scratch.glob("tmp*"):
        shutil.rmtree(folder, ignore_errors=True)


def _plain(result: StageResult) -> dict[str, Any]:
    shadows = [
        {
            "subtask": s.subtask,
            "problem": s.problem,
            "arms": s.arms,
            "since": s.since,
            "refs": {k: str(r) for k, r in s.state.refs.items()},
        }
        for s in result.shadows
    ]
    return {f.name: getattr(result, f.name) for f in fields(result)} | {"shadows": shadows}


def _walk(context: Context, seen: Outline, bench: Workbench) -> StageResult:
    began_s, began = time.time(), time.monotonic()
    since = datetime.fromtimestamp(began_s, UTC).isoformat(timespec="microseconds")
    state = State()
    chosen: dict[str, dict[str, Any]] = {}
    shadows: list[Shadow] = []
    for item in seen.road:
        if f"{context.stage}/{item}" not in seen.arms:
            state = engine.submit(f"{context.stage}: {item}", steps.work, context, state, item).result()
            continue
        name = f"{context.stage}: decide {item}"
        decided = engine.submit(name, steps.decide, context, state, item, bench, since).result()
        state = decided.state
        if decided.decision is not None and decided.beside is not None:
            chosen[item] = asdict(decided.decision) | {"problem": decided.beside.problem}
            shadows.append(decided.beside)
    line = _on_a_worker(headline, context.stage, state)
    log.info("%s: %s", context.stage, line, extra={"stage": (context.stage, "done")})
    state = state.add(headline=line)
    return StageResult(
        stage=context.stage,
        status="done",
        began_s=began_s,
        wall_s=time.monotonic() - began,
        refs={name: str(ref) for name, ref in state.refs.items()},
        facts=dict(state.facts),
        decisions=chosen,
        shadows=tuple(shadows),
    )


class ShadowBudget:
    """CPU seconds for optional arms, as a share of those that the stages of a run have used so far.

    The share is granted stage by stage, so that the arms left out depend on the run and not on the workers' load.
    """

    def __init__(self, loaded: Settings, run_id: str) -> None:
        self._home, self._run_id = loaded.home, run_id
        self._granted_s = 0.0

    def grant(self, share: float) -> float:
        """Return the CPU seconds that the optional arms of the stage that just ended may use."""
        rows = open_evidence(self._home).read(run_id=self._run_id)
        used_s = sum(row.total.cpu_s for row in rows if row.arm == "stage" or row.chosen)
        granted_s = max(0.0, share * used_s - self._granted_s)
        self._granted_s += granted_s
        return granted_s


@dataclass
class Started:
    """Submitted shadow arms of one decision."""

    shadow: Shadow
    future: engine.Future[int]
    preferred: frozenset[str] = frozenset()  # addresses of workers


def start_shadows(shadows: Sequence[Shadow], budget: ShadowBudget) -> list[Started]:
    """Submit the shadow arms at low priority, to every worker but the first so that the stages never wait for them.

    A restarted worker has a new address, so every worker is allowed if the named ones are gone.
    """
    shadows = [shadow for shadow in shadows if shadow.arms]
    if shadows:
        allowance_s = budget.grant(shadows[0].bench.shadow_share) / len(shadows)
        shadows = [replace(shadow, allowance_s=allowance_s) for shadow in shadows]
    preferred = sorted(_workers())[1:]
    place = {"workers": preferred, "allow_other_workers": True} if preferred else {}
    with annotate(priority=-10, **place):
        return [Started(shadow, _beside(shadow), frozenset(preferred)) for shadow in shadows]


def _workers() -> Iterable[str]:
    """Return the addresses of the workers of the current cluster."""
    workers: Iterable[str] = distributed.get_client().scheduler_info(n_workers=-1)["workers"]
    return workers


def _beside(shadow: Shadow) -> engine.Future[int]:
    return engine.submit(f"{shadow.context.stage}: shadow {shadow.subtask}", steps.shadow, shadow)


def join(started: Iterable[Started]) -> None:
    """Wait for the shadow arms. Failures are recorded in their evidence and not raised here.

    If all workers are lost at once, Dask never reschedules a task that preferred one of them. Such a task is submitted
    again; arms with stored evidence are not run twice.
    """
    for item in started:
        while True:
            try:
                engine.outcome(item.future, LOOK_S)
                break
            except TimeoutError:
                if item.preferred and not engine.has_worker(item.future) and item.preferred.isdisjoint(_workers()):
                    log.warning("the workers of %s are gone; it is submitted again", item.shadow.subtask)
                    item.future, item.preferred = _beside(item.shadow), frozenset()


def _newest(lake: Lake, stage: str) -> dict[str, str]:
    """Return the newest products in the lake, for a stage that runs alone; the first one reads none."""
    found: dict[str, str] = {}
    if stage == STAGES[0]:
        return found
    for name in lake.names():
        if name.count("/") == 1:  # deeper names belong to the request log
            found[name] = str(lake.versions(name)[-1])
    if not found:
        raise BadInput(f"the lake at {lake.place} is empty; run the preceding stages first, or the whole lifecycle")
    return found

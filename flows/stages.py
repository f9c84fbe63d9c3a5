"""How every stage runs: prepare, decide each subtask, publish; done stages are not done again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from typing import Any, cast

import distributed
from dask.base import annotate

from flows.config import RunConfig, load_profile
from infra import completion, settings
from infra.compute import cluster
from infra.errors import BadInput
from infra.lake import Lake, Ref
from tasks import steps
from tasks.settle import Shadow, Workbench
from tasks.stage import Context, Stage, State

log = logging.getLogger("ketcycle.flows")

# What a stage's options take from the run's parameters.
FROM_RUN = {
    "curation": ("corpus", "second"),
    "preprocessing": ("model",),
    "architecture": ("model",),
    "training": ("model", "evaluate"),
}


@dataclass(frozen=True)
class StageResult:
    """What a stage flow leaves behind.

    Attributes:
        stage: the stage.
        status: `done`.
        reused: whether a completion record of this run stood already, so that nothing was done again.
        began_s: when it began, seconds since the epoch.
        wall_s: elapsed seconds of the stage's own road, shadows apart.
        refs: its products, name to lake reference.
        facts: figures for the report.
        decisions: why each arm was chosen, by subtask.
        shadows: arms still to be run beside, for the caller to join.
    """

    stage: str
    status: str
    began_s: float
    wall_s: float
    refs: dict[str, str]
    facts: dict[str, Any]
    decisions: dict[str, dict[str, Any]]
    reused: bool = False
    shadows: tuple[Shadow, ...] = field(default=())


def stage_module(name: str) -> Stage:
    """Return the module of a stage."""
    return cast("Stage", import_module(f"tasks.{name}.stage"))


def run_stage(name: str, config: RunConfig, inputs: Mapping[str, str] | None, *, join_shadows: bool) -> StageResult:
    """Run one stage on the current Dask cluster, or return what a finished run of it left."""
    config = config.named()
    loaded = settings.load()
    profile = load_profile(config.profile)
    options = dict(profile.get(name, {}))
    options |= {item: value for item in FROM_RUN.get(name, ()) if (value := getattr(config, item))}
    refs = {k: Ref.parse(v) for k, v in (_newest(Lake(loaded.home / "lake")) if inputs is None else inputs).items()}
    context = Context(config.run_id, name, loaded.home, config.seed, options, refs)
    module = stage_module(name)
    key = completion.digest(
        inputs={k: str(v) for k, v in refs.items()},
        options=options,
        settle=profile.get("settle", {}),
        seed=config.seed,
        method=config.method,
        backend=config.backend,
        arms={s.key: [(a.name, a.version) for a in s.arms] for s in module.SUBTASKS},
    )
    bench = Workbench(
        run_id=config.run_id,
        home=loaded.home,
        ledger=loaded.ledger,
        backend=config.backend,
        seed=config.seed,
        method=config.method,
        objective=config.objective,
        country=loaded.country,
        projection_device=loaded.projection_device,
        simulation_limit_s=loaded.simulation_limit_s,
        data=completion.digest(corpus=config.corpus, second=config.second),
        **profile.get("settle", {}),
    )
    found = completion.find(loaded.home, config.run_id, name)
    with cluster(loaded):
        if found and found[0] == key:
            log.info("%s: done already, nothing to do", name)
            result = _restored(found[1], context, bench)
        else:
            result = _walk(context, module, bench)
            completion.record(loaded.home, config.run_id, name, key, _plain(result))
        if join_shadows:
            join(start_shadows(result.shadows))
    return result


def _plain(result: StageResult) -> dict[str, Any]:
    shadows = [
        {"subtask": s.subtask, "arms": s.arms, "refs": {k: str(r) for k, r in s.state.refs.items()}}
        for s in result.shadows
    ]
    return {f.name: getattr(result, f.name) for f in fields(result)} | {"shadows": shadows}


def _restored(record: Mapping[str, Any], context: Context, bench: Workbench) -> StageResult:
    """Return a finished stage from its record, with the shadow arms that left no evidence yet."""
    rows = bench.evidence.read(run_id=context.run_id, stage=context.stage)
    seen = {(row.subtask, row.arm) for row in rows if row.status != "pending"}
    shadows = []
    for item in record["shadows"]:
        arms = tuple(arm for arm in item["arms"] if (item["subtask"], arm) not in seen)
        state = State({name: Ref.parse(text) for name, text in item["refs"].items()})
        shadows += [Shadow(context, state, item["subtask"], arms, bench)] if arms else []
    return StageResult(**{**record, "reused": True, "shadows": tuple(shadows)})


def _walk(context: Context, module: Stage, bench: Workbench) -> StageResult:
    began_s, began = time.time(), time.monotonic()
    state = steps.prepare.submit(context).result()
    decisions: dict[str, dict[str, Any]] = {}
    shadows: list[Shadow] = []
    for subtask in module.SUBTASKS:
        step = steps.decide.submit(context, state, subtask.name, bench).result()
        state = step.state
        if step.decision is not None:
            decisions[subtask.name] = asdict(step.decision)
        shadows.extend(step.shadows)
    state = steps.publish.submit(context, state).result()
    return StageResult(
        stage=context.stage,
        status="done",
        began_s=began_s,
        wall_s=time.monotonic() - began,
        refs={name: str(ref) for name, ref in state.refs.items()},
        facts=dict(state.facts),
        decisions=decisions,
        shadows=tuple(shadows),
    )


def start_shadows(shadows: Iterable[Shadow]) -> list[Any]:
    """Submit the shadow arms at low priority, to every worker but the first so that the stages never wait for them."""
    workers = sorted(distributed.get_client().scheduler_info(n_workers=-1)["workers"])
    place = {"workers": workers[1:], "allow_other_workers": False} if len(workers) > 1 else {}
    with annotate(priority=-10, **place):
        return [steps.shadow.submit(shadow) for shadow in shadows]


def join(futures: Iterable[Any]) -> None:
    """Wait for the shadow arms; each has recorded its own failure, so none is raised here."""
    for future in futures:
        future.result(raise_on_failure=False)


def _newest(lake: Lake) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in sorted(lake.root.glob("*/*")):
        versions = lake.versions(f"{folder.parent.name}/{folder.name}") if folder.is_dir() else []
        if versions and folder.parent.name != "completions":
            found[versions[-1].name] = str(versions[-1])
    if not found:
        raise BadInput(f"the lake at {lake.root} is empty; run the stages before first, or the whole lifecycle")
    return found

"""`ketcycle study`: all arms of one decision over its instance bank, as one resumable flow."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from flows.reports.study.cells import markdown
from flows.reports.study.page import write_study
from flows.study.bank import material_of
from flows.study.config import StudyConfig, arms_on, draw_instances, load_record, record_path
from flows.study.noisy import EXAMPLE, LIMIT_S, example_name, noisy_name, smallest_instances, without_noisy_row
from flows.study.table import build_study
from infra import completion, engine, settings
from infra.compute import cluster, task_runner
from infra.errors import StageFailed
from infra.lake import write_atomic
from infra.progress import forward_from_worker
from infra.runtime.backends.registry import canonical_name
from infra.settings import Settings
from infra.shared import open_evidence
from tasks.contract import Instance, Material, Method, content_key
from tasks.registry import find_subtask, modules_of
from tasks.settle import run_shadow
from tasks.workbench import Workbench

log = logging.getLogger("ketcycle.study")

LOOPED_S = 20.0  # seconds that each short arm is looped over all instances of a large study
Done = frozenset[tuple[str, str, int]]


def run_instance(
    subtask: str,
    instance: Instance[Any],
    arms: tuple[str, ...],
    repeats: int,
    done: Done,
    bench: Workbench,
) -> dict[str, Any]:
    """Pose one instance and run on it the arms that have not run yet."""
    forward_from_worker()
    found = find_subtask(subtask)
    bench = replace(bench, unit=instance.unit or instance.source)
    with _only_warnings():
        problem = instance.pose()
        key, executed = content_key(problem), 0
        for repetition in range(repeats):
            left = [arm for arm in arms if (key, arm, repetition) not in done]
            if left:
                executed += run_shadow(found, problem, left, replace(bench, repetition=repetition))
    about = {"source": instance.source, "name": instance.name, "size": found.size(problem)}
    return {"problem": key, "executed": executed, **about}


@contextmanager
def _only_warnings() -> Iterator[None]:
    """Log only warnings of the arms: the study logs one line for each instance."""
    logger = logging.getLogger("ketcycle")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@flow(name="study", flow_run_name="study-{config.study_id}", task_runner=task_runner(), log_prints=True)
def study(config: StudyConfig) -> dict[str, Any]:
    """Run the arms over the bank, append evidence, and write table and plots."""
    loaded = settings.load()
    began = time.monotonic()
    stored = load_record(loaded.home, config.study_id) or _new_record(config)
    record = stored | {"config": config.model_dump(mode="json")}  # a continued study may have other parameters
    material = material_of(config.subtask, loaded, config.corpus, config.second)
    record["sources"] = _about(material)
    instances = draw_instances(config, material)
    log.info(
        "%s: %d instances from %s", config.subtask, len(instances), ", ".join(sorted({i.source for i in instances}))
    )
    with cluster(loaded, modules_of((config.subtask,))):
        for result in _run_all(config, instances, _bench(config, loaded, len(instances))):
            known = {item["problem"] for item in record["instances"]}
            if result["problem"] not in known:
                record["instances"].append({k: result[k] for k in ("problem", "source", "name", "size")})
            _write(loaded.home, record)
        if config.noisy:
            _run_noisy(config, instances, record, _bench(config, loaded, len(instances)))
    record |= {"status": "done", "wall_s": record["wall_s"] + time.monotonic() - began}
    _write(loaded.home, record)
    open_evidence(loaded.home).compact()
    found = build_study(loaded, find_subtask(config.subtask), record)
    write_study(loaded.home / "studies" / config.study_id, found)
    engine.publish(markdown(found), key="ketcycle-study", description=f"Study {config.study_id}")
    return found


def _run_all(config: StudyConfig, instances: Sequence[Instance[Any]], bench: Workbench) -> Iterator[dict[str, Any]]:
    """Submit one task for each instance; yield the results in order, and log progress with the time left."""
    began = time.monotonic()
    rows = bench.evidence.read(run_id=config.study_id)
    done = frozenset((row.problem, row.arm, row.repetition) for row in rows if row.status == "done")
    if done:
        log.info("%d executions are recorded already and are not run again", len(done))
    labels = [f"{instance.source}: {instance.name}" for instance in instances]
    futures = [
        engine.submit(
            label, run_instance, config.subtask, instance, arms_on(config, number), config.repeats, done, bench
        )
        for number, (label, instance) in enumerate(zip(labels, instances, strict=True))
    ]
    failed = ""
    for number, (label, future) in enumerate(zip(labels, futures, strict=True), 1):
        result = engine.outcome(future)
        if not isinstance(result, dict):
            failed = f"{label}: {result}"
            log.error("%d/%d %s failed: %s", number, len(instances), label, result)
            continue
        left_s = (time.monotonic() - began) / number * (len(instances) - number)
        log.info(
            "%d/%d %s, %d executed, about %.0f s left", number, len(instances), label, result["executed"], left_s,
            extra={"bar": ("instances", number, len(instances))},
        )  # fmt: skip
        yield result
    if failed:
        raise StageFailed(f"{failed}; continue with: ketcycle study {config.subtask} --resume {config.study_id}")


def _run_noisy(
    config: StudyConfig, instances: Sequence[Instance[Any]], record: Mapping[str, Any], bench: Workbench
) -> None:
    """Run each quantum arm on its smallest instance with circuits, with noise; a failure is recorded as a row."""
    rows = [row for row in bench.evidence.read(run_id=config.study_id) if row.backend == config.backend]
    chosen = smallest_instances(rows, find_subtask(config.subtask), config.noisy_sizes)
    noisy = replace(
        bench,
        run_id=noisy_name(config.study_id),
        backend=canonical_name(config.noisy),
        simulation_limit_s=min(LIMIT_S, bench.simulation_limit_s),
    )
    known = noisy.evidence.read(run_id=noisy.run_id, backend=noisy.backend)
    done = frozenset((row.problem, row.arm, row.repetition) for row in known if row.status == "done")
    names = {(item["source"], item["name"]): item["problem"] for item in record["instances"]}
    for instance in instances:
        arms = tuple(chosen.get(names.get((instance.source, instance.name), ""), ()))
        if arms:
            log.info("%s on %s: %s %s", ", ".join(arms), noisy.backend, instance.source, instance.name)
            name = f"noisy: {instance.name}"
            engine.submit(name, run_instance, config.subtask, instance, arms, 1, done, noisy).result()
    left = without_noisy_row(noisy.evidence.read(run_id=noisy.run_id, backend=noisy.backend))
    if left:
        log.info("%s on %s: the example of the decision", ", ".join(left), noisy.backend)
        ideal = replace(noisy, run_id=example_name(config.study_id), backend=bench.backend)
        for there in (ideal, noisy):
            example, of = _example(config), replace(there, data=EXAMPLE)
            engine.submit("noisy: example", run_instance, config.subtask, example, tuple(left), 1, done, of).result()


def _example(config: StudyConfig) -> Instance[Any]:
    subtask = find_subtask(config.subtask)
    return Instance(EXAMPLE, EXAMPLE, 0, partial(subtask.example, np.random.default_rng([config.seed, 7])))


def _bench(config: StudyConfig, loaded: Settings, instances: int) -> Workbench:
    """Return the workbench; a short arm is looped to 1 s on each instance, or to 20 s over all instances."""
    return Workbench(
        run_id=config.study_id,
        home=loaded.home,
        ledger=loaded.ledger,
        backend=config.backend,
        seed=config.seed,
        method=Method.SHADOW,
        objective=config.objective,
        projection_device=loaded.projection_device,
        simulation_limit_s=loaded.simulation_limit_s,
        minimum_s=min(1.0, LOOPED_S / instances),
        probe=True,
        data=completion.digest(corpus=config.corpus, second=config.second),
    )


def _new_record(config: StudyConfig) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json"), "status": "running", "wall_s": 0.0, "instances": []}


def _about(material: Material) -> dict[str, dict[str, Any]]:
    """Return how many texts each source has and their digest: docstrings depend on the installed versions."""
    about = {}
    for name, texts in sorted(material.texts.items()):
        digest = hashlib.sha256()
        for text in texts:
            digest.update(text.encode("utf-8", "surrogatepass"))
        about[name] = {"texts": len(texts), "sha256": digest.hexdigest()[:16]}
    return about


def _write(home: Path, record: Mapping[str, Any]) -> None:
    write_atomic(record_path(home, record["config"]["study_id"]), json.dumps(record, indent=1))

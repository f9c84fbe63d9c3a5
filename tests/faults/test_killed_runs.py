"""Runs killed with SIGKILL: five once each, one twenty times; continued, each ends as one that nobody killed.

What is killed is everything at once: the run, its Dask workers, the model server. Moments are
drawn by progress line, not by the clock, so that a slow machine is killed in the same places.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from infra.evidence import Evidence
from infra.runtime.figures.inspect import list_calls
from infra.tracking import Tracking
from tasks.contract import STAGES

pytestmark = [pytest.mark.faults, pytest.mark.timeout(5400)]

ROOT = Path(__file__).parents[2]
RUN = "k1"
MOMENTS, ONCE = 20, 5
LONGEST_DELAY_S = 0.7
LONGEST_STEP_S = 3.0


@dataclass(frozen=True)
class Reference:
    """A run that nobody killed."""

    lines: list[str]
    left: dict[str, Any]


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", *arguments, "--home", str(home), "--verbose"],
        cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def progress(process: subprocess.Popen[str]) -> list[str]:
    """Read the progress lines until the process ends."""
    assert process.stderr is not None
    lines = [line.rstrip() for line in process.stderr]
    assert process.wait() == 0, "\n".join(lines[-40:])
    return lines


def kill_all(process: subprocess.Popen[str]) -> None:
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGSTOP)  # nobody cleans up after another one
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=10)


def what_is_left(home: Path) -> dict[str, Any]:
    """Return all of a run that must not depend on whether it was killed."""
    report = json.loads((home / "runs" / RUN / "report.json").read_text())
    subtasks = [(stage["stage"], subtask) for stage in report["stages"] for subtask in stage["subtasks"]]
    tracking = Tracking(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")
    runs = tracking._client.search_runs([tracking._experiment])
    versions = tracking._client.search_model_versions("")
    calls = list_calls(f"sqlite:///{home}/ledger.db", run=RUN, limit=10_000)
    events = re.findall(r"event (ketcycle\.drift\.\S+ on \S+)", (home / "runs" / RUN / "log.txt").read_text())
    return {
        "stages": {stage["stage"]: stage["status"] for stage in report["stages"]},
        "refs": {stage["stage"]: stage["refs"] for stage in report["stages"]},
        "decisions": {f"{stage}/{s['name']}": (s["chosen"], s["rule"], s["reason"]) for stage, s in subtasks},
        "arms": {
            f"{stage}/{s['name']}/{row['arm']}": [row[k] for k in ("status", "quality", "n", "circuits", "shots")]
            for stage, s in subtasks
            for row in s["rows"]
        },
        "calls": Counter(f"{c['stage']}/{c['subtask']}/{c['arm']} {c['ordinal']} {c['state']}" for c in calls),
        "mlflow": Counter((r.data.tags["ketcycle_stage"], r.info.status) for r in runs),
        "registered": [int(version.version) for version in versions],
        "drift": sorted(set(events)),
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    home = tmp_path_factory.mktemp("reference")
    lines = progress(start(home, "--profile", "smoke", "--run", RUN))
    left = what_is_left(home)
    assert set(left["stages"]) == set(STAGES)
    return Reference(lines, left)


@pytest.mark.parametrize("moment", range(ONCE))
def test_a_run_killed_at_any_moment_ends_as_one_that_nobody_killed(
    moment: int, reference: Reference, tmp_path: Path
) -> None:
    rng = np.random.default_rng(moment)
    first = next(i for i, line in enumerate(reference.lines) if "curation: prepare" in line)
    last = next(i for i, line in enumerate(reference.lines) if "run.finished" in line) - 1
    after = first + round((moment + rng.random()) / ONCE * (last - first))
    delay_s = rng.random() * LONGEST_DELAY_S

    began, begun = time.monotonic(), start(tmp_path, "--profile", "smoke", "--run", RUN)
    assert begun.stderr is not None
    seen = [begun.stderr.readline().rstrip() for _ in range(after + 1)]
    time.sleep(delay_s)
    kill_all(begun)
    killed_s = time.monotonic() - began

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    since, began = datetime.now(UTC).isoformat(timespec="microseconds"), time.monotonic()
    lines = progress(start(tmp_path, "--resume", RUN))
    resumed_s = time.monotonic() - began
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    booked = sum(r.total.cpu_s for r in Evidence(tmp_path / "evidence").read(run_id=RUN) if r.created_at >= since)

    reused = sum("already complete" in line for line in lines)
    left = what_is_left(tmp_path)
    different = [name for name in left if left[name] != reference.left[name]]
    print(
        f"| {moment} | {killed_s:.1f} | {seen[-1][9:69]} + {delay_s:.2f} s | {reused} | {resumed_s:.1f} "
        f"| {booked / cpu_s:.3f} | {', '.join(different) or 'equal'} |",
        flush=True,
    )
    for name in left:
        assert left[name] == reference.left[name], name
    assert booked == pytest.approx(cpu_s, rel=0.05)


PHASE = re.compile(rf"({'|'.join(STAGES)}): (prepare|pose|apply|publish)")


def phases(lines: list[str]) -> list[str]:
    """Return the beginnings of a run's steps in their order, each once."""
    return list(dict.fromkeys(line[9:].strip() for line in lines if PHASE.search(line)))


def test_one_run_killed_twenty_times_ends_as_one_that_nobody_killed(reference: Reference, tmp_path: Path) -> None:
    rng = np.random.default_rng(20)
    steps = phases(reference.lines)
    moments = [steps[i] for i in sorted(rng.choice(len(steps), MOMENTS, replace=False))]
    arguments = ["--profile", "smoke", "--run", RUN]
    for number, moment in enumerate(moments, 1):
        run, began, reused, seen = start(tmp_path, *arguments), time.monotonic(), 0, ""
        assert run.stderr is not None
        for line in run.stderr:
            seen = line[9:].strip()
            reused += "already complete" in seen
            if seen in (moment, f"{moment.partition(':')[0]}: already complete, nothing to do"):
                break
        else:
            assert run.wait() == 0, "it ended before it came there, which is well only at its end"
            break
        delay_s = LONGEST_STEP_S * rng.random()
        time.sleep(delay_s)
        kill_all(run)
        print(f"| {number} | {seen} + {delay_s:.1f} s | {reused} | {time.monotonic() - began:.1f} |", flush=True)
        arguments = ["--resume", RUN]
    else:
        progress(start(tmp_path, "--resume", RUN))
    left = what_is_left(tmp_path)
    for name in left:
        assert left[name] == reference.left[name], name


def test_killing_only_the_run_takes_its_children_along(tmp_path: Path) -> None:
    begun = start(tmp_path, "--profile", "smoke", "--run", RUN)
    assert begun.stderr is not None
    for line in begun.stderr:
        if "semantic_clusters" in line:
            break
    children = psutil.Process(begun.pid).children(recursive=True)
    assert len(children) > 2
    begun.kill()
    begun.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []

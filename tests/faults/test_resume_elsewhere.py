"""A run whose machine is lost in the middle of a training goes on on another machine, from the last checkpoint.

Each machine is a home and a work folder of its own; what they share is the object store.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RUN = "moves"
STAGES = "curation,preprocessing,architecture,training"
STARTED = ("run", "--run", RUN, "--profile", "smoke", "--method", "classical", "--stages", STAGES)
LONG = ("--set", "training.tokens=120000", "--set", "training.checkpoint_every=5")


def start(home: Path, bucket: str, *arguments: str) -> subprocess.Popen[str]:
    home.mkdir(parents=True, exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments, "--verbose", "--home", str(home)],
        cwd=home, env={**kept, "KETCYCLE_LAKE_URL": bucket, "PYTHONPATH": str(ROOT), "KETCYCLE_WORKERS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_training_is_continued_on_another_machine(bucket: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    begun = start(first, bucket, *STARTED, *LONG)
    seen: list[str] = []
    assert begun.stderr is not None
    for line in begun.stderr:
        seen.append(line.rstrip())
        step = re.search(r"step (\d+)/\d+: loss", line)
        if step and int(step[1]) >= 12:
            break
    else:
        raise AssertionError("\n".join(seen[-30:]))
    family = [psutil.Process(begun.pid), *psutil.Process(begun.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGSTOP)
    for member in family:
        member.kill()
    begun.wait()
    first.rename(tmp_path / "lost")

    resumed = start(second, bucket, "run", "--resume", RUN)
    assert resumed.stderr is not None
    said = resumed.stderr.read()
    assert resumed.wait() == 0, said[-3000:]
    assert "reused: curation, preprocessing, architecture" in said
    assert int(re.findall(r"resuming at step (\d+)", said)[0]) >= 5, "from the store"
    report = json.loads((second / "runs" / RUN / "report.json").read_text())
    assert [stage["status"] for stage in report["stages"]] == ["done"] * 4

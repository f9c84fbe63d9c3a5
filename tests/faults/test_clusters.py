"""Workers that a batch system starts: our Slurm script and dask-jobqueue, with a stand-in for `sbatch`.

It runs the jobs here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import distributed
import pytest

from infra import compute, settings

pytestmark = [pytest.mark.faults, pytest.mark.engine, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
SBATCH = """#!/bin/bash
# Runs each task of an array job as a process, with the variables that Slurm sets.
for argument in "$@"; do
  case $argument in
    --array=1-*) last=${argument#--array=1-} ;;
    --cpus-per-task=*) export SLURM_CPUS_PER_TASK=${argument#--cpus-per-task=} ;;
    *) script=$argument ;;
  esac
done
for task in $(seq "${last:-1}"); do
  export SLURM_ARRAY_TASK_ID=$task
  KETCYCLE_HOME="$KETCYCLE_HOME-$task" setsid bash "$script" > "$KETCYCLE_HOME-$task.log" 2>&1 &
  echo $! >> "$JOBS"
done
echo "Submitted batch job 1"
"""


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "flows.cli", "up", "--role", "scheduler", "--home", str(tmp_path / "first")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--address", "127.0.0.1", "--dask-port", "0"]
    with (tmp_path / "said.log").open("wb") as output:
        process = subprocess.Popen([*command, *options], env=environment, cwd=tmp_path, stderr=output)
    try:
        address = None
        while address is None:
            address = re.search(r'dask_address = "(tcp://[^"]+)"', (tmp_path / "said.log").read_text())
            assert process.poll() is None
            time.sleep(0.3)
        yield address[1]
    finally:
        process.terminate()
        process.wait(60)


def test_jobs_of_a_batch_system_are_workers_of_the_cluster(scheduler: str, tmp_path: Path) -> None:
    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    ketcycle = f'#!/bin/bash\nexec {sys.executable} -m flows.cli "$@"\n'
    (programs / "ketcycle").write_text(ketcycle)
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "JOBS": str(jobs),
        "KETCYCLE_HOME": str(tmp_path / "node"), "KETCYCLE_DASK_ADDRESS": scheduler,
        "KETCYCLE_WORKER_ADDRESS": "127.0.0.1",
    }  # fmt: skip
    script = ROOT / "deployments" / "clusters" / "slurm.sh"
    command = ["sbatch", "--array=1-2", "--cpus-per-task=1", str(script)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "Submitted batch job" in done.stdout, done.stderr
    try:
        loaded = settings.load(home=tmp_path / "client", dask_address=scheduler)
        with compute.cluster(loaded):
            client = distributed.get_client()
            client.wait_for_workers(2, timeout=600)
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
    finally:
        for pid in jobs.read_text().split():
            os.killpg(int(pid), signal.SIGTERM)


JOBQUEUE_SBATCH = """#!/bin/bash
script=$(mktemp "$JOBS.XXXX")
cp "$1" "$script"  # Slurm keeps its own copy, too
setsid bash "$script" > "$script.log" 2>&1 &
echo "Submitted batch job $!"
"""


def test_the_documented_cluster_of_dask_jobqueue_is_used_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    from infra.installation import doctor

    programs, jobs = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    jobs.touch()
    for name, program in {"sbatch": JOBQUEUE_SBATCH, "scancel": '#!/bin/bash\nkill -TERM -- "-$1"\n'}.items():
        (programs / name).write_text(program)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JOBS", str(jobs))
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "operations.md").read_text()
    (line,) = re.findall(r"^cluster = (SLURMCluster\(.*\))$", page, re.MULTILINE)
    local = {"interface": "lo", "scheduler_options": {"dashboard_address": "127.0.0.1:0"}}
    make = {"SLURMCluster": lambda **given: jobqueue.SLURMCluster(**given, **local)}
    with eval(line, make) as cluster:  # noqa: S307  (what the page says)
        cluster.scale(jobs=1)
        loaded = settings.load(home=tmp_path / "home", dask_address=cluster.scheduler_address)
        with compute.cluster(loaded):
            client = distributed.get_client()
            client.wait_for_workers(1, timeout=300)
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
        (found,) = [item for item in doctor.examine(loaded) if item.about == "Dask workers"]
        assert (found.level, found.found) == ("ok", "1, with the versions and stores of this machine")

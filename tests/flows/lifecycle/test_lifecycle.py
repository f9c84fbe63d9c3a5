"""The whole lifecycle as a user runs it: killed in the middle of training, continued, reported.

Then continued once more with another seed, while its Dask workers die.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.evidence import Evidence
from infra.lake import Lake, Ref
from infra.runtime.figures.inspect import list_calls
from infra.tracking import Tracking
from tasks.contract import STAGES

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
RUN = "k1"


@dataclass(frozen=True)
class Finished:
    """A run that was killed and continued."""

    home: Path
    report: dict[str, Any]
    cpu_s: float
    resumed_at: str
    progress: str


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}


def tracking_of(home: Path) -> Tracking:
    return Tracking(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("home")
    begun = subprocess.Popen(
        command("run", "--profile", "smoke", "--run", RUN, "--home", str(home)),
        cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoints = home / "lake" / "training" / "checkpoints"
    give_up = time.monotonic() + 400
    while not any(checkpoints.glob("*/*/*.json")):  # the manifest, which is put last
        assert begun.poll() is None, "the run ended before it reached a checkpoint"
        assert time.monotonic() < give_up, "no checkpoint in time"
        time.sleep(0.05)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    assert not (home / "runs" / RUN / "report.json").exists()
    before, resumed_at = children_cpu_s(), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    done = subprocess.run(
        command("run", "--resume", RUN, "--home", str(home), "--json", "--verbose"),
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Finished(home, json.loads(done.stdout), children_cpu_s() - before, resumed_at, done.stderr)


def subtask(report: dict[str, Any], stage: str, name: str) -> dict[str, Any]:
    [found] = [
        s for entry in report["stages"] if entry["stage"] == stage for s in entry["subtasks"] if s["name"] == name
    ]
    return dict(found)


def test_all_seven_stages_are_done_and_none_of_them_twice(finished: Finished) -> None:
    stages = {entry["stage"]: entry for entry in finished.report["stages"]}
    assert tuple(stages) == STAGES
    assert {entry["status"] for entry in stages.values()} == {"done"}
    assert [name for name, entry in stages.items() if entry["reused"]] == ["curation", "preprocessing", "architecture"]


def test_memory_stays_within_four_gibibytes(finished: Finished) -> None:
    assert 500 < finished.report["peak_mb"] < 4096


def test_training_goes_on_at_its_checkpoint(finished: Finished) -> None:
    assert "resuming at step" in finished.progress


@pytest.mark.parametrize(
    ("stage", "name", "kinds"),
    [
        ("curation", "representatives", {"control", "classical", "quantum"}),
        ("curation", "semantic_clusters", {"control", "classical", "quantum", "twin"}),
        ("inference", "pruning", {"control", "classical", "quantum"}),
        ("monitoring", "drift", {"control", "classical", "quantum", "twin"}),
    ],
)
def test_each_decision_has_its_opponents(finished: Finished, stage: str, name: str, kinds: set[str]) -> None:
    found = subtask(finished.report, stage, name)
    rows = found["rows"]
    assert kinds <= {row["kind"] for row in rows}
    assert {row["status"] for row in rows} <= {"done", "skipped"}, [(row["arm"], row["reason"]) for row in rows]
    assert found["chosen"] == next(row["arm"] for row in rows if row["role"] == "incumbent")
    quantum = next(row for row in rows if row["role"] == "challenger")
    if name == "representatives":  # the exact reductions leave no component of this corpus for a circuit
        assert quantum["circuits"] == 0
        return
    assert quantum["circuits"] > 0
    assert quantum["qpu_s_billed"] == 0
    assert quantum["qpu_s_projected"] > 0
    assert quantum["energy"]["qpu"]["projected"] is True
    assert quantum["energy"]["simulation"]["narrow"][1] < quantum["energy"]["qpu"]["narrow"][1]
    for row in (row for row in rows if row["status"] == "done"):
        low, median, high = row["energy"]["spent"]["narrow"]
        assert 0 <= low <= median <= high
        assert row["energy"]["spent"]["wide"][1] >= median


def test_what_is_booked_is_what_the_processes_used(finished: Finished) -> None:
    """Rows + orchestration of the continued part are the CPU time of its process tree, seen from outside."""
    rows = Evidence(finished.home / "evidence").read(run_id=RUN)
    booked = sum(row.total.cpu_s for row in rows if row.created_at >= finished.resumed_at)
    assert booked == pytest.approx(finished.cpu_s, rel=0.05)
    orchestration = [row.total.cpu_s for row in rows if row.arm == "orchestration"]
    assert all(value > 0 for value in orchestration)


def test_drift_is_seen_only_where_there_is_drift(finished: Finished) -> None:
    monitoring = next(entry for entry in finished.report["stages"] if entry["stage"] == "monitoring")
    found = subtask(finished.report, "monitoring", "drift")
    incumbent = next(row for row in found["rows"] if row["role"] == "incumbent")
    assert incumbent["quality"] == 1.0
    assert monitoring["facts"]["states"][-1] == "alert"


def test_the_products_are_in_the_lake(finished: Finished) -> None:
    lake = Lake(finished.home / "lake")
    refs = {name: ref for entry in finished.report["stages"] for name, ref in entry["refs"].items()}
    assert {"curation/kept", "preprocessing/shards", "training/model", "finetuning/model", "inference/model"} <= set(
        refs
    )
    for ref in refs.values():
        assert all(path.exists() for path in lake.files(Ref.parse(ref)))


def test_every_circuit_went_through_the_ledger(finished: Finished) -> None:
    calls = list_calls(f"sqlite:///{finished.home}/ledger.db", run=RUN, limit=1000)
    assert {call["state"] for call in calls} == {"DONE"}
    stages = {call["stage"] for call in calls}
    assert stages == {"curation", "preprocessing", "finetuning", "inference", "monitoring"}


def test_the_report_is_there_for_people_and_for_mlflow(finished: Finished) -> None:
    folder = finished.home / "runs" / RUN
    assert json.loads((folder / "report.json").read_text())["run_id"] == RUN
    text = (folder / "report.md").read_text()
    assert "## Three energies" in text
    assert "representatives" in text
    shown = subprocess.run(
        command("report", RUN, "--home", str(finished.home)), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "What each decision chose" in shown.stdout
    tracking = tracking_of(finished.home)
    parent = tracking.find(RUN)
    assert parent is not None
    metrics = tracking._client.get_run(parent).data.metrics
    assert {"quality/pruning/greedy", "energy_j/drift/quantum-kernel", "circuits/representatives/qaoa"} <= set(metrics)
    assert all(tracking.find(RUN, stage) for stage in STAGES)


def test_the_first_model_is_champion(finished: Finished) -> None:
    gate = finished.report["gate"]
    assert (gate["version"], gate["against"], gate["passed"]) == (1, None, True)
    assert "champion of ketcycle: none -> version 1" in gate["then"]
    assert tracking_of(finished.home).pointed_at("ketcycle", "champion") is not None
    assert f"gate: {gate['said']}" in (finished.home / "runs" / RUN / "report.md").read_text()


def test_a_run_that_exists_is_not_overwritten(finished: Finished) -> None:
    done = subprocess.run(
        command("run", "--run", RUN, "--home", str(finished.home)), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--resume" in done.stderr


def test_no_server_was_started_and_the_log_has_the_events(finished: Finished) -> None:
    assert not (finished.home / "prefect" / "prefect.db").exists()
    assert "without a Prefect server" in finished.progress
    text = (finished.home / "runs" / RUN / "log.txt").read_text()
    assert text.count("event ketcycle.drift.detected on ") == 1


@dataclass(frozen=True)
class Continued:
    """The same run after its continuation with another seed, curation only, while a Prefect server answers."""

    home: Path
    prefect_url: str
    before: Counter[tuple[Any, ...]]
    products: dict[str, str]
    progress: str


def calls_of(home: Path) -> Counter[tuple[Any, ...]]:
    calls = list_calls(f"sqlite:///{home}/ledger.db", run=RUN, limit=1000)
    assert {call["state"] for call in calls} == {"DONE"}
    return Counter((call["stage"], call["subtask"], call["arm"], call["ordinal"]) for call in calls)


def kill_workers(run: int) -> None:
    """The workers are copies of a process that the run started."""
    for child in psutil.Process(run).children():
        if "forkserver" in " ".join(child.cmdline()):
            for worker in child.children():
                worker.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def continued(finished: Finished, prefect_server: str) -> Continued:
    before = calls_of(finished.home)
    products = json.loads((finished.home / "runs" / RUN / "run.json").read_text())["stages"]["curation"]["refs"]
    begun = subprocess.Popen(
        command("run", "--resume", RUN, "--seed=1", "--stages=curation", "--home", str(finished.home), "--verbose"),
        cwd=ROOT, env=environment() | {"PREFECT_API_URL": prefect_server}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert begun.stderr is not None
    lines, killed = [], False
    for line in begun.stderr:
        lines.append(line)
        if not killed and "pose representatives again" in line:
            kill_workers(begun.pid)
            killed = True
    progress = "".join(lines)
    assert killed
    assert begun.wait() == 0, progress[-3000:]
    return Continued(finished.home, prefect_server, before, products, progress)


def test_a_server_that_answers_shows_the_run_its_stage_its_tasks_and_its_event(continued: Continued) -> None:
    def ask(path: str, **filters: Any) -> Any:
        return httpx.post(f"{continued.prefect_url}/{path}", json=filters, timeout=30).json()

    flows = {run["name"]: run for run in ask("flow_runs/filter", flow_runs={"name": {"like_": f" {RUN}"}})}
    assert {name: run["state_type"] for name, run in flows.items()} == {
        f"lifecycle {RUN}": "COMPLETED", f"curation {RUN}": "COMPLETED",
    }  # fmt: skip

    def tasks(name: str) -> set[str]:
        found = ask("task_runs/filter", flow_runs={"id": {"any_": [flows[name]["id"]]}})
        return {run["name"] for run in found}

    assert {"curation: prepare", "curation: decide representatives"} <= tasks(f"curation {RUN}")
    assert "curation: shadow semantic_clusters" in tasks(f"lifecycle {RUN}")
    artifacts = {item["key"] for item in ask("artifacts/filter")}
    assert {"ketcycle-report", "ketcycle-queue"} <= artifacts

    def told() -> list[str]:
        found = ask("events/filter", filter={"event": {"name": ["ketcycle.run.finished"]}})["events"]
        return [event["payload"]["status"] for event in found]

    give_up = time.monotonic() + 60
    while not told() and time.monotonic() < give_up:  # the server stores events in batches
        time.sleep(0.3)
    assert told() == ["done"]


def test_other_parameters_do_again_what_they_change_and_say_so(continued: Continued) -> None:
    assert "curation: seed changed (0 -> 1): runs again" in continued.progress
    assert "reused: none; run again: curation: seed changed (0 -> 1)" in continued.progress
    run = json.loads((continued.home / "runs" / RUN / "run.json").read_text())
    assert run["status"] == "done"
    assert tuple(run["stages"]) == STAGES, "a stage that is not run now stays in the record"
    assert run["stages"]["curation"]["reason"] == "seed changed (0 -> 1)"
    assert run["stages"]["curation"]["refs"] == continued.products, "the incumbents of this stage need no luck"


def test_a_run_survives_its_workers_and_pays_nothing_twice(continued: Continued) -> None:
    again = Counter({call: 1 for call in continued.before if call[0] == "curation"})
    assert set(continued.before.values()) == {1}
    assert calls_of(continued.home) == continued.before + again, "another seed asks anew, once"
    report = json.loads((continued.home / "runs" / RUN / "report.json").read_text())
    rows = [row for stage in report["stages"] for subtask in stage["subtasks"] for row in subtask["rows"]]
    assert [(row["arm"], row["reason"]) for row in rows if row["status"] not in ("done", "skipped")] == []
    assert all("shadow budget" in row["reason"] for row in rows if row["status"] == "skipped")


def test_a_continued_run_is_one_run_in_mlflow(continued: Continued) -> None:
    tracking = tracking_of(continued.home)
    runs = tracking._client.search_runs([tracking._experiment])
    assert sorted(run.info.run_name for run in runs) == sorted((RUN, *STAGES)), "no run twice"
    assert {run.info.status for run in runs} == {"FINISHED"}
    params = {run.info.run_name: run.data.params for run in runs}
    assert params[RUN]["seed"] == "1"
    assert params["preprocessing"]["vocab_size"] == "1024"

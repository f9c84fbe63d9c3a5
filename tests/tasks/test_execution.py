"""Decisions whose arms are short trainings: artifacts, budgets, checkpoints, other workers, the shadow budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import pytest
import short_training
from short_training import TRAINING, Regression, example

from infra.energy.usage import Usage
from infra.evidence import EvidenceRow
from infra.lake import Ref
from infra.shared import open_lake
from tasks import execution
from tasks.contract import Arm, Artifact, Bench, Budget, Kind, Method, OverBudget, content_key
from tasks.execution import resume_folder
from tasks.parallel import map_on_free_workers
from tasks.settle import run_shadow, settle
from tasks.workbench import Workbench

HERE = Path(__file__).parent


def bench(home: Path, method: Method = Method.CLASSICAL) -> Workbench:
    return Workbench("r", home, str(home / "ledger.db"), method=method, minimum_s=0.0, data="d")


def rows(home: Path) -> dict[str, EvidenceRow]:
    return {row.arm: row for row in bench(home).evidence.read()}


@pytest.fixture
def problem() -> Regression:
    return example(np.random.default_rng(0))


def test_a_chosen_artifact_goes_into_the_lake_and_the_others_are_removed(tmp_path: Path, problem: Regression) -> None:
    outcome, left = settle(TRAINING, problem, bench(tmp_path, Method.SHADOW))
    assert left == ("untrained", "slow")
    [stored] = [ref for ref in open_lake(tmp_path).versions("training/short_training_solution") if isinstance(ref, Ref)]
    assert outcome.solution.folder == open_lake(tmp_path).folder(stored)
    assert outcome.solution.digest == content_key(outcome.solution.folder)
    assert TRAINING.quality(problem, outcome.solution)[0] > -1e-3
    assert run_shadow(TRAINING, problem, left, bench(tmp_path)) == 2
    found = rows(tmp_path)
    assert [found[arm].status for arm in ("steady", "untrained", "slow")] == ["done"] * 3
    assert found["steady"].qualities[0] > found["slow"].qualities[0] > found["untrained"].qualities[0]
    assert not list((tmp_path / "scratch").rglob("model")), "scored and applied, so removed"


def test_what_arms_share_never_costs_less_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may work longer beside a shared value, for another call, than the value takes."""
    spent = iter((Usage(), Usage(cpu_s=5.0, wall_s=9.0, rss_gb_s=9.0)))
    monkeypatch.setattr("tasks.execution.dispatched_usage", lambda: next(spent))
    _, cost, new = execution._Shared().get("value", lambda: 1, Usage)
    assert new
    assert (cost.cpu_s, cost.wall_s, cost.rss_gb_s) == (0, 0, 0)


def test_equal_artifacts_are_the_same_solution_wherever_they_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.json").write_text("[1.0]")
    a, b = (Artifact.of(tmp_path / name) for name in ("a", "b"))
    assert a == b
    assert content_key(a) == content_key(b)
    (tmp_path / "b" / "weights.json").write_text("[2.0]")
    assert Artifact.of(tmp_path / "b") != a


def test_a_killed_arm_goes_on_at_its_checkpoint_and_its_first_attempt_is_charged(
    tmp_path: Path, problem: Regression
) -> None:
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import short_training as s, pathlib; "
    code += f"s.solve_once(pathlib.Path({str(tmp_path)!r}), 0.1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    slow = replace(problem, pause_s=0.1)
    folder = resume_folder(bench(tmp_path), TRAINING, content_key(slow)) / "steady-1-0"
    deadline = time.monotonic() + 120
    while not ((folder / "spent.json").exists() and (folder / "checkpoint.npz").exists()):
        assert process.poll() is None, "the arm ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert rows(tmp_path) == {}
    reached = int(np.load(folder / "checkpoint.npz")["step"])
    assert 0 < reached < short_training.STEPS
    outcome, _ = settle(TRAINING, slow, bench(tmp_path))
    whole, _ = settle(TRAINING, problem, bench(tmp_path / "other"))
    assert outcome.solution == whole.solution, "the same weights as without the kill"
    [resumed] = (tmp_path / "scratch").glob("resumed-at-*")
    assert int(resumed.name.removeprefix("resumed-at-")) >= reached
    row = rows(tmp_path)["steady"]
    assert row.usage.cpu_s > row.total.cpu_s, "the solution is charged for the attempt that was killed"


@pytest.mark.parametrize(
    ("budget", "limit"), [(Budget(tokens=600), "tokens 660 of 600"), (Budget(cpu_s=1e-6), "cpu_s")]
)
def test_an_arm_over_its_budget_is_stopped_and_its_row_says_so(
    tmp_path: Path, problem: Regression, budget: Budget, limit: str
) -> None:
    with pytest.raises(OverBudget, match=limit):
        settle(TRAINING, replace(problem, budget=budget), bench(tmp_path))
    row = rows(tmp_path)["steady"]
    assert row.status == "stopped"
    assert limit in row.reason
    assert row.qualities == ()


def test_an_arm_that_never_reports_what_it_uses_is_stopped_all_the_same(tmp_path: Path, problem: Regression) -> None:
    def endless(_problem: Regression, _bench: Bench) -> Artifact:
        while True:
            sum(range(1000))

    subtask = replace(TRAINING, incumbent=Arm("endless", Kind.CLASSICAL, endless))
    with pytest.raises(OverBudget, match=r"cpu_s .* of 0.3"):
        settle(subtask, replace(problem, budget=Budget(cpu_s=0.3)), bench(tmp_path))
    assert rows(tmp_path)["endless"].status == "stopped"


def test_the_quantum_method_of_a_decision_without_a_quantum_arm_is_the_incumbent(
    tmp_path: Path, problem: Regression
) -> None:
    outcome, _ = settle(TRAINING, problem, bench(tmp_path, Method.QUANTUM))
    assert outcome.decision.arm == "steady"
    assert "no form of this decision runs on a quantum device" in outcome.decision.reason


def test_optional_arms_stop_at_the_shadow_budget_the_least_known_first(tmp_path: Path, problem: Regression) -> None:
    known, new = (Arm(name, Kind.CLASSICAL, short_training.slow) for name in ("known", "new"))
    subtask = replace(TRAINING, others=(*TRAINING.others, known, new))
    run_shadow(subtask, problem, ["known"], bench(tmp_path))
    left = ["untrained", "known", "new"]
    assert run_shadow(subtask, problem, left, replace(bench(tmp_path), run_id="r2"), allowance_s=1e-9) == 2
    found = {row.arm: row for row in bench(tmp_path).evidence.read(run_id="r2")}
    assert [found[arm].status for arm in left] == ["done", "skipped", "done"]
    assert "shadow budget is used up" in found["known"].reason


def square(number: int) -> tuple[int, int]:
    sum(range(200_000))
    return number * number, os.getpid()


def apart(numbers: list[int]) -> tuple[list[tuple[int, int]], float]:
    found, used = map_on_free_workers(square, numbers)
    return found, used.cpu_s


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as made,  # type: ignore[no-untyped-call]
        distributed.Client(made) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@pytest.mark.engine
def test_a_map_runs_on_the_free_worker_and_is_charged(cluster: distributed.Client) -> None:
    found, cpu_s = cluster.submit(apart, list(range(6)), pure=False).result()  # type: ignore[no-untyped-call]
    assert [value for value, _ in found] == [0, 1, 4, 9, 16, 25]
    assert len({pid for _, pid in found}) == 2
    assert cpu_s > 0


def test_a_map_without_a_cluster_runs_here() -> None:
    found, cpu_s = apart([1, 2, 3])
    assert [value for value, _ in found] == [1, 4, 9]
    assert {pid for _, pid in found} == {os.getpid()}
    assert cpu_s == 0

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from infra.tracking import Tracking

pytestmark = pytest.mark.slow

TAGS = {"ketcycle_method": "shadow"}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """Open a new store from two processes at once, as two runs in one home do."""
    home = tmp_path_factory.mktemp("home")
    code = (
        "import sys; from pathlib import Path; from infra.tracking import Tracking\n"
        "home = Path(sys.argv[1])\n"
        "t = Tracking(f'sqlite:///{home}/mlflow/mlflow.db', home / 'artifacts')\n"
        "print(t.open('other', 'lifecycle', 0.0, {}, {}), t.register('m', home, 'champion', {}))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
    mine = Tracking(f"sqlite:///{home}/mlflow/mlflow.db", home / "artifacts")
    version = mine.register("m", home, "champion", {})
    out, _ = other.communicate()
    assert other.returncode == 0
    assert out.split() == [mine.find("other"), str(version)], "one experiment, and one version of one folder"
    return mine


def test_a_run_and_its_stages_are_named_for_people(tracking: Tracking) -> None:
    parent = tracking.open("r1", "lifecycle", 1.0, {"seed": 0, "training.tokens": 24000}, TAGS)
    child = tracking.open("r1", "training", 2.0, {"tokens": 24000}, TAGS, parent)
    tracking.log(child, {"quality/a b": 0.5, "nothing": None, "broken": math.nan})
    tracking.finish(child, 3.0)
    found = tracking._client.get_run(child)
    assert (found.info.run_name, found.info.status, found.info.end_time) == ("training", "FINISHED", 3000)
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert found.data.tags["ketcycle_run"] == "r1"
    assert found.data.metrics == {"quality/a b": 0.5}
    assert tracking._client.get_run(parent).info.run_name == "r1"
    assert tracking._client.get_run(parent).data.params == {"seed": "0", "training.tokens": "24000"}


def test_a_continued_run_keeps_its_mlflow_run_unless_its_parameters_change(tracking: Tracking) -> None:
    first = tracking.open("r2", "lifecycle", 1.0, {"seed": 0}, TAGS)
    assert tracking.open("r2", "lifecycle", 9.0, {"seed": 0, "stages": "all"}, TAGS) == first
    other = tracking.open("r2", "lifecycle", 9.0, {"seed": 1, "stages": "all"}, TAGS)
    assert other != first
    assert tracking.find("r2") == other
    assert tracking._client.get_run(first).info.lifecycle_stage == "deleted"

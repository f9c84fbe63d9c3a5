from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tasks.contract import Subtask
from tasks.stage import STAGES

TOLERANCES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "tasks" / "tolerances.yaml").read_text()
)


def subtasks() -> list[Subtask[Any, Any]]:
    names = [f"tasks.{stage}.stage" for stage in STAGES]
    return [subtask for name in names if find_spec(name) for subtask in import_module(name).SUBTASKS]


def test_every_subtask_s_tolerance_is_the_one_committed_beforehand() -> None:
    used = {subtask.key: (subtask.tolerance, subtask.metric) for subtask in subtasks()}
    assert used == {key: (entry["tolerance"], entry["metric"]) for key, entry in TOLERANCES.items()}


def test_every_tolerance_has_a_reason() -> None:
    assert all(len(entry["reason"]) > 20 and entry["tolerance"] > 0 for entry in TOLERANCES.values())

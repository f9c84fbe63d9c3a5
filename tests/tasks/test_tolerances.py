from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tasks.contract import STAGES, Subtask

TOLERANCES: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "tasks" / "tolerances.yaml").read_text()
)


def stages() -> list[str]:
    return [stage for stage in STAGES if find_spec(f"tasks.{stage}.stage")]


def subtasks() -> list[Subtask[Any, Any]]:
    return [subtask for stage in stages() for subtask in import_module(f"tasks.{stage}.stage").SUBTASKS]


def test_every_subtask_s_tolerance_is_the_one_committed_beforehand() -> None:
    used = {subtask.key: (subtask.tolerance, subtask.metric) for subtask in subtasks()}
    committed = {key: entry for key, entry in TOLERANCES.items() if key.partition("/")[0] in stages()}
    assert used == {key: (entry["tolerance"], entry["metric"]) for key, entry in committed.items()}


def test_every_tolerance_has_a_reason() -> None:
    assert all(len(entry["reason"]) > 20 and entry["tolerance"] > 0 for entry in TOLERANCES.values())

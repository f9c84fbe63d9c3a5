"""The decisions of all stages, found by themselves."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from infra.errors import BadInput
from tasks.contract import Subtask
from tasks.stage import STAGES


def subtasks() -> dict[str, Subtask[Any, Any]]:
    """Return all decisions by `stage/name`."""
    return {subtask.key: subtask for stage in STAGES for subtask in import_module(f"tasks.{stage}.stage").SUBTASKS}


def find_subtask(key: str) -> Subtask[Any, Any]:
    """Return a decision by `stage/name`.

    Raises:
        BadInput: there is no such decision.
    """
    stage, _, name = key.partition("/")
    found: list[Subtask[Any, Any]] = (
        [s for s in import_module(f"tasks.{stage}.stage").SUBTASKS if s.name == name] if stage in STAGES else []
    )
    if not found:
        raise BadInput(f"no decision {key!r}; there are {', '.join(subtasks())}")
    return found[0]

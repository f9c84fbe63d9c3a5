"""The decisions of all stages, found by themselves."""

from __future__ import annotations

from typing import Any

from infra.errors import BadInput
from tasks.contract import STAGES, Subtask
from tasks.options import decisions_of
from tasks.stage import decisions, load_decision


def names() -> list[str]:
    """Return all decisions as `stage/name`, without importing any of them."""
    return [f"{stage}/{name}" for stage in STAGES for name in decisions_of(stage)]


def subtasks() -> dict[str, Subtask[Any, Any]]:
    """Return all decisions by `stage/name`."""
    return {subtask.key: subtask for stage in STAGES for subtask in decisions(stage)}


def find_subtask(key: str) -> Subtask[Any, Any]:
    """Return a decision by `stage/name`.

    Raises:
        BadInput: there is no such decision.
    """
    stage, _, name = key.partition("/")
    if stage not in STAGES or name not in decisions_of(stage):
        raise BadInput(f"no decision {key!r}; there are {', '.join(names())}")
    return load_decision(stage, name)

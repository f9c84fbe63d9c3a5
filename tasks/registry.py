"""All decisions, found by themselves: those of the stages, and the pilots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infra.errors import BadInput
from tasks.contract import PILOTS, STAGES, Subtask
from tasks.options import decisions_of
from tasks.stage import decisions, load_decision

ROOMS = (*STAGES, PILOTS)


def names() -> list[str]:
    """Return all decisions as `stage/name`, without importing any of them."""
    return [f"{room}/{name}" for room in ROOMS for name in decisions_of(room)]


def modules_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that workers need to settle decisions, given as `stage/name`."""
    # The last is what arms import when they first run: it would be charged to the first one.
    return ("tasks.settle", *(f"tasks.{key.replace('/', '.')}.subtask" for key in keys), "sklearn.cluster")


def subtasks() -> dict[str, Subtask[Any, Any]]:
    """Return all decisions by `stage/name`: those on the roads of the stages, then the pilots."""
    on_roads = [subtask for stage in STAGES for subtask in decisions(stage)]
    pilots = [load_decision(PILOTS, name) for name in decisions_of(PILOTS)]
    return {subtask.key: subtask for subtask in (*on_roads, *pilots)}


def find_subtask(key: str) -> Subtask[Any, Any]:
    """Return a decision by `stage/name`.

    Raises:
        BadInput: there is no such decision.
    """
    room, _, name = key.partition("/")
    if room not in ROOMS or name not in decisions_of(room):
        raise BadInput(f"no decision {key!r}; there are {', '.join(names())}")
    return load_decision(room, name)

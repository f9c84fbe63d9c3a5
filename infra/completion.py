"""Completion records: a stage of a run is done when its record stands in the lake. Knows no stage by name."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.lake import write_atomic

LONGEST = 24  # characters of a value that is printed in a reason


@dataclass(frozen=True)
class Completion:
    """What a finished stage left.

    Attributes:
        parts: what the result depends on: input versions, parameters, arm versions.
        result: what it produced.
    """

    parts: dict[str, Any]
    result: dict[str, Any]


def digest(**parts: Any) -> str:
    """Hash what a result depends on: input versions, parameters, arm versions."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(home: Path, run_id: str, stage: str) -> Path:
    return home / "lake" / "completions" / run_id / f"{stage}.json"


def record(home: Path, run_id: str, stage: str, parts: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Note that a stage is done: what its result depends on, and what it produced."""
    text = json.dumps({"digest": digest(**parts), "parts": dict(parts), "result": dict(result)}, indent=1, default=str)
    write_atomic(_path(home, run_id, stage), text)


def find(home: Path, run_id: str, stage: str) -> Completion | None:
    """Return what a finished stage left, or None."""
    try:
        content = json.loads(_path(home, run_id, stage).read_text())
        return Completion(content["parts"], content["result"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):  # not done, or not readable: it is done again
        return None


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say which parts differ, e.g. `options changed (tokens 24000 -> 48000); seed changed (0 -> 1)`; empty if none."""
    now = json.loads(json.dumps(dict(after), default=str))
    found = []
    for name in {**now, **before}:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            items = [
                f"{key}{_values(old.get(key), new.get(key), ' {}')}"
                for key in {**new, **old}
                if old.get(key) != new.get(key)
            ]
            found.append(f"{name} changed ({', '.join(items)})")
        else:
            found.append(f"{name} changed{_values(old, new, ' ({})')}")
    return "; ".join(found)


def _values(old: Any, new: Any, form: str) -> str:
    shown = ["none" if value is None else str(value) for value in (old, new)]
    return form.format(" -> ".join(shown)) if max(map(len, shown)) <= LONGEST else ""


@contextmanager
def claimed(home: Path, run_id: str) -> Iterator[None]:
    """Keep other processes of this machine off a run.

    Raises:
        BadInput: another process is at it.
    """
    path = home / "runs" / run_id / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(
                f"run {run_id} is going on in another process; wait for it, or give this run another name"
            ) from None
        yield

"""Completion records: a stage of a run is done once its record is in the lake. Contains no name of a stage."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.lake import write_atomic
from infra.store import Store

RECORDS = "completions"  # folder in the lake; in a store, next to the lake
LONGEST = 24  # maximum length of a value that is printed in a reason


@dataclass(frozen=True)
class Completion:
    """The stored result of a finished stage.

    Attributes:
        parts: dependencies of the result: input versions, parameters, arm versions.
        result: result of the stage.
    """

    parts: dict[str, Any]
    result: dict[str, Any]


def digest(**parts: Any) -> str:
    """Hash the dependencies of a result: input versions, parameters, arm versions."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(home: Path) -> Path:
    """Return the folder of the records, one folder for each run."""
    return home / "lake" / RECORDS


def record(home: Path, run_id: str, stage: str, parts: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Record that a stage is done: the dependencies of its result, and the result."""
    text = json.dumps({"digest": digest(**parts), "parts": dict(parts), "result": dict(result)}, indent=1, default=str)
    if store := Store.of(home):
        store.put_text(f"{RECORDS}/{run_id}/{stage}.json", text)
    else:
        write_atomic(folder(home) / run_id / f"{stage}.json", text)


def find(home: Path, run_id: str, stage: str) -> Completion | None:
    """Return the stored result of a finished stage, or None."""
    try:
        if store := Store.of(home):
            content = json.loads(store.text(f"{RECORDS}/{run_id}/{stage}.json") or "")
        else:
            content = json.loads((folder(home) / run_id / f"{stage}.json").read_text())
        return Completion(content["parts"], content["result"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):  # not done or not readable: the stage runs again
        return None


def records(home: Path) -> dict[str, list[str]]:
    """Return the texts of all records, by run."""
    found: dict[str, list[str]] = {}
    if store := Store.of(home):
        for key in store.sizes(RECORDS):
            found.setdefault(key.split("/")[1], []).append(store.text(key) or "{}")
    else:
        for path in sorted(folder(home).glob("*/*.json")):
            found.setdefault(path.parent.name, []).append(path.read_text())
    return found


def forget(home: Path, run_id: str) -> None:
    """Delete the records of a run."""
    if store := Store.of(home):
        store.delete(store.sizes(f"{RECORDS}/{run_id}"))
    else:
        shutil.rmtree(folder(home) / run_id, ignore_errors=True)


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
    """Lock a run against other processes of this machine.

    Raises:
        BadInput: another process holds the lock.
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

"""Completion records: a stage of a run is done when its record stands in the lake. Knows no stage by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.lake import write_atomic


def digest(**parts: Any) -> str:
    """Hash what a result depends on: input versions, parameters, arm versions."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(home: Path, run_id: str, stage: str) -> Path:
    return home / "lake" / "completions" / run_id / f"{stage}.json"


def record(home: Path, run_id: str, stage: str, key: str, result: Mapping[str, Any]) -> None:
    """Note that a stage is done, with what it produced."""
    write_atomic(_path(home, run_id, stage), json.dumps({"digest": key, "result": dict(result)}, indent=1))


def find(home: Path, run_id: str, stage: str) -> tuple[str, dict[str, Any]] | None:
    """Return digest and result of a finished stage, or None."""
    try:
        content = json.loads(_path(home, run_id, stage).read_text())
    except FileNotFoundError:
        return None
    return content["digest"], content["result"]

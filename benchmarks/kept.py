"""Measurements that a command keeps in a file, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.lake import write_atomic


@dataclass(frozen=True)
class Kept:
    """Finished measurements in a file, or in memory only (None)."""

    path: Path | None
    found: dict[str, Any]
    until: float = math.inf  # on the monotonic clock; nothing begins later

    @classmethod
    def at(cls, path: Path | None, minutes: float = math.inf) -> Kept:
        """Return those of a file."""
        found = json.loads(path.read_text()) if path and path.exists() else {}
        return cls(path, found, time.monotonic() + 60 * minutes)

    def cell(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what was measured, or measure it.

        Raises:
            SystemExit: the time is over.
        """
        if key not in self.found:
            if time.monotonic() > self.until:
                raise SystemExit("the time is over; run the command again")
            self.found[key] = make()
            if self.path:
                write_atomic(self.path, json.dumps(self.found, indent=1))
        return self.found[key]

"""Which runs stay: the oldest go, with the lake versions that only they name and what killed writers left.

Data that no run names, as the request log of a server, is nobody's to take away here. Evidence, the ledger and the
model registry stay: decisions rest on them long after a run is gone.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadInput
from infra.lake import Lake, Ref

_REFERENCE = re.compile(r"[a-z0-9_]+(?:/[a-z0-9_]+)*@[0-9a-f]{16}")


@dataclass(frozen=True)
class Gone:
    """One thing that is taken away.

    Attributes:
        what: `run`, `lake version`, `unfinished part`, `scratch`, `index` or `study`.
        name: of it.
        path: what is removed, or None for a lake version.
        ref: the lake version.
        n_bytes: set free on disk.
    """

    what: str
    name: str
    path: Path | None
    n_bytes: int
    ref: Ref | None = None


def plan(home: Path, keep: int, registered: Collection[str] = ()) -> list[Gone]:
    """Return what goes where the newest `keep` runs and studies stay.

    Args:
        home: the state folder.
        keep: number of runs and of studies.
        registered: addresses of the folders of registered models, which stay.

    Raises:
        BadInput: a run is going on, whose parts may not be named yet.
    """
    runs = _newest_first(home / "runs")
    busy = [path.name for path in runs if _is_busy(path)]
    if busy:
        raise BadInput(f"run {', '.join(busy)} is going on; clean when it has ended")
    old = runs[keep:]
    lake = Lake(home / "lake")
    completions = lake.root / "completions"
    named, dropped = (
        {text for path in some for text in _references(path, completions / path.name)} for some in (runs[:keep], old)
    )
    gone = [Gone("run", path.name, path, _size(path)) for path in old]
    gone += [
        Gone("completions", path.name, path, _size(path))
        for path in sorted(completions.glob("*"))
        if path.name not in {run.name for run in runs[:keep]}
    ]
    there = {str(ref): ref for ref in _versions(lake)}
    for text in sorted((dropped - named) & there.keys()):
        if any(path.parent.as_uri() in registered for path in lake.files(there[text])):
            continue
        size = sum(entry["bytes"] for entry in lake.manifest(there[text])["files"])
        gone.append(Gone("lake version", text, None, size, there[text]))
    gone += [Gone("unfinished part", str(path.relative_to(home)), path, _size(path)) for path in lake.orphans()]
    gone += [Gone("scratch", path.name, path, _size(path)) for path in sorted((home / "scratch").glob("*"))]
    gone += [Gone("index", path.name, path, _size(path)) for path in _unused(home / "index", old)]
    gone += [Gone("study", path.name, path, _size(path)) for path in _newest_first(home / "studies")[keep:]]
    return gone


def carry_out(home: Path, items: Iterable[Gone]) -> int:
    """Take things away, one after another; return the bytes set free."""
    lake, freed = Lake(home / "lake"), 0
    for item in items:
        if item.ref is not None:
            freed += lake.remove(item.ref)
        elif item.path is not None:
            if item.path.is_dir():
                shutil.rmtree(item.path, ignore_errors=True)
            else:
                item.path.unlink(missing_ok=True)
            freed += item.n_bytes
    return freed


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)


def _unused(index: Path, old: Sequence[Path]) -> list[Path]:
    """Return the parts of stored indexes that were last used before the newest of the runs that go had ended."""
    if not old:
        return []
    ended = old[0].stat().st_mtime
    parts = [path for folder in index.glob("*") for path in folder.glob("*/*") if path.is_dir()]
    return sorted(path for path in parts if path.stat().st_mtime < ended)


def _is_busy(run: Path) -> bool:
    try:
        with (run / ".lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _references(run: Path, completions: Path) -> set[str]:
    """Return every lake version that a run's records name."""
    found: set[str] = set()
    for path in [run / "run.json", *completions.glob("*.json")]:
        if path.exists():
            found |= set(_REFERENCE.findall(json.dumps(json.loads(path.read_text()))))
    return found


def _versions(lake: Lake) -> list[Ref]:
    folders = sorted(path for path in lake.root.glob("*/*") if path.is_dir() and path.parent.name != "completions")
    return [ref for folder in folders for ref in lake.versions(folder.relative_to(lake.root).as_posix())]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())

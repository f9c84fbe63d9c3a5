"""Retention of runs: removes the oldest runs, the lake versions that only they use, and leftovers of killed writers.

Data that no run refers to, such as the request log of a server, is not removed. Evidence and the ledger are kept,
because later decisions use them. Registered models are kept unless a number of versions is given.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra import completion
from infra.errors import BadInput
from infra.lake import Lake, Ref
from infra.moved import DATABASE
from infra.runs import record_file
from infra.settings import Settings
from infra.shared import SharedLake, open_lake

if TYPE_CHECKING:
    from infra.tracking import Tracking

_REFERENCE = re.compile(r"[a-z0-9_]+(?:/[a-z0-9_]+)*@[0-9a-f]{16}")


@dataclass(frozen=True)
class Gone:
    """One removed item.

    Attributes:
        what: `run`, `completions`, `lake version`, `unfinished part`, `unfinished upload`, `scratch`, `index`, `study`,
            `model version`.
        name: name of the item.
        path: removed path, or None if the item is not a local path.
        ref: the lake version, if the item is one.
        n_bytes: bytes freed on disk.
    """

    what: str
    name: str
    path: Path | None
    n_bytes: int
    ref: Ref | None = None


def plan(home: Path, keep: int, registered: Collection[str] = (), expired: Collection[str] = ()) -> list[Gone]:
    """Return the items to remove if the newest `keep` runs and studies are kept.

    Args:
        home: the state folder.
        keep: number of runs, and number of studies, that are kept.
        registered: addresses of the folders of registered models, which are kept.
        expired: addresses of the folders of models that are registered no longer; they go unless a kept run names them.

    Raises:
        BadInput: a run is active; its data may not be referenced yet.
    """
    runs = _newest_first(home / "runs")
    busy = [path.name for path in runs if _is_busy(path)]
    if busy:
        raise BadInput(f"run {', '.join(busy)} is going on; clean when it has ended")
    old = runs[keep:]
    lake, records = open_lake(home), completion.records(home)
    kept, leaving = {path.name for path in runs[:keep]}, {path.name for path in old}
    if isinstance(lake, SharedLake):
        kept = records.keys() - leaving  # a run that is not in this home belongs to another machine
    named = _references([record_file(home, run.name) for run in runs[:keep]], (records.get(name, ()) for name in kept))
    dropped = _references([record_file(home, run.name) for run in old], (records.get(name, ()) for name in leaving))
    gone = [Gone("run", path.name, path, _size(path)) for path in old]
    gone += [
        Gone("completions", name, None, sum(map(len, texts))) for name, texts in records.items() if name not in kept
    ]
    there = {str(ref): ref for ref in _versions(lake)}
    models = {text for text, ref in there.items() if expired and _holds(lake, ref, expired)}
    for text in sorted(((dropped | models) - named) & there.keys()):
        if _holds(lake, there[text], registered):
            continue
        size = sum(entry["bytes"] for entry in lake.manifest(there[text])["files"])
        gone.append(Gone("lake version", text, None, size, there[text]))
    gone += [Gone("unfinished part", str(path.relative_to(home)), path, _size(path)) for path in lake.orphans()]
    if isinstance(lake, SharedLake):
        gone += [Gone("unfinished upload", name, None, size) for name, size in lake.unfinished().items()]
    gone += [Gone("scratch", path.name, path, _size(path)) for path in sorted((home / "scratch").glob("*"))]
    gone += [Gone("index", path.name, path, _size(path)) for path in _unused(home / "index", old)]
    gone += [Gone("study", path.name, path, _size(path)) for path in _newest_first(home / "studies")[keep:]]
    return gone


def clean(loaded: Settings, keep: int, versions: int | None = None, *, dry_run: bool = False) -> list[Gone]:
    """Remove what `plan` names, and return it.

    Args:
        loaded: the settings.
        keep: number of runs, and number of studies, that are kept.
        versions: newest versions of each registered model that are kept besides those with an alias; None = all.
        dry_run: whether nothing is removed.

    Raises:
        BadInput: a run is active.
    """
    tracking = _registry(loaded)
    expired = tracking.expired(versions) if tracking and versions is not None else []
    sources = {item.source for item in expired}
    registered: Collection[str] = tracking.registered() - sources if tracking else ()
    items = plan(loaded.home, keep, registered, sources)
    items += [Gone("model version", f"{item.name} {item.number}", None, 0) for item in expired]
    if not dry_run:
        if tracking:
            for item in expired:
                tracking.forget(item)
        carry_out(loaded.home, items)
    return items


def _registry(loaded: Settings) -> Tracking | None:
    """Return the model registry; one that does not exist is not created."""
    if not loaded.tracking.startswith("http") and not (loaded.home / DATABASE).exists():
        return None
    from infra.tracking import Tracking

    return Tracking(loaded.tracking, loaded.home / "mlflow" / "artifacts")


def _holds(lake: Lake, ref: Ref, addresses: Collection[str]) -> bool:
    """Return whether a lake version holds the files of one of some models."""
    return any(path.parent.as_uri() in addresses for path, _ in lake.entries(ref))


def carry_out(home: Path, items: Iterable[Gone]) -> int:
    """Remove the items one after another; return the bytes freed."""
    lake, freed = open_lake(home), 0
    for item in items:
        if item.ref is not None:
            freed += lake.remove(item.ref)
        elif item.what == "completions":
            completion.forget(home, item.name)
            freed += item.n_bytes
        elif item.what == "unfinished upload" and isinstance(lake, SharedLake):
            lake.discard(item.name)
            freed += item.n_bytes
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
    """Return the parts of stored indexes that were last used before the end of the newest removed run."""
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


def _references(runs: Iterable[Path], records: Iterable[Iterable[str]]) -> set[str]:
    """Return every lake version to which reports and completion records of runs refer."""
    texts = [path.read_text() for path in runs if path.exists()] + [text for some in records for text in some]
    return {reference for text in texts for reference in _REFERENCE.findall(json.dumps(json.loads(text)))}


def _versions(lake: Lake) -> list[Ref]:
    return [ref for name in lake.names() if name.count("/") == 1 for ref in lake.versions(name)]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())

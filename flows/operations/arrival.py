"""Answers `corpus.arrived`: curates the files that are new."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import State, flow

from flows.lifecycle.answers import by, claims_of, done, me, named_by, skipped
from flows.lifecycle.cancel import on_cancellation
from flows.lifecycle.config import RunConfig
from flows.lifecycle.lifecycle import lifecycle
from infra import completion, settings
from infra.claims import Claim, Claims
from infra.errors import BadInput
from infra.events import CorpusArrived, emit

SCOPE = "curate-on-arrival"
LARGEST = 500  # files in one event
SETTLED_S = 10.0  # a file that was written to more recently may be incomplete
ARRIVAL = RunConfig(stages=("curation",))


@flow(
    name="curate-on-arrival",
    flow_run_name=lambda: named_by("arrival", "files"),
    on_cancellation=[on_cancellation],
)
def curate_on_arrival(arrival: CorpusArrived, config: RunConfig = ARRIVAL) -> State[Any]:
    """Curate the files of an arrival that were not curated before; files are recognised by their content.

    Args:
        arrival: The files, inside the folder that the setting `inbox` names.
        config: How they are curated; its corpus and its stages are set by the arrival.

    Raises:
        BadInput: a file does not exist, or is outside the inbox.
    """
    loaded = settings.load()
    files = [_inside(loaded.inbox_folder, name) for name in arrival.files]
    claims = claims_of(loaded, SCOPE)
    new, others = _claimed(claims, files)
    if not new:
        runs = "; ".join(dict.fromkeys(by(other) for other in others))
        return skipped(f"nothing new in {len(files)} files: {runs}")
    run_id = config.run_id or f"curate-{completion.digest(files=sorted(new))}"
    corpus = tuple(str(path) for path in new.values())
    chosen = config.model_copy(update={"run_id": run_id, "corpus": corpus, "stages": ("curation",)})
    lifecycle(chosen)
    for digest in new:
        claims.finish(digest, me())
    kept = completion.find(loaded.home, run_id, "curation")
    where = kept.result["refs"]["curation/kept"] if kept else "nowhere"
    return done(f"{len(new)} of {len(files)} files were new; run {run_id} kept {where}")


@flow(name="corpus-watch")
def watch_corpus() -> State[Any]:
    """Look into the folder that the setting `inbox` names and report the files that were not curated yet."""
    loaded = settings.load()
    claims, new = claims_of(loaded, SCOPE), {}
    for path in sorted(loaded.inbox_folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(loaded.inbox_folder).parts)
        if path.is_file() and not hidden and time.time() - path.stat().st_mtime > SETTLED_S:
            digest = _digest(path)
            if claims.open(digest):
                new[digest] = str(path)
    if not new:
        return skipped(f"nothing new in {loaded.inbox_folder}")
    for batch in _batches(sorted(new)):
        files = [new[digest] for digest in batch]
        emit("corpus.arrived", {"files": files}, once=f"{completion.digest(files=batch)} {datetime.now(UTC):%Y-%m-%d}")
    return done(f"{len(new)} files not curated yet in {loaded.inbox_folder}")


def _claimed(claims: Claims, files: list[Path]) -> tuple[dict[str, Path], list[Claim]]:
    """Return the files that this flow run is to curate, by digest, and the claims of other flow runs on the rest."""
    mine: dict[str, Path] = {}
    others: list[Claim] = []
    for path in files:
        digest = _digest(path)
        if other := claims.claim(digest, me(), path.name):
            others.append(other)
        else:
            mine.setdefault(digest, path)
    return mine, others


def _batches(digests: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(digests), LARGEST):
        yield digests[start : start + LARGEST]


def _inside(inbox: Path, name: str) -> Path:
    path = (inbox / name).resolve()  # an absolute name stands for itself
    if not path.is_relative_to(inbox.resolve()):
        raise BadInput(f"{name} is outside {inbox}; put new files there, or set `inbox` to the folder they come to")
    if not path.is_file():
        raise BadInput(f"there is no file {path}; it was moved or removed before it was curated")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

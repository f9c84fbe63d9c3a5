"""Answers the event `corpus.arrived`: curates the new files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import State, flow

from flows.lifecycle.answers import claims_of, done, named_by, named_by_time, own_id, scheduled, skipped
from flows.lifecycle.cancel import on_cancellation
from flows.lifecycle.config import RunConfig
from flows.lifecycle.lifecycle import lifecycle
from infra import completion, settings
from infra.claims import Claim, Claims
from infra.errors import BadInput
from infra.events import CorpusArrived, emit
from tasks.corpus.formats.kinds import Skipped, recognise
from tasks.options import merge

SCOPE = "curate-on-arrival"
LARGEST = 500  # files in one event
NAMED = 3  # files named in a message about those left out
SETTLED_S = 10.0  # a file that was written to more recently may be incomplete
ARRIVAL = RunConfig(stages=("curation",))


@flow(
    name="curate-on-arrival",
    flow_run_name=lambda: named_by("arrival", "files"),
    on_cancellation=[on_cancellation],
)
def curate_on_arrival(arrival: CorpusArrived, config: RunConfig = ARRIVAL) -> State[Any]:
    """Curate the files of an arrival that were not curated before; files are recognised by their content.

    Missing files and files of unknown formats are left out and named.

    Args:
        arrival: The files, inside the folder of the setting `inbox`.
        config: How they are curated; its corpus and its stages are replaced.

    Raises:
        BadInput: a file is outside the inbox, or all are left out.
    """
    loaded = settings.load()
    asked = [_inside(loaded.inbox_folder, name) for name in arrival.files]
    reasons = {path: _unusable(path, _form(merge(loaded.options, config.options))) for path in asked}
    files, left_out = [path for path in asked if not reasons[path]], [*filter(None, reasons.values())]
    if not files:
        raise BadInput(f"nothing to curate: {'; '.join(left_out)}")
    claims = claims_of(loaded, SCOPE)
    new, others = _claimed(claims, files)
    if not new:
        runs = "; ".join(dict.fromkeys(other.said for other in others))
        return skipped(f"nothing new in {len(files)} files: {runs}")
    run_id = config.run_id or f"curate-{completion.digest(files=sorted(new))}"
    corpus = tuple(str(path) for path in new.values())
    chosen = config.model_copy(update={"run_id": run_id, "corpus": corpus, "stages": ("curation",)})
    lifecycle(chosen)
    for digest in new:
        claims.finish(digest, own_id())
    kept = completion.find(loaded.home, run_id, "curation")
    where = kept.result["refs"]["curation/kept"] if kept else "nowhere"
    rest = f"; left out: {', '.join(left_out)}" if left_out else ""
    return done(f"{len(new)} of {len(asked)} files were new; run {run_id} kept {where}{rest}")


@flow(name="corpus-watch", flow_run_name=named_by_time)
def watch_corpus() -> State[Any]:
    """Emit `corpus.arrived` for the files in the folder of the setting `inbox` that were not curated yet."""
    loaded = settings.load()
    inbox, claims = loaded.inbox_folder, claims_of(loaded, SCOPE)
    new: dict[str, str] = {}
    left_out: list[str] = []
    for path in sorted(inbox.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(inbox).parts) or not path.is_file():
            continue
        try:
            if time.time() - path.stat().st_mtime <= SETTLED_S:
                continue
            outside = not path.resolve().is_relative_to(inbox.resolve())
            reason = f"{path.name} links outside it" if outside else _unusable(path, _form(loaded.options))
            if not reason and claims.open(digest := _digest(path)):
                new[digest] = str(path)
        except OSError as error:  # the other files are still curated
            reason = f"{path.name} cannot be read ({error.strerror})"
        left_out += [reason] if reason else []
    rest = f"; {len(left_out)} left out: {', '.join(left_out[:NAMED])}" if left_out else ""
    if not new:
        return skipped(f"nothing new in {inbox}{rest}")
    for batch in _batches(sorted(new)):
        files = [new[digest] for digest in batch]
        # A repeated event within the hour is dropped; an unfinished curation starts again in the next hour.
        emit("corpus.arrived", {"files": files}, once=f"{completion.digest(files=batch)} {scheduled():%Y-%m-%dT%H}")
    return done(f"{len(new)} files not curated yet in {inbox}{rest}")


def _claimed(claims: Claims, files: list[Path]) -> tuple[dict[str, Path], list[Claim]]:
    """Return the files that this flow run curates, by digest, and the claims of other flow runs on the rest."""
    mine: dict[str, Path] = {}
    others: list[Claim] = []
    for path in files:
        digest = _digest(path)
        if other := claims.claim(digest, own_id(), path.name):
            others.append(other)
        else:
            mine.setdefault(digest, path)
    return mine, others


def _batches(digests: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(digests), LARGEST):
        yield digests[start : start + LARGEST]


def _inside(inbox: Path, name: str) -> Path:
    path = (inbox / name).resolve()  # an absolute name ignores the inbox
    if not path.is_relative_to(inbox.resolve()):
        raise BadInput(f"{name} is outside {inbox}; put new files there, or set `inbox` to their folder")
    return path


def _unusable(path: Path, forced: str) -> str:
    """Return why a file cannot be curated; empty if it can."""
    if not path.is_file():
        return f"there is no file {path}: it was moved or removed before it was curated"
    found = recognise(path.name, path, forced)
    return f"{path.name} is no text ({found.reason})" if isinstance(found, Skipped) else ""


def _form(options: Mapping[str, Any]) -> str:
    return str(options.get("curation", {}).get("form", ""))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The folders of runs: `runs/<id>/` with the record `run.json` and the report. Only this module knows their names.

With a store that several machines share, the record is in the store too, so that any of them can continue the run.

The lifecycle writes the record during a run: configuration, status, results of the stages. The report is computed from
it and from the evidence, and can be rebuilt at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from infra.lake import write_atomic, write_new
from infra.store import Store

RECORD, REPORT = "run.json", "report"
ENDINGS = ("json", "md", "html")


def folder(home: Path, run_id: str) -> Path:
    """Return the folder of a run, which may not exist yet."""
    return home / "runs" / run_id


def record_file(home: Path, run_id: str) -> Path:
    """Return the file of a run's record, which may not exist."""
    return folder(home, run_id) / RECORD


def names(home: Path) -> list[str]:
    """Return the runs that have a record, the one written last at the end."""
    return [path.parent.name for path in _by_age(home, RECORD)]


def create(home: Path, run_id: str, record: Mapping[str, Any]) -> None:
    """Write the record of a new run; of two runs with one name that begin at the same moment one is refused.

    Raises:
        BadInput: there is a run of this name.
    """
    try:
        if find(home, run_id) is not None:
            raise FileExistsError
        write_new(record_file(home, run_id), _text(record))
    except FileExistsError:
        raise BadInput(
            f"there is a run {run_id} already; choose another name, or continue it with --resume {run_id}"
        ) from None


def write(home: Path, run_id: str, record: Mapping[str, Any]) -> None:
    """Replace the record of a run.

    Raises:
        LakeError: the store did not take it.
    """
    write_atomic(record_file(home, run_id), _text(record))
    if store := Store.of(home):
        store.put_text(_key(run_id), _text(record))


def find(home: Path, run_id: str) -> dict[str, Any] | None:
    """Return the record of a run, None where there is none; fetched if only another machine has it.

    Raises:
        LakeError: the store did not answer.
    """
    path = record_file(home, run_id)
    if not path.exists():
        store = Store.of(home)
        text = store.text(_key(run_id)) if store else None
        if text is None:
            return None
        write_atomic(path, text)
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def read(home: Path, run_id: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the name and the record of a run, the newest run's where none is named.

    Raises:
        BadInput: there is no such run.
    """
    if run_id is not None and (record := find(home, run_id)) is not None:
        return run_id, record
    path = _wanted(home, RECORD, run_id, "run")
    return path.parent.name, json.loads(path.read_text())


def read_report(home: Path, run_id: str | None = None) -> dict[str, Any]:
    """Return the stored report of a run, the newest run's where none is named.

    Raises:
        BadInput: there is no such report.
    """
    report: dict[str, Any] = json.loads(_wanted(home, f"{REPORT}.json", run_id, "report of run").read_text())
    return report


def reports(home: Path, since_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Yield the stored reports written since a time in seconds since the epoch, the newest first."""
    for path in reversed(_by_age(home, f"{REPORT}.json")):
        if path.stat().st_mtime >= since_s:
            yield json.loads(path.read_text())


def report_files(home: Path, run_id: str) -> tuple[Path, ...]:
    """Return where the report of a run is kept: as JSON, Markdown and HTML."""
    return tuple(folder(home, run_id) / f"{REPORT}.{ending}" for ending in ENDINGS)


def write_report(home: Path, run_id: str, report: Mapping[str, Any], markdown: str, html: str) -> tuple[Path, ...]:
    """Replace the report of a run and return its files."""
    files = report_files(home, run_id)
    for path, text in zip(files, (_text(report), markdown, html), strict=True):
        write_atomic(path, text)
    return files


def _key(run_id: str) -> str:
    return f"runs/{run_id}/{RECORD}"


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, default=str)


def _by_age(home: Path, name: str) -> list[Path]:
    return sorted((home / "runs").glob(f"*/{name}"), key=lambda path: (path.stat().st_mtime, path.parent.name))


def _wanted(home: Path, name: str, run_id: str | None, what: str) -> Path:
    paths = _by_age(home, name)
    found = [path for path in paths if run_id in (None, path.parent.name)]
    if not found:
        known = ", ".join(path.parent.name for path in paths) or "none yet; try ketcycle run"
        raise BadInput(f"no {what} {run_id or '(newest)'} in {home / 'runs'}; {what.split()[0]}s there: {known}")
    return found[-1]

"""Tables of a stage out of the lake, as plain Parquet files for other programs."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from infra import runs
from infra.lake import Ref
from infra.shared import open_lake

WORKING = ("curation/candidates", "curation/filtered")  # what a stage passes to itself


def export_tables(home: Path, run_id: str, stage: str, folder: Path) -> list[Path]:
    """Copy the Parquet tables of a stage of a run to `folder/<table>.parquet`, each replaced at once; return them.

    A table of several files becomes a folder of that name. What else lies in the folder stays.

    Raises:
        BadInput: there is no such run.
        LakeError: a table is gone from the lake.
    """
    lake, written = open_lake(home), []
    refs = runs.read(home, run_id)[1]["stages"][stage]["refs"]
    for text in sorted(refs.values()):
        ref = Ref.parse(text)
        files = [path for path in lake.files(ref) if path.suffix == ".parquet"]
        owner, _, table = ref.name.rpartition("/")
        if owner == stage and files and ref.name not in WORKING:
            written.append(_put(files, folder.expanduser() / f"{table}.parquet"))
    return written


def _put(files: list[Path], target: Path) -> Path:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        if len(files) == 1:
            shutil.copyfile(files[0], draft)
        else:
            draft.mkdir()
            for path in files:
                shutil.copyfile(path, draft / path.name)
        if target.is_dir():
            shutil.rmtree(target)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)
    return target

"""Tables of a stage out of the lake, as plain Parquet files for other programs."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import runs
from infra.lake import Ref
from infra.shared import open_lake

WORKING = ("curation/candidates", "curation/filtered")  # what a stage passes to itself


def export_tables(home: Path, run_id: str, stage: str, folder: Path) -> list[Path]:
    """Copy the Parquet tables of a stage of a run to `folder/<table>.parquet`, each replaced at once; return them.

    Tables of the user's documents get the user's columns under the user's names.
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
            given = str(lake.meta(ref).get("text", ""))  # tables with the user's columns say what the text is called
            written.append(_put(files, folder.expanduser() / f"{table}.parquet", given))
    return written


def _put(files: list[Path], target: Path, text: str) -> Path:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        if text:
            _rewrite(files, draft, text)
        elif len(files) == 1:
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


def _rewrite(files: list[Path], target: Path, text: str) -> None:
    """Write the user's documents as one table with the user's names of columns."""
    from tasks.curation.outcome import as_given

    schema = as_given(pq.read_schema(files[0]).empty_table(), text).schema
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for path in files:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(2048):
                    writer.write_table(as_given(pa.Table.from_batches([batch]), text))

"""Exports the tables of a stage from the lake, as plain Parquet files for other programs."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import runs
from infra.lake import Ref
from infra.shared import open_lake

WORKING = ("curation/candidates", "curation/filtered")  # intermediate tables


def export_tables(home: Path, run_id: str, stage: str, folder: Path) -> list[Path]:
    """Copy the Parquet tables of a stage of a run to `folder/<table>.parquet`, each replaced atomically; return them.

    Tables of documents have the columns of the user's files, under their names there.
    A table of several files becomes a folder of that name. Other files in the folder stay.

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
            given = str(lake.meta(ref).get("text", ""))  # name of the text column in the user's files
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
    """Write documents as one table with the column names of the user's files."""
    from tasks.curation.outcome import as_given

    schema = as_given(pq.read_schema(files[0]).empty_table(), text).schema
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for path in files:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(2048):
                    writer.write_table(as_given(pa.Table.from_batches([batch]), text))

"""Parquet and Arrow files as record batches, and columns out of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import feather

from tasks.corpus.documents import Layout
from tasks.corpus.formats.kinds import ARROW, Found, local, unpacked
from tasks.corpus.tabular.columns import TEXT_COLUMNS, find_path, ids_of
from tasks.corpus.tabular.json_records import unique_columns

ID_COLUMNS = ("doc_id", "id")
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def open_arrow(source: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return schema and batches of an Arrow file, an Arrow stream, or a file of the first version of Feather."""
    head = source.read(6)
    source.seek(0)
    if head.startswith(b"FEA1"):
        table = feather.read_table(source)
        return table.schema, iter(table.to_batches())
    if head == b"ARROW1":
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(k) for k in range(file.num_record_batches))
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def frame_reader(frame: Any) -> pa.RecordBatchReader:
    """Return the batches of whatever has an Arrow C stream.

    Of a pandas frame, columns that Arrow does not take (values of several types, complex numbers) become text, and
    sparse ones dense.

    Raises:
        pa.ArrowException: a single column, or a frame of something else that Arrow does not take.
    """
    try:
        return pa.RecordBatchReader.from_stream(frame)
    except (pa.ArrowException, TypeError, ValueError):
        if not type(frame).__module__.startswith("pandas") or not hasattr(frame, "columns"):
            raise
    columns = [_of_series(frame.iloc[:, k]) for k in range(frame.shape[1])]
    return pa.table(columns, names=[str(name) for name in frame.columns]).to_reader()


def _of_series(series: Any) -> pa.Array:
    plain = series.sparse.to_dense() if hasattr(series, "sparse") else series
    try:
        return pa.array(plain, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        known = plain.notna()
        return pa.array([str(value) if there else None for value, there in zip(plain, known, strict=True)], pa.string())


def seekable(file: Found) -> pa.NativeFile:
    """Open a file for Arrow; a packed one is unpacked into memory."""
    if not file.packing:
        return pa.memory_map(os.fsencode(file.path)) if file.kind == ARROW else local(file.path)
    with unpacked(file.path, file.packing) as stream:
        return pa.BufferReader(stream.read())


def wanted(file: pq.ParquetFile, layout: Layout) -> list[str] | None:
    """Return the columns to read, None for all; unique names are needed to read some of them."""
    names: list[str] = file.schema_arrow.names
    if not layout.columns or len(set(names)) < len(names) or any("." in name for name in names):
        return None
    path = find_path(file.schema_arrow, layout.text_column, TEXT_COLUMNS) or ()
    ours = {*path[:1], layout.id_column, layout.weight_column, *ID_COLUMNS, "source", "label"}
    return [name for name in names if name in ours or name in layout.columns]


def partitions(name: str) -> dict[str, str | int | None]:
    """Return the columns that a path holds as Spark and Hive write them: `lang=en/day=3/part-0.parquet`."""
    found: dict[str, str | int | None] = {}
    for part in name.split("/")[:-1]:
        key, mark, value = part.partition("=")
        if mark and key:
            value = unquote(value)
            whole = value.isdecimal() and value.isascii() and str(int(value)) == value
            found[unquote(key)] = None if value == _NO_PARTITION else int(value) if whole else value
    return found


def type_at(schema: pa.Schema, path: Sequence[str]) -> pa.DataType:
    """Return the type of a column at a path, whatever lists are on the way."""
    kind = schema.field(schema.get_all_field_indices(path[0])[0]).type
    for name in path[1:]:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        kind = kind.field(kind.get_field_index(name)).type
    return kind


def unique_names(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch in which the second column of a name has the ending ~2, and so on."""
    names = batch.schema.names
    if len(set(names)) == len(names):
        return batch
    return pa.RecordBatch.from_arrays(batch.columns, names=unique_columns(names))


def strings(batch: pa.RecordBatch, column: str, other: str) -> pa.Array:
    """Return a column as text, with something else where it is missing or empty."""
    if column not in batch.schema.names:
        return pa.repeat(pa.scalar(other, pa.string()), len(batch))
    return pc.fill_null(ids_of(batch.column(column)), other)

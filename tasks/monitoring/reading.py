"""Tables from files and frames, read in batches, and a uniform sample of their rows in bounded memory.

Parquet (a file or a folder of parts) keeps its Arrow types. CSV and JSON lines are read by DuckDB, whose sniffer finds
separator, quotes, types and header. Anything with an Arrow C stream (pandas, Polars, Arrow, DuckDB) is a table too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.monitoring.flat import as_plain, readable_fields

SAMPLE = 50_000  # rows of a table that are looked at
FEWEST = 2_000  # rows even where rows are long
BYTES = 200_000_000  # that a sample may take where rows are long
BATCH = 32_768
READ_AHEAD = 1 << 20  # bytes of a Parquet column that are read at once; else whole column chunks stay in memory
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]  # in CSV, as in pandas
DELIMITED = (".csv", ".tsv", ".txt")
LINES = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".zst")


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a table without replacement, in their order there.

    Attributes:
        table: the rows.
        total: rows of the whole table.
        unreadable: columns whose Arrow type cannot be handled, with that type.
    """

    table: pa.Table
    total: int
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Batches:
    """A table as a stream of record batches.

    Attributes:
        schema: of every batch.
        batches: to be read once.
    """

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]


def open_table(source: Any, name: str = "table") -> Batches:
    """Open a file, a folder of Parquet parts, or a pandas, Polars or Arrow table.

    Args:
        source: a path, or an object with `__arrow_c_stream__`.
        name: how messages call it.

    Raises:
        BadInput: there is no such file, its format is not known, or it cannot be read.
    """
    found = _open_file(Path(source)) if isinstance(source, str | Path) else _open_frame(source, name)
    names = found.schema.names
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise BadInput(f"the {name} has more than one column named {', '.join(map(repr, twice))}; rename them")
    return found


def read_whole(source: Any, columns: Iterable[str] = (), name: str = "table") -> pa.Table:
    """Read all rows into memory.

    Args:
        source: see `open_table`.
        columns: to be read; empty = all.
        name: how messages call it.

    Raises:
        BadInput: see `open_table`; or a column is not there.
    """
    opened = open_table(source, name)
    table = pa.Table.from_batches(_clear(opened.batches, name), opened.schema)
    missing = [column for column in columns if column not in table.schema.names]
    if missing:
        raise BadInput(f"the {name} has no column {missing[0]!r}; its columns: {', '.join(table.schema.names)}")
    return table.select([*columns]) if columns else table


def sample_rows(opened: Batches, rng: Generator, rows: int = SAMPLE, name: str = "table") -> Sample:
    """Draw rows uniformly without replacement in one pass; memory grows with the sample, not with the table.

    Every row gets a random key and the rows with the smallest keys stay.

    Args:
        opened: the table.
        rng: draws the keys.
        rows: to be drawn at most; fewer where rows are so long that the sample would take more than `BYTES`.
        name: how messages call the table.

    Raises:
        BadInput: the table cannot be read to its end.
    """
    fields, unreadable = readable_fields(opened.schema)
    plain = pa.schema([field for field in fields if field is not None])
    wanted = [field is not None for field in fields]
    held: list[tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]] = []
    total, bound, limit = 0, 1.0, rows
    for batch in _clear(opened.batches, name):
        if not batch.num_rows:
            continue
        if not total:
            limit = min(rows, max(FEWEST, BYTES * batch.num_rows // max(1, batch.nbytes)))
        keys = rng.random(batch.num_rows)
        at = np.flatnonzero(keys < bound)
        columns = [column for column, keep in zip(batch.columns, wanted, strict=True) if keep]
        kept = [as_plain(column, field.type).take(pa.array(at)) for column, field in zip(columns, plain, strict=True)]
        held.append((at + total, keys[at], pa.table(kept, schema=plain)))
        total += batch.num_rows
        if sum(len(part[1]) for part in held) > 2 * limit:
            held = [_smallest(held, limit)]
            bound = float(held[0][1].max())
    if not held:
        return Sample(plain.empty_table(), 0, unreadable)
    return Sample(_smallest(held, limit)[2], total, unreadable)


def _smallest(
    held: list[tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]:
    """Return the rows with the smallest keys, in the order of the table."""
    where, keys = (np.concatenate([part[k] for part in held]) for k in (0, 1))
    chosen = np.sort(np.argsort(keys, kind="stable")[:count])
    table = pa.concat_tables([part[2] for part in held]).take(pa.array(chosen)).combine_chunks()
    return where[chosen], keys[chosen], table


def _open_file(path: Path) -> Batches:
    if path.is_dir():
        parts = sorted(path.rglob("*.parquet"))
        if not parts:
            raise BadInput(f"the folder {path} holds no *.parquet; give a Parquet, CSV or JSON lines file")
        return _open_parquet(parts)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a Parquet, CSV or JSON lines file")
    if not path.stat().st_size:
        raise BadInput(f"{path} is empty")
    ending = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    if ending.lower() in DELIMITED:
        return _open_csv(path)
    if ending.lower() in LINES:
        return _query(path, "select * from read_json(?, sample_size = -1)", [str(path)])
    return _open_parquet([path])


def _open_parquet(parts: list[Path]) -> Batches:
    try:
        schema = pq.read_schema(parts[0])
        for part in parts[1:]:
            if not pq.read_schema(part).equals(schema):
                raise BadInput(f"{part} has other columns or types than {parts[0]}; give parts of one table")
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{parts[0]} is no Parquet file, nor by its name CSV or JSON lines: {str(error).splitlines()[0]}"
        ) from None

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            with pq.ParquetFile(part, pre_buffer=False, buffer_size=READ_AHEAD) as file:
                yield from file.iter_batches(BATCH)

    return Batches(schema, batches())


def _open_csv(path: Path) -> Batches:
    """Open a delimited file; with semicolons the decimal comma is tried too, as in German or French tables."""
    try:
        encoding = _encoding(path)
        asked = "select * from read_csv(?, header = true, sample_size = -1, nullstr = ?, encoding = ?{})"
        arguments = [str(path), MISSING, encoding]
        decimal = ", decimal_separator = ','"
        (separator,) = duckdb.connect().execute(f"select delimiter from sniff_csv(?, encoding = '{encoding}')", [str(path)]).fetchone() or (",",)  # noqa: E501, S608  # fmt: skip
        plain = _query(path, asked.format(""), arguments)
        if separator == ";":
            other = _query(path, asked.format(decimal), arguments)
            plain = other if _texts(other.schema) < _texts(plain.schema) else plain
    except duckdb.Error as error:
        raise BadInput(f"{path} cannot be read as CSV: {_first_line(error)}") from None
    if len(plain.schema.names) == 1 and any(mark in plain.schema.names[0] for mark in ";\t|"):
        raise BadInput(f"{path} was read as one column named {plain.schema.names[0]!r}; separate its columns by commas")
    return plain


def _encoding(path: Path) -> str:
    """Return `utf-8` where the beginning of the file is, else `latin-1`; packed files are taken for UTF-8."""
    if path.suffix in PACKED:
        return "utf-8"
    with path.open("rb") as file:
        begin = file.read(1 << 20)
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        begin[:-4].decode() if len(begin) == 1 << 20 else begin.decode()
    except UnicodeDecodeError as error:
        # A character that the block cuts in two is no error.
        return "utf-8" if len(begin) - error.start <= 8 and len(begin) == 1 << 20 else "latin-1"
    return "utf-8"


def _query(path: Path, query: str, arguments: list[Any]) -> Batches:
    connection = duckdb.connect()
    try:
        reader = connection.sql(query, params=arguments).to_arrow_reader(BATCH)
    except duckdb.Error as error:
        raise BadInput(f"{path} cannot be read: {_first_line(error)}") from None
    return Batches(reader.schema, reader)


def _texts(schema: pa.Schema) -> int:
    return sum(pa.types.is_string(field.type) for field in schema)


def _open_frame(frame: Any, name: str) -> Batches:
    if not hasattr(frame, "__arrow_c_stream__"):
        raise BadInput(f"the {name} is a {type(frame).__name__}; give a path or a pandas, Polars or Arrow table")
    try:
        reader = pa.RecordBatchReader.from_stream(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadInput(f"the {name} cannot be read as an Arrow table ({_first_line(error)})") from None
    return Batches(reader.schema, reader)


def _clear(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, duckdb.Error, OSError) as error:
        raise BadInput(f"the {name} cannot be read to its end: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[:2]) if lines else type(error).__name__

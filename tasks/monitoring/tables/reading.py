"""Tables from files and frames, read in batches, and a uniform sample of their rows in bounded memory.

Parquet (a file or a folder of parts) and Arrow files keep their Arrow types. CSV and JSON are read by DuckDB, whose
sniffer finds separator, quotes, types and header. Anything with an Arrow C stream (pandas, Polars, Arrow, DuckDB) is a
table too.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.corpus.formats.kinds import DAMAGE, sniff, unpacked
from tasks.corpus.tabular.arrow import frame_reader, open_arrow
from tasks.monitoring.tables.flat import as_plain, plain, readable_fields

SAMPLE = 50_000  # rows of a table that are looked at
FEWEST = 2_000  # rows even where rows are long
BYTES = 200_000_000  # that a sample may take where rows are long
BATCH = 32_768  # rows that are read at once, fewer where they take more than
BATCH_BYTES = 16_000_000
READ_AHEAD = 1 << 20  # bytes of a Parquet column that are read at once; else whole column chunks stay in memory
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]  # in CSV, as in pandas
DELIMITED = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data")
LINES = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".zst")  # what DuckDB unpacks
UNPACKED = {".bz2": "bz2", ".xz": "xz"}  # what it does not
KINDS = "Parquet, Arrow, CSV or JSON"
RARE_SEPARATORS = ("^", "~", ":", " ", "\x01", "\x1f")  # beside those that DuckDB looks for
LINES_SEEN = 200
_NUMBER = re.compile(r"-?\d*[.,]?\d+(?:[eE][-+]?\d+)?(?:_\d+)?")  # DuckDB numbers equal names
INDEX = re.compile(r"__index_level_\d+__")  # of a pandas frame whose row labels have no name
MOST_SKIPPED = 64  # lines before the header: titles and remarks


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


@dataclass(frozen=True)
class Passing:
    """A table that is walked from its first row to its last.

    Attributes:
        sample: of all its rows.
        batches: all its rows in order, in the types of the sample; to be read once.
    """

    sample: Sample
    batches: Iterable[pa.Table]


def open_table(source: Any, name: str = "table") -> Batches:
    """Open a file, a folder of Parquet parts, or a pandas, Polars or Arrow table.

    Args:
        source: a path, or an object with `__arrow_c_stream__`.
        name: how messages call it.

    Raises:
        BadInput: there is no such file, its format is not known, or it cannot be read.
    """
    found = _open_file(Path(source)) if isinstance(source, str | Path) else _open_frame(source, name)
    found = _without_index(found)
    names = found.schema.names
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise BadInput(f"the {name} has more than one column named {', '.join(map(repr, twice))}; rename them")
    return found


def _without_index(table: Batches) -> Batches:
    """Return a table without the row labels of pandas, which are there only after rows were chosen or sorted."""
    names = [name for name in table.schema.names if not INDEX.fullmatch(name)]
    if not names or len(names) == len(table.schema.names):
        return table
    at = [k for k, name in enumerate(table.schema.names) if not INDEX.fullmatch(name)]
    schema = pa.schema([table.schema.field(k) for k in at])
    return Batches(schema, (batch.select(at).replace_schema_metadata(schema.metadata) for batch in table.batches))


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
    kept_as = pa.schema([field for field in fields if field is not None])
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
        kept = [as_plain(column, field.type).take(pa.array(at)) for column, field in zip(columns, kept_as, strict=True)]
        held.append((at + total, keys[at], pa.table(kept, schema=kept_as)))
        total += batch.num_rows
        if sum(len(part[1]) for part in held) > 2 * limit:
            held = [_smallest(held, limit)]
            bound = float(held[0][1].max())
    if not held:
        return Sample(kept_as.empty_table(), 0, unreadable)
    return Sample(_smallest(held, limit)[2], total, unreadable)


def open_passing(source: Any, rng: Generator, name: str = "table") -> Passing:
    """Open a table that is walked: it is read twice, and never as a whole.

    Args:
        source: see `open_table`.
        rng: draws the sample.
        name: how messages call it.

    Raises:
        BadInput: see `open_table`.
    """
    sample = sample_rows(open_table(source, name), rng, name=name)
    batches = _clear(open_table(source, name).batches, name)
    return Passing(sample, (plain(pa.Table.from_batches([batch])) for batch in batches))


def _smallest(
    held: list[tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]:
    """Return the rows with the smallest keys, in the order of the table."""
    where, keys = (np.concatenate([part[k] for part in held]) for k in (0, 1))
    chosen = np.sort(np.argsort(keys, kind="stable")[:count])
    ends = np.cumsum([part[2].num_rows for part in held])
    rows = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    begins = ends - [part[2].num_rows for part in held]
    tables = [part[2].take(pa.array(at - begin)) for part, at, begin in zip(held, rows, begins, strict=True)]
    return where[chosen], keys[chosen], pa.concat_tables(tables).combine_chunks()


def _open_file(path: Path) -> Batches:
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*.parquet") if not _hidden(part.relative_to(path)))
        if not parts:
            raise BadInput(f"the folder {path} holds no *.parquet; give a {KINDS} file")
        return _open_parquet(parts)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a {KINDS} file")
    if not path.stat().st_size:
        raise BadInput(f"{path} is empty")
    if path.suffix in UNPACKED:
        copy, folder = _unpacked(path)
        found = _open_file(copy)
        return Batches(found.schema, _holding(found.batches, folder))
    ending = (Path(path.stem).suffix if path.suffix in PACKED else path.suffix).lower()
    kind = "csv" if ending in DELIMITED else "json" if ending in LINES else sniff(path)
    if kind == "text" and ending not in (".parquet", ".pq"):
        kind = "csv"
    match kind:
        case "csv":
            return _open_csv(path)
        case "json":
            return _query(path, "select * from read_json(?, sample_size = -1)", [str(path)])
        case "arrow":
            return _open_arrow(path)
    return _open_parquet([path])


def _hidden(part: Path) -> bool:
    """Return whether a file belongs to a write that goes on or was given up, as those in Spark's `_temporary` do."""
    return any(name[0] in "._" and "=" not in name for name in part.parts)


def _unpacked(path: Path) -> tuple[Path, Any]:
    """Copy a file unpacked; the copy is there as long as the second value is held."""
    folder = TemporaryDirectory()
    copy = Path(folder.name) / path.stem
    try:
        with unpacked(path, UNPACKED[path.suffix]) as source, copy.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except DAMAGE as error:
        raise BadInput(f"{path} cannot be unpacked: {_first_line(error)}") from None
    return copy, folder


def _open_arrow(path: Path) -> Batches:
    source = pa.memory_map(str(path))
    try:
        schema, batches = open_arrow(source)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is no Arrow file: {_first_line(error)}") from None
    return Batches(schema, batches)


def _open_parquet(parts: list[Path]) -> Batches:
    """Open the parts of a table, which may have their columns in another order or in narrower types."""
    try:
        schema = pq.read_schema(parts[0])
        for part in parts[1:]:
            own, same = pq.read_schema(part), False
            if sorted(own.names) == sorted(schema.names):
                with suppress(pa.ArrowTypeError, pa.ArrowInvalid):
                    schema, same = pa.unify_schemas([schema, own], promote_options="permissive"), True
            if not same:
                raise BadInput(f"{part} has other columns or types than {parts[0]}; give parts of one table")
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{parts[0]} is no Parquet file, nor by its name CSV or JSON, nor by its first bytes: "
            f"{str(error).splitlines()[0]}"
        ) from None

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            with pq.ParquetFile(part, pre_buffer=False, buffer_size=READ_AHEAD) as file:
                groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
                long = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0.0)
                rows = max(1, min(BATCH, int(BATCH_BYTES / max(1.0, long))))
                yield from (_fitted(batch, schema) for batch in file.iter_batches(rows))

    return Batches(schema, batches())


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with its columns in the order and the types of the whole table."""
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([batch.column(field.name).cast(field.type) for field in schema], schema=schema)


def _open_csv(path: Path) -> Batches:
    """Open a delimited file; a decimal comma is tried too, as in German or French tables."""
    begin, encoding = _beginning(path)
    keep: Any = None
    if encoding not in ("utf-8", "latin-1"):
        path, keep = _as_utf8(path, encoding)
        encoding = "utf-8"
    try:
        sniffed = f"select delimiter, skiprows from sniff_csv(?, encoding = '{encoding}')"  # noqa: S608
        separator, skipped = duckdb.connect().execute(sniffed, [str(path)]).fetchone() or (",", 0)
    except duckdb.Error as error:
        raise BadInput(f"{path} cannot be read as CSV: {_first_line(error)}") from None
    if skipped > MOST_SKIPPED:
        raise BadInput(
            f"line {skipped + 1} of {path} has another number of columns than the lines before it; repair it"
        )
    asked = "select * from read_csv(?, header = true, sample_size = -1, nullstr = ?, encoding = ?{})"
    arguments = [str(path), MISSING, encoding]
    found = _query(path, asked.format(""), arguments)
    if len(found.schema.names) == 1:
        found = _other_separator(path, found, begin, asked, arguments)
    if separator != "," or _decimal_commas(begin):
        other = _query(path, asked.format(", decimal_separator = ','"), arguments)
        found = other if _texts(other.schema) < _texts(found.schema) else found
    names = found.schema.names
    if all(map(_NUMBER.fullmatch, names)) and names != [str(k) for k in range(len(names))]:
        raise BadInput(f"{path} has no line of column names: it begins with {', '.join(names[:8])}; add one")
    return found if keep is None else Batches(found.schema, _holding(found.batches, keep))


def _other_separator(path: Path, one: Batches, begin: str, asked: str, arguments: list[Any]) -> Batches:
    """Return a table that was read as one column by a rarer separator, which occurs equally often in every line.

    Raises:
        BadInput: there is none although the name of the column looks like several.
    """
    lines = [line for line in begin.splitlines()[:LINES_SEEN] if line]
    for mark in RARE_SEPARATORS:
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and counts != {0}:
            found = _query(path, asked.format(", delim = ?"), [*arguments, mark])
            if _texts(found.schema) < len(found.schema) > 1:
                return found
    for mark in ",;\t|":
        if mark in one.schema.names[0] and (line := _other_cells(lines, mark)):
            raise BadInput(f"line {line} of {path} has another number of columns than the lines before it; repair it")
    if any(mark in one.schema.names[0] for mark in ";\t|"):
        raise BadInput(f"{path} was read as one column named {one.schema.names[0]!r}; separate its columns by commas")
    return one


def _other_cells(lines: list[str], separator: str) -> int:
    """Return the number of the first line that has not as many cells as the first; 0 if few lines have as many."""
    counts = [len(cells) for cells in csv.reader(lines, delimiter=separator)]
    if 2 * counts.count(counts[0]) < len(counts):
        return 0
    return next((k for k, count in enumerate(counts, 1) if count != counts[0]), 0)


def _decimal_commas(begin: str) -> bool:
    """Return whether quoted numbers have a comma that is no mark of thousands: 1,5 or 1.234,56."""
    found = re.findall(r'"-?[\d.]*\d,(\d+)"', begin)
    return any(len(digits) != 3 for digits in found)


def _beginning(path: Path) -> tuple[str, str]:
    """Return the first text of a file and its encoding; a packed file is taken for UTF-8 and its text is empty.

    UTF-16 without a mark is known by the zero bytes of its ASCII characters; what is no UTF-8 is read as Latin-1.
    """
    if path.suffix in PACKED:
        return "", "utf-8"
    with path.open("rb") as file:
        begin = file.read(1 << 20)
    zeros = [begin[k::2].count(0) for k in (0, 1)]
    encoding = "utf-8"
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif max(zeros) > len(begin) // 4:
        encoding = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    else:
        try:
            begin.decode()
        except UnicodeDecodeError as error:
            # A character that the block cuts in two is no error.
            cut = len(begin) == 1 << 20 and len(begin) - error.start < 4
            encoding = "utf-8" if cut else "latin-1"
    return begin.decode(encoding, errors="replace"), encoding


def _as_utf8(path: Path, encoding: str) -> tuple[Path, Any]:
    """Copy a file as UTF-8; the copy is there as long as the second value is held."""
    folder = TemporaryDirectory()
    copy = Path(folder.name) / path.name
    try:
        with path.open(encoding=encoding, newline="") as source, copy.open("w", encoding="utf-8", newline="") as sink:
            shutil.copyfileobj(source, sink)
    except UnicodeError as error:
        raise BadInput(f"{path} is no {encoding} text: {error}") from None
    return copy, folder


def _holding(batches: Iterable[pa.RecordBatch], keep: Any) -> Iterator[pa.RecordBatch]:
    """Yield batches, and let go of what they are read from at the end."""
    yield from batches
    keep.cleanup()


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
        reader = frame_reader(frame)
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

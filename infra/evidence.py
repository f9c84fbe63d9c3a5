"""The evidence table: one row for each executed arm, stage body and orchestration, kept as Parquet parts.

Rows hold raw physical quantities; joules, money and carbon are derived from them later. A row is identified by what
was executed, and the latest row of an identity wins, so that a pending row is completed by appending it again.
Anybody can read the parts: `select * from '.ketcycle/evidence/*.parquet'`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from infra.energy.usage import Usage
from infra.errors import LakeError
from infra.store import Store

SCHEMA_VERSION = 5
# Parts of version 1 lack unit, twin, hit_rates and sub_jobs, those before 3 measures, those before 4 depths, those
# before 5 dollars billed.
READABLE = ("1", "2", "3", "4", "5")
Status = Literal["done", "failed", "stopped", "refused", "pending", "skipped"]

_BATCH = 2048
_VERSION_KEY = b"ketcycle.evidence"
_USAGES = ("usage", "prepare", "total")
_IDENTITY = ("run_id", "stage", "subtask", "problem", "arm", "repetition")
_MANY: dict[str, Any] = {"compression": "zstd"}
_FEW: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
_SMALL = 20  # rows of a part that is merged soon: compressing takes longer than all else
_READ_TRIES = 5
_ABANDONED_S = 3600.0
_KEYS = "evidence"  # below which the parts are in a store
_IN_MEMORY_ROWS = 5000  # of all parts together: those of some runs, which are read again after each decision


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class EvidenceRow:
    """One execution of one arm, of a stage's own work (arm `stage`) or of orchestration (arm `orchestration`).

    Attributes:
        run_id: the run.
        stage: name of the stage, empty for orchestration.
        subtask: name of the subtask, empty for stage and orchestration rows.
        problem: content key of the problem.
        arm: name of the arm.
        repetition: counts executions of the same arm on the same problem in one run.
        probe: whether the problem is a probe with known truth.
        size: size of the problem.
        kind: kind of the arm.
        role: `incumbent`, `challenger` or empty.
        arm_version: version of the arm.
        backend: backend that the arm's circuits ran on, empty if it ran none.
        calibration: calibration epoch of that backend.
        quality_backend: backend whose counts the quality rests on.
        status: what became of the execution; `stopped` over the budget of its problem, `skipped` over the run's
            shadow budget.
        reason: why it was not done, or why the arm was chosen.
        metric: name and unit of the quality.
        qualities: one value for each independent instance of the problem, higher is better.
        oracle: the best possible value for each of them, where known.
        usage: mean usage of one solve, without what arms share.
        prepare: usage of what arms share, charged to each arm that uses it: in full, or this problem's part of it where
            it serves many problems (`Subtask.serves`).
        total: everything that this execution really spent: all loops, and the sharing it was the first to need.
        loops: looped runs behind `usage`, 0 for a single cold run.
        energy_source: `measured`, `attributed` or `modelled`.
        reused: whether results of an earlier execution were served.
        chosen: whether this arm's solution was used.
        method: how the run picked the arm.
        tolerance: quality that may be lost.
        decision: the decision record, JSON.
        data: fingerprint of the data the problem was made from.
        unit: unit of independence of the problem's instances, e.g. the source they are made from; empty where each
            instance is its own.
        twin: arm that gives the same samples or values as this one without circuits, empty if there is none.
        hit_rates: probability for each instance that one execution comes within the tolerance of the oracle, where the
            arm reported what it drew; empty for a method without own randomness.
        measures: further values by name, one for each instance, JSON.
        versions: versions of the libraries, JSON.
        host: the machine.
        created_at: when the row was made, UTC, ISO 8601.
    """

    run_id: str
    stage: str = ""
    subtask: str = ""
    problem: str = ""
    arm: str = ""
    repetition: int = 0
    probe: bool = False
    size: int = 0
    kind: str = ""
    role: str = ""
    arm_version: str = ""
    backend: str = ""
    calibration: str = ""
    quality_backend: str = ""
    status: Status = "done"
    reason: str = ""
    metric: str = ""
    qualities: tuple[float, ...] = ()
    oracle: tuple[float, ...] = ()
    usage: Usage = field(default_factory=Usage)
    prepare: Usage = field(default_factory=Usage)
    total: Usage = field(default_factory=Usage)
    loops: int = 0
    energy_source: str = "modelled"
    reused: bool = False
    chosen: bool = False
    method: str = ""
    tolerance: float = 0.0
    decision: str = "{}"
    data: str = ""
    unit: str = ""
    twin: str = ""
    hit_rates: tuple[float, ...] = ()
    measures: str = "{}"
    versions: str = "{}"
    host: str = ""
    created_at: str = field(default_factory=_now)

    @property
    def row_id(self) -> str:
        """What identifies the row: the hash of run, stage, subtask, problem, arm and repetition."""
        return row_id(*(getattr(self, name) for name in _IDENTITY))

    def asdict(self) -> dict[str, Any]:
        """Return the row flat, as it stands in Parquet: `usage_cpu_s` and so on."""
        flat: dict[str, Any] = {"row_id": self.row_id}
        for name, value in vars(self).items():
            if isinstance(value, Usage):
                flat.update({f"{name}_{part}": number for part, number in value.asdict().items()})
            else:
                flat[name] = list(value) if isinstance(value, tuple) else value
        return flat


def row_id(run_id: str, stage: str, subtask: str, problem: str, arm: str, repetition: int) -> str:
    """Return the identity of a row."""
    text = json.dumps([run_id, stage, subtask, problem, arm, repetition])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def stage_row(run_id: str, stage: str, usage: Usage, **values: Any) -> EvidenceRow:
    """Return the row of a stage's own work, outside its decisions."""
    return EvidenceRow(run_id, stage, arm="stage", usage=usage, total=usage, **values)


def orchestration_row(run_id: str, usage: Usage, **values: Any) -> EvidenceRow:
    """Return the row of what scheduling, tracking and the ledger used."""
    return EvidenceRow(run_id, arm="orchestration", usage=usage, total=usage, **values)


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "Status": pa.string()}
_SCHEMA = pa.schema(
    [("row_id", pa.string())]
    + [(f.name, _ARROW[str(f.type)]) for f in fields(EvidenceRow) if str(f.type) in _ARROW]
    + [(name, pa.list_(pa.float64())) for name in ("qualities", "oracle", "hit_rates")]
    + [(f"{name}_{f.name}", _ARROW[str(f.type)]) for name in _USAGES for f in fields(Usage)]
    + [("appended", pa.int64())],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


class Evidence:
    """The evidence below one folder. Any number of processes may append and read at once.

    Attributes:
        root: the folder.
        store: where machines share it; the folder then mirrors its parts.
    """

    def __init__(self, root: Path, store: Store | None = None) -> None:
        self.root, self.store = Path(root), store

    def append(self, rows: Iterable[EvidenceRow]) -> None:
        """Add rows as one Parquet part; readers see all of them or none."""
        stamp = time.time_ns()
        flat = [{**row.asdict(), "appended": stamp + i} for i, row in enumerate(rows)]
        if flat:
            self._parts()
            self._put([pa.RecordBatch.from_pylist(flat, schema=_SCHEMA)], **_FEW if len(flat) < _SMALL else _MANY)

    def read(self, run_id: str | None = None, **equals: str | int | bool | None) -> list[EvidenceRow]:
        """Return the latest row of each identity, in the order of appending.

        Args:
            run_id: only rows of this run.
            **equals: further columns and the value they must have; None does not restrict.

        Raises:
            LakeError: a column is unknown, or a part was written with another schema version.
        """
        return list(self.scan(run_id, **equals))

    def scan(self, run_id: str | None = None, **equals: str | int | bool | None) -> Iterator[EvidenceRow]:
        """Yield what `read` returns, a batch in memory at a time."""
        wanted = {k: v for k, v in {"run_id": run_id, **equals}.items() if v is not None}
        unknown = sorted(set(wanted) - set(_SCHEMA.names))
        if unknown:
            raise LakeError(f"evidence has no column {', '.join(unknown)}; it has {', '.join(_SCHEMA.names)}")
        if not all(_COLUMNS.get(name) == {} for name in wanted) or (kept := self._in_memory()) is None:
            for batch in self._latest(wanted):
                for flat in batch.to_pylist():
                    yield _unflatten(flat)
            return
        early = [(name, wanted.pop(name)) for name in _IDENTITY if name in wanted]
        found = (item for item in kept if all(getattr(item[2], name) == value for name, value in early))
        rows = (row for _, _, row in _latest_of(found))
        yield from (row for row in rows if all(getattr(row, name) == value for name, value in wanted.items()))

    def sql(self, query: str) -> pa.Table:
        """Run a DuckDB query over `evidence`, the view of the latest rows."""
        parts = self._parts()
        with self._connect() as connection:
            _view_parts(connection, parts)
            connection.execute(f"create view evidence as {_latest_sql('parts', {})}")
            return connection.sql(query).to_arrow_table()

    def compact(self) -> int:
        """Merge all parts into one that holds the latest rows; return the number of parts merged.

        Appenders and readers may go on meanwhile: the merged part appears before the old ones disappear, and a row
        seen twice is one row. A second compaction at the same time does nothing.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".compact.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0
            self._sweep()
            parts = self._parts()
            if len(parts) < 2:
                return 0
            self._put(self._merged(parts), **_MANY)
            if self.store:
                self.store.delete(f"{_KEYS}/{path.name}" for path in parts)
            for path in parts:
                path.unlink(missing_ok=True)
            return len(parts)

    def remove(self, run_ids: Collection[str]) -> None:
        """Remove all rows of some runs; for one writer alone, as there is for evidence that ships."""
        parts = self._parts()
        kept = [row for row in self.read() if row.run_id not in run_ids]
        self.append(kept)
        for path in parts:
            path.unlink()

    def _sweep(self) -> None:
        # What a killed writer left; a living one is done within the hour.
        for path in self.root.glob(".part-*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def _latest(self, equals: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        for tries_left in reversed(range(_READ_TRIES)):
            parts = self._parts()
            try:
                # The rows are sorted, so all parts have been read before the first batch comes out.
                batches = self._query(parts, equals) if parts else iter(())
                first = next(batches, None)
            except duckdb.IOException:
                # A compaction may have taken parts away since they were listed; their rows are in the merged part.
                if not tries_left or all(path.exists() for path in parts):
                    raise
                continue
            if first is not None:
                yield first
                yield from batches
            return

    def _in_memory(self) -> list[_Kept] | None:
        """Return the rows of all parts, each part read once in this process; None where they are many."""
        for tries_left in reversed(range(_READ_TRIES)):
            parts = self._parts()
            try:
                if sum(_count(path, path.stat().st_mtime_ns) for path in parts) > _IN_MEMORY_ROWS:
                    return None
                return [kept for path in parts for kept in _rows_of(path, path.stat().st_mtime_ns)]
            except FileNotFoundError:  # a compaction took a part away; its rows are in the merged part
                if not tries_left:
                    raise
        return None

    def _merged(self, parts: list[Path]) -> Iterable[pa.RecordBatch]:
        """Return the latest rows of some parts; a few new ones without a database, whose start takes longer."""
        seen = [(path, path.stat().st_mtime_ns) for path in parts]
        old = any(_version(_metadata(*part)) != str(SCHEMA_VERSION) for part in seen)  # a column they lack stays null
        if old or sum(_count(*part) for part in seen) > _IN_MEMORY_ROWS:
            return self._query(parts, {})
        kept = _latest_of(item for part in seen for item in _rows_of(*part))
        flat = [{**row.asdict(), "appended": appended} for _, appended, row in kept]
        return [pa.RecordBatch.from_pylist(flat, schema=_SCHEMA)]

    def _query(self, parts: list[Path], equals: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        with self._connect() as connection:
            _view_parts(connection, parts)
            query = f"{_latest_sql('parts', equals)} order by appended"
            yield from connection.sql(query, params=equals).to_arrow_reader(_BATCH)

    def _connect(self) -> duckdb.DuckDBPyConnection:
        # What does not fit into memory is sorted on disk, beside the parts and not in the caller's working folder.
        spill = str(self.root / ".spill")
        return duckdb.connect(
            config={
                "autoinstall_known_extensions": False,
                "memory_limit": "1GB",
                "threads": 2,
                "temp_directory": spill,
            }
        )

    def _parts(self) -> list[Path]:
        if self.store:
            self._mirror(self.store)
        parts = sorted(self.root.glob("part-*.parquet"))
        for path in parts:
            with suppress(FileNotFoundError):  # compacted away since it was listed
                _count(path, path.stat().st_mtime_ns)
        return parts

    def _mirror(self, store: Store) -> None:
        """Fetch the parts that are not here, and drop those that are not in the store any more: they were merged."""
        here = {path.name for path in self.root.glob("part-*.parquet")}  # first: what is here was in the store before
        there = {key.rpartition("/")[2] for key in store.sizes(_KEYS)}
        self.root.mkdir(parents=True, exist_ok=True)
        for name in sorted(there - here):
            temporary = self.root / f".{name}.{uuid.uuid4().hex}"
            if store.get(f"{_KEYS}/{name}", temporary):
                temporary.replace(self.root / name)
            else:  # merged meanwhile, into a part that is there
                self._mirror(store)
                return
        for name in here - there:
            (self.root / name).unlink(missing_ok=True)

    def _put(self, batches: Iterable[pa.RecordBatch], **encoding: Any) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.parquet"
        temporary = self.root / f".{name}"
        try:
            with temporary.open("wb") as stream:
                with pq.ParquetWriter(stream, _SCHEMA, **encoding) as writer:
                    for batch in batches:
                        writer.write_batch(batch.cast(_SCHEMA))
                stream.flush()
                os.fsync(stream.fileno())
            if self.store:
                self.store.put(f"{_KEYS}/{name}", temporary)
            temporary.replace(self.root / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@lru_cache(maxsize=4096)
def _count(path: Path, modified_ns: int) -> int:
    """Return the number of rows of a part, read once while it is not modified.

    Raises:
        LakeError: it is damaged, or of another schema version.
    """
    return int(_metadata(path, modified_ns).num_rows)


@lru_cache(maxsize=512)
def _metadata(path: Path, _modified_ns: int) -> pq.FileMetaData:
    try:
        metadata = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from error
    if (found := _version(metadata)) not in READABLE:
        raise LakeError(
            f"{path} has evidence schema {found}, this version reads {' and '.join(READABLE)}; "
            f"read it with the version that wrote it, or set another KETCYCLE_HOME"
        )
    return metadata


def _version(metadata: pq.FileMetaData) -> str:
    return str((metadata.metadata or {}).get(_VERSION_KEY, b"none").decode())


_Kept = tuple[str, int, EvidenceRow]  # identity, when it was appended, the row


@lru_cache(maxsize=512)
def _rows_of(path: Path, modified_ns: int) -> tuple[_Kept, ...]:
    """Return the rows of a part, read once while it is not modified."""
    metadata = _metadata(path, modified_ns)
    try:
        found = pq.ParquetFile(path, metadata=metadata).read(use_threads=False)  # most parts have one row
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error
    if found.schema != _SCHEMA:  # of an older version
        found = pa.concat_tables([_SCHEMA.empty_table(), found], promote_options="default")
    return tuple((flat["row_id"], flat["appended"], _unflatten(flat)) for flat in found.to_pylist())


def _latest_of(kept: Iterable[_Kept]) -> list[_Kept]:
    """Return the latest row of each identity, in the order of appending."""
    latest: dict[str, _Kept] = {}
    for item in kept:
        if item[0] not in latest or item[1] > latest[item[0]][1]:
            latest[item[0]] = item
    return sorted(latest.values(), key=lambda item: item[1])


def _damaged(path: Path, error: Exception) -> LakeError:
    return LakeError(f"{path} is damaged: {error}; move it away to read the rest")


def _view_parts(connection: duckdb.DuckDBPyConnection, parts: list[Path]) -> None:
    """Name the rows of all parts `parts`, columns in the order of the schema; older parts lack some."""
    connection.from_arrow(_SCHEMA.empty_table()).create_view("no_rows")
    if not parts:
        connection.execute("create view parts as from no_rows")
        return
    connection.from_parquet([str(path) for path in parts], union_by_name=True).create_view("files")
    connection.execute("create view parts as from no_rows union all by name from files")


def _latest_sql(table: str, equals: dict[str, Any]) -> str:
    # A column of the identity is the same in all rows of one identity, so it may be filtered before the latest is
    # taken, which reads less; any other column only after.
    before = " and ".join(f"{name} = ${name}" for name in equals if name in _IDENTITY) or "true"
    after = " and ".join(f"{name} = ${name}" for name in equals if name not in _IDENTITY) or "true"
    latest = f"select * from {table} where {before} qualify row_number() over (partition by row_id order by appended desc) = 1"  # noqa: E501, S608
    return f"select * from ({latest}) where {after}"  # noqa: S608


# Fields of a row, those of usage with the column of each quantity.
_COLUMNS = {
    item.name: {part.name: f"{item.name}_{part.name}" for part in fields(Usage)} if item.name in _USAGES else {}
    for item in fields(EvidenceRow)
}


def _unflatten(flat: dict[str, Any]) -> EvidenceRow:
    values: dict[str, Any] = {}
    for name, columns in _COLUMNS.items():
        if columns:
            used = {part: flat[column] for part, column in columns.items()}
            values[name] = Usage(**{part: value for part, value in used.items() if value is not None})
        else:
            value = flat[name]
            if value is not None:  # a column that the part's version lacks
                values[name] = tuple(value) if isinstance(value, list) else value
    return EvidenceRow(**values)

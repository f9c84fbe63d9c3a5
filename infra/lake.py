"""The data lake: immutable data sets, each a folder of files and a manifest put last.

A reader sees only what a manifest names, so a writer killed half-way leaves nothing visible. A version is named by
the digest of its content: the same data written twice are one version. Knows nothing of stages.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import BadInput, LakeError

ROW_GROUP, GROUP_BYTES = 10_000, 64 * 2**20
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_VERSION = re.compile(r"[0-9a-f]{16}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PART = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, order=True)
class Ref:
    """A reference to one version of one data set."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read `name@version`.

        Raises:
            LakeError: the text has another form.
        """
        name, _, version = text.partition("@")
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise LakeError(f"a lake reference looks like curation/kept@0123456789abcdef, not {text!r}")
        return cls(name, version)


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:  # noqa: ARG001  (a forked child opens its own)
    """Return the database of this process, which keeps nothing: opening one takes longer than most queries."""
    return duckdb.connect(config={"autoinstall_known_extensions": False, "enable_external_file_cache": False})


class Lake:
    """Data sets below one folder.

    Attributes:
        root: the folder.
        place: what it is called in messages.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.place = Path(root), str(root)

    def write(self, name: str, tables: pa.Table | Iterable[pa.Table], meta: Mapping[str, Any] | None = None) -> Ref:
        """Write a stream of tables of one schema as a Parquet data set, a few row groups in memory at a time.

        Raises:
            LakeError: no table was given, so there is no schema to keep.
        """
        stream = iter([tables]) if isinstance(tables, pa.Table) else iter(tables)
        with self._filling(name) as folder:
            first = next(stream, None)
            if first is None:
                raise LakeError(f"{name}: nothing to write; give at least one (possibly empty) table with its schema")
            schema = first.schema
            with pq.ParquetWriter(folder / "part-00000.parquet", schema, compression="zstd") as writer:
                for group in row_groups(chain([first], (table.cast(schema) for table in stream))):
                    writer.write_table(group, row_group_size=ROW_GROUP)
            return self._seal(name, folder, meta or {})

    def put_folder(self, name: str, source: Path, meta: Mapping[str, Any] | None = None, *, link: bool = False) -> Ref:
        """Copy a folder of files (a model, a tokenizer) into the lake; `link` names files that never change again."""
        with self._filling(name) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=link_or_copy if link else shutil.copy2)
            return self._seal(name, folder, meta or {})

    def folder(self, ref: Ref) -> Path:
        """Return the local folder that holds the files of a version.

        Raises:
            LakeError: there is no such version, or it is damaged.
        """
        self.files(ref)
        return self.root / ref.name / str(self.manifest(ref)["folder"])

    def files(self, ref: Ref) -> list[Path]:
        """Return the files of a version.

        Raises:
            LakeError: there is no such version, or one of its files is gone or has another size.
        """
        found = []
        for path, entry in self.entries(ref):
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                has = "is gone" if size is None else f"has {size} bytes"
                raise damaged(ref, f"{path} {has}, its manifest says {entry['bytes']} bytes")
            found.append(path)
        return found

    def verify(self, ref: Ref) -> None:
        """Read a version whole and compare its files with their digests.

        Raises:
            LakeError: there is no such version, or it is damaged.
        """
        self.files(ref)
        for path, entry in self.entries(ref):
            if sha256(path) != entry["sha256"]:
                raise damaged(ref, f"{path} does not hold what was written")

    def check(self, ref: Ref) -> None:
        """Check whether a version exists, without reading it.

        Raises:
            LakeError: there is no such version, or one of its files is gone or has another size.
        """
        self.files(ref)

    def entries(self, ref: Ref) -> list[tuple[Path, dict[str, Any]]]:
        """Return where each file of a version is, or would be, and its entry in the manifest: path, sha256, bytes.

        Raises:
            LakeError: there is no such version, or its manifest cannot be read.
        """
        manifest = self.manifest(ref)
        base = self.root / ref.name / manifest["folder"]
        return [(base / entry["path"], entry) for entry in manifest["files"]]

    def manifest(self, ref: Ref) -> dict[str, Any]:
        """Return the manifest of a version.

        Raises:
            LakeError: there is no such version, or its manifest cannot be read.
        """
        path = self._manifest_path(ref)
        try:
            manifest: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise LakeError(
                f"the lake at {self.place} has no data set {ref}; was it cleaned? run the stage again"
            ) from None
        except ValueError as error:
            raise damaged(ref, f"{path} is no manifest ({error})") from None
        return manifest

    def _manifest_path(self, ref: Ref) -> Path:
        return self.root / ref.name / f"{ref.version}.json"

    def meta(self, ref: Ref) -> dict[str, Any]:
        """Return the metadata that the writer stored with a version."""
        meta: dict[str, Any] = self.manifest(ref)["meta"]
        return meta

    def rows(self, ref: Ref) -> int:
        """Return the number of rows of a Parquet data set."""
        return sum(entry.get("rows", 0) for entry in self.manifest(ref)["files"])

    def read(self, ref: Ref, columns: list[str] | None = None) -> pa.Table:
        """Read a whole Parquet data set."""
        with _readable(ref):
            # `pq.read_table` imports pandas.
            return pa.concat_tables(pq.ParquetFile(path).read(columns) for path in self._parquet(ref))

    def scan(self, ref: Ref, columns: list[str] | None = None, batch_size: int = 2048) -> Iterator[pa.RecordBatch]:
        """Read a Parquet data set in record batches, memory flat."""
        for path in self._parquet(ref):
            with _readable(ref), pq.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(batch_size=batch_size, columns=columns)

    def sql(self, query: str, **tables: Ref) -> pa.Table:
        """Run a DuckDB query over data sets; each keyword is the name of a table in the query."""
        with _database(os.getpid()).cursor() as connection:
            for table, ref in tables.items():
                paths = ", ".join("'" + str(path).replace("'", "''") + "'" for path in self._parquet(ref))
                connection.execute(f"create temp view {table} as from read_parquet([{paths}])")  # of this cursor alone
            return connection.sql(query).to_arrow_table()

    def names(self, below: str = "") -> list[str]:
        """Return the names of all data sets, or of those below a name, in alphabetical order."""
        walk = os.walk(self.root / below)  # passes over a folder that another process removes meanwhile
        found = (Path(folder, file) for folder, _, files in walk for file in files if file.endswith(".json"))
        return named_by(_name(self.root, path) for path in found)

    def versions(self, name: str) -> list[Ref]:
        """Return all versions of a data set, the oldest first."""
        found = sorted((self.root / name).glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [Ref(name, path.stem) for path in found]

    def orphans(self, older_than_s: float = 3600.0) -> list[Path]:
        """Return folders that no manifest names, left by killed or outrun writers; young ones may be in use.

        Folders and hidden files directly below a data set count; the caller takes them away.
        """
        found = []
        for folder in sorted({path.parent for path in self.root.rglob("*") if _is_part(path)}):
            named = {self.manifest(Ref(_name(self.root, folder), p.stem))["folder"] for p in _manifests(folder)}
            found += [path for path in sorted(folder.iterdir()) if _is_part(path) and path.name not in named]
        return [path for path in found if time.time() - _newest_s(path) > older_than_s]

    def remove(self, ref: Ref) -> int:
        """Delete a version, its manifest first so that no reader finds a partial version; return the bytes freed.

        Raises:
            LakeError: there is no such version.
        """
        manifest = self.manifest(ref)
        self._manifest_path(ref).unlink(missing_ok=True)
        shutil.rmtree(self.root / ref.name / manifest["folder"], ignore_errors=True)
        return sum(entry["bytes"] for entry in manifest["files"])

    def _parquet(self, ref: Ref) -> list[Path]:
        return [path for path in self.files(ref) if path.suffix == ".parquet"]

    @contextmanager
    def _filling(self, name: str) -> Iterator[Path]:
        """Yield a new folder for the files of a version; it is deleted if no version is made of it."""
        if not _NAME.fullmatch(name):
            raise LakeError(f"a data set is named in lower case like curation/kept, not {name!r}")
        folder = self.root / name / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise LakeError(_cannot_write(name, self.root, error)) from error
        try:
            yield folder
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise LakeError(_cannot_write(name, self.root, error)) from error
            raise

    def _seal(self, name: str, folder: Path, meta: Mapping[str, Any]) -> Ref:
        entries: list[dict[str, Any]] = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = {"path": str(path.relative_to(folder)), "sha256": sha256(path), "bytes": path.stat().st_size}
            if path.suffix == ".parquet":
                entry["rows"] = pq.read_metadata(path).num_rows
            entries.append(entry)
        content = json.dumps([[e["path"], e["sha256"]] for e in entries] + [json.dumps(dict(meta), sort_keys=True)])
        ref = Ref(name, hashlib.sha256(content.encode()).hexdigest()[:16])
        manifest = {"folder": folder.name, "files": entries, "meta": dict(meta), "written_ns": time.time_ns()}
        self._publish(ref, folder, manifest)
        return ref

    def _publish(self, ref: Ref, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Make a version of a folder, unless that version exists already."""
        try:
            self.check(ref)
        except LakeError:  # new, or damaged and replaced by what was written now
            write_atomic(self._manifest_path(ref), json.dumps(manifest, indent=1))
        else:
            shutil.rmtree(folder)


def sha256(path: Path) -> str:
    """Return the hexadecimal hash of a file, and flush it to disk before a manifest names it."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()


def damaged(ref: Ref, what: str) -> LakeError:
    """Return the error for a version whose files differ from its manifest."""
    return LakeError(f"{ref} is damaged: {what}; run the stage again, which writes it anew")


@contextmanager
def _readable(ref: Ref) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise damaged(ref, str(error)) from error


def _cannot_write(name: str, root: Path, error: OSError) -> str:
    if error.errno in _NO_ROOM:
        there = next(path for path in (root, *root.absolute().parents) if path.exists())
        free_mb = shutil.disk_usage(there).free / 2**20
        return (
            f"{name} was not written: no space left on the disk of {root} ({free_mb:.0f} MiB free); make room, e.g. "
            "with ketcycle clean, and continue the run with --resume"
        )
    return f"{name} was not written: {error.strerror}: {error.filename or root}; choose another KETCYCLE_HOME"


def _is_part(path: Path) -> bool:
    """Return whether a path is a folder of parts, or an unfinished manifest."""
    return bool(_PART.fullmatch(path.name)) if path.is_dir() else path.name.startswith(".")


def _manifests(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if _VERSION.fullmatch(path.stem)]


def named_by(paths: Iterable[str]) -> list[str]:
    """Return the data sets whose manifests are among paths relative to a lake, in alphabetical order."""
    found = set()
    for folder, _, file in (path.rpartition("/") for path in paths):
        inside = any(_PART.fullmatch(part) for part in folder.split("/"))
        if not inside and file.endswith(".json") and _VERSION.fullmatch(file.removesuffix(".json")):
            found.add(folder)
    return sorted(found)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _newest_s(path: Path) -> float:
    inside = path.rglob("*") if path.is_dir() else ()
    return max((item.stat().st_mtime for item in (path, *inside)), default=0.0)


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Link or clone a file to a second place without copying its bytes, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_atomic(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part.

    Raises:
        OSError: the disk is full or the folder is not writable; the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, text: str) -> None:
    """Create a file atomically; of several concurrent writers one succeeds.

    Raises:
        FileExistsError: it is there.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_atomic(draft, text)
        path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield small tables merged: a file of many small row groups is slow to read and has a large footer."""
    waiting: list[pa.Table] = []
    rows = n_bytes = 0
    for table in tables:
        waiting.append(table)
        rows, n_bytes = rows + table.num_rows, n_bytes + table.nbytes
        if rows >= ROW_GROUP or n_bytes >= GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, rows, n_bytes = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def check_folder(folder: Path) -> None:
    """Create the folder that will receive the tables.

    Raises:
        BadInput: it cannot be made.
    """
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be made a folder ({error.strerror}); choose another one") from None

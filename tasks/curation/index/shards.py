"""The stored index of a corpus: shards, each made once from some files and never changed.

A shard holds what near-duplicate search needs of its candidates (signatures, band keys, shingle sets), their texts,
and what became of every document read. It is named by the digest of its files, their names and the recipe, so files
that were seen before are not read again, a shard whose worker was killed is made again and no other, and the same
corpus gives the same shards. Files are grouped by the digest of their names, so that a new file changes one group.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from tasks.corpus.documents import DOCUMENTS, GIVEN, Layout, Piece
from tasks.corpus.filters import RuleSet
from tasks.corpus.formats.bundles import DAMAGED, spans
from tasks.corpus.formats.kinds import (
    ARROW,
    BUNDLES,
    JSON,
    LINES,
    PARQUET,
    Found,
    Skipped,
    find_files,
    local,
    refusal,
    shown,
)
from tasks.corpus.read import Reader
from tasks.corpus.tabular.arrow import open_arrow
from tasks.corpus.tabular.columns import TEXT_COLUMNS
from tasks.corpus.tabular.json_records import CHUNK, are_cut, cut_lines
from tasks.corpus.tabular.schemas import holds, union
from tasks.curation.index.funnel import Candidates, Funnel
from tasks.curation.index.shingles import I64, PERMUTATIONS, U32, U64, compiled

log = logging.getLogger("ketcycle.curation")

TELL_S = 0.5
LAYOUT = 6  # raised when what a shard holds is computed in another way
BATCH = 256
SIGNED_AT_ONCE = 16_384
GROUP_BYTES = 4 * 2**20  # of the texts that are written at once
WORTHLESS = 1e-9  # weight of a document whose score is missing or no positive number
F64 = NDArray[np.float64]
TOUCHED = 512  # candidates read from a map until it is let go; the kernel maps 64 KiB for each
TEXT = pa.string()
ROWS = pa.schema(
    {"doc_id": TEXT, "source": TEXT, "label": TEXT, "text": pa.large_string()}
    | {"n_words": pa.int64(), "n_bytes": pa.int64(), "weight": pa.float64()}
)
READ = pa.schema({"doc_id": TEXT, "rule": TEXT, "detail": TEXT, "slot": pa.int32()})
ASIDE = pa.schema({"domain": TEXT, "path": TEXT, "reason": TEXT, "detail": TEXT, "record": TEXT, "count": pa.int64()})
UNREADABLE = "unreadable"  # begins what stands for the digest of a file that cannot be read
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Recipe:
    """How shards are made.

    Attributes:
        rules: the quality rules.
        layout: where documents are in the files.
        redact: whether personal data are replaced.
        ignore_case: whether texts that differ in case alone are exact copies.
        permutations: values of a signature.
        bands: bands of a signature.
        band_rows: values of a band.
        texts: whether the shard holds texts and the user's columns.
        own_code: digest of the user's own rules.
    """

    rules: RuleSet = field(default_factory=RuleSet)
    layout: Layout = field(default_factory=Layout)
    redact: bool = False
    ignore_case: bool = False
    permutations: int = PERMUTATIONS
    bands: int = 32
    band_rows: int = 4
    texts: bool = True
    own_code: str = ""


@dataclass(frozen=True)
class Work:
    """A shard to be made, or found.

    Attributes:
        key: its name.
        domain: of its documents.
        pieces: its files.
        digests: of the files, for machines that have other paths.
    """

    key: str
    domain: str
    pieces: tuple[Piece, ...]
    digests: tuple[str, ...] = ()


def plan_shards(
    domain: str, paths: Sequence[Path], recipe: Recipe, n_bytes: int, out: Path | None = None
) -> tuple[list[Work], list[Skipped]]:
    """Return the shards of files and folders in order, and the files that are not read.

    Args:
        domain: of the documents.
        paths: the files and folders.
        recipe: how the shards are made.
        n_bytes: of the files of a shard, about.
        out: the folder that the tables go to.

    Raises:
        BadInput: a file that was given by name has a format that is not recognised.
    """
    skipped: list[Skipped] = []
    made = json.dumps([LAYOUT, domain, asdict(recipe)], sort_keys=True, default=str)
    work: list[Work] = []
    group: list[tuple[Piece, str]] = []
    size = 0

    def close() -> None:
        nonlocal group, size
        if group:
            content = json.dumps(
                [made, *((p.file.name, p.file.kind, p.file.packing, p.groups, digest) for p, digest in group)]
            )
            key = hashlib.sha256(content.encode()).hexdigest()[:32]
            work.append(Work(key, domain, tuple(piece for piece, _ in group), tuple(digest for _, digest in group)))
        group, size = [], 0

    by_name = {shown(PurePath(path.name)) for path in paths if not path.is_dir()}
    for found in find_files(paths, recipe.layout.form, code=recipe.layout.code, out=out):
        if isinstance(found, Skipped):
            if found.name in by_name:
                from infra.errors import BadInput  # banks of decisions use this module without infra

                raise BadInput(refusal(Path(found.name), found))
            skipped.append(found)
            continue
        digest, length = digest_of(found.path), found.path.stat().st_size
        for piece in _parts(found, n_bytes):
            if piece.groups is not None or size + length > n_bytes:
                close()
            group.append((piece, digest))
            size += length
            if piece.groups is not None or hashlib.sha256(found.name.encode()).digest()[0] < 4:  # one name of 64
                close()
    close()
    return work, skipped


def digest_of(path: Path) -> str:
    """Return the digest of the content of a file; of one that cannot be read, why."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"{UNREADABLE} {error.errno}"


def _parts(found: Found, n_bytes: int) -> list[Piece]:
    """Return the parts of a large file that can be read from several places, or any other file as a whole."""
    try:
        if found.kind in BUNDLES:
            parts = [Piece(found, span) for span in spans(found, n_bytes)]
        elif found.packing or found.path.stat().st_size <= n_bytes:
            parts = []
        elif found.kind in (LINES, JSON):
            parts = _parts_of_lines(found, n_bytes)
        else:
            parts = [Piece(found, groups) for groups in _groups(found, n_bytes)]
    except (*DAMAGED, pa.ArrowException):  # put aside by the reader
        parts = []
    return parts or [Piece(found)]


def _parts_of_lines(found: Found, n_bytes: int) -> list[Piece]:
    with found.path.open("rb") as stream:
        if not are_cut(found.kind, stream.read(CHUNK)):
            return []
        stream.seek(0)
        return [Piece(found, (start, end), line) for start, end, line in cut_lines(stream, n_bytes)]


def _groups(found: Found, n_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of row groups of a Parquet file, or of batches of an Arrow file."""
    sizes = _group_sizes(found) if found.kind in (PARQUET, ARROW) else []
    first = held = 0
    for group, own in enumerate(sizes):
        if held and held + own > n_bytes:
            yield first, group
            first, held = group, 0
        held += own
    if sizes:
        yield first, len(sizes)


def _group_sizes(found: Found) -> list[int]:
    """Return the bytes of the row groups of a file, or about those of its batches."""
    if found.kind == PARQUET:
        with local(found.path) as source:
            metadata = pq.read_metadata(source)
        groups, columns = range(metadata.num_row_groups), range(metadata.num_columns)
        return [sum(metadata.row_group(g).column(c).total_compressed_size for c in columns) for g in groups]
    with pa.memory_map(os.fsencode(found.path)) as source:
        _, batches = open_arrow(source)
        count = sum(1 for _ in batches)
    return [found.path.stat().st_size // max(1, count)] * count


def length_weights(n_words: ArrayLike) -> F64:
    """Return the weights of documents by their length: the square roots of their numbers of words."""
    found: F64 = np.sqrt(np.maximum(1, np.asarray(n_words, np.int64)))
    return found


def make_shard(root: Path, work: Work, recipe: Recipe) -> Path:
    """Make a shard and return its folder; at once where it is there already."""
    target = root / work.key
    if (target / "facts.json").exists():
        os.utime(target)
        return target
    draft = root / f".{work.key}.{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    try:
        _fill(draft, work, recipe)
        try:
            draft.rename(target)
        except OSError:  # another worker was faster; its shard is the same
            if not (target / "facts.json").exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _fill(folder: Path, work: Work, recipe: Recipe) -> None:
    reader = Reader(work.domain, recipe.layout if recipe.texts else replace(recipe.layout, columns=TEXT_COLUMNS))
    funnel = Funnel(recipe.rules.build(), recipe.permutations, recipe.redact, recipe.ignore_case)
    names: list[pa.Array] = []
    small: dict[str, list[Any]] = {"weights": [], "fingerprints": [], "ends": []}
    filled = read = told = 0
    at = time.monotonic()
    with _Rows(folder) as rows, (folder / "sets").open("wb") as sets, (folder / "signatures").open("wb") as signed:
        for batch in reader.batches(work.pieces):
            texts = funnel.redacted_texts(batch.column("text"))
            found = funnel.take(texts, batch.column("replaced"))
            names.append(batch.column("doc_id"))
            sets.write(found.values.data)
            small["ends"].append(found.ends + filled)
            filled += len(found.values)
            weights = _weights(batch, found.rows, found.n_words, bool(recipe.layout.weight_column))
            small["weights"].append(weights)
            small["fingerprints"].append(found.fingerprints)
            signed.write(found.signatures.data)
            if recipe.texts:
                rows.write(_row_batch(batch, texts, found, weights))
            read += batch.num_rows
            if time.monotonic() - at > TELL_S:
                log.info("%s: %d documents read", work.domain, read, extra={"count": ("documents", read - told, 0)})
                at, told = time.monotonic(), read
    empty = {"weights": np.float64, "ends": np.int64, "fingerprints": np.uint64}
    for name, parts in small.items():
        shape = (0, 2) if name == "fingerprints" else (0,)
        np.concatenate([np.zeros(shape, empty[name]), *parts]).tofile(folder / name)
    candidates = sum(len(part) for part in small["weights"])
    _write_bands(folder, candidates, recipe)
    ids = pa.chunked_array(names, TEXT)
    slots = pa.array(np.concatenate([np.zeros(0, np.int64), *funnel.slots]), pa.int32())
    columns = [ids, pa.array(funnel.rule, TEXT), pa.array(funnel.detail, TEXT), slots]
    pq.write_table(pa.table(columns, schema=READ), folder / "read.parquet", compression="zstd")
    aside = [{"domain": work.domain, **asdict(item)} for item in reader.quarantined]
    pq.write_table(pa.Table.from_pylist(aside, ASIDE), folder / "aside.parquet")
    facts = {
        "domain": work.domain,
        "read": funnel.read,
        "candidates": candidates,
        "quarantined": sum(item.count for item in reader.quarantined),
        "replaced": funnel.replaced,
        "redacted": dict(funnel.redacted),
        "named": reader.named,
        "text_names": sorted(reader.text_names),
        "columns": sorted(reader.columns),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _write_bands(folder: Path, candidates: int, recipe: Recipe) -> None:
    """Write the band keys of stored signatures, (bands, candidates), some candidates at a time."""
    with (folder / "signatures").open("rb") as signatures, (folder / "bands").open("wb") as bands:
        for start in range(0, candidates, SIGNED_AT_ONCE):
            part = np.fromfile(signatures, np.uint32, SIGNED_AT_ONCE * recipe.permutations)
            keys = band_keys(part.reshape(-1, recipe.permutations), recipe.bands, recipe.band_rows)
            for band in range(recipe.bands):
                bands.seek(8 * (band * candidates + start))
                bands.write(keys[band].data)


class _Rows:
    """Writes the rows of a shard; a new file begins where their columns change."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._writer is not None:
            self._writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Write some rows, several batches at once."""
        if self._writer is None or self._writer.schema != batch.schema:
            self.__exit__()
            path = self._folder / f"rows-{self._count:05d}.parquet"
            self._writer = pq.ParquetWriter(path, batch.schema, compression="lz4")
            self._count += 1
        self._waiting.append(batch)
        self._held += batch.nbytes
        if self._held >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        if self._writer is not None and self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting, self._held = [], 0


def _weights(batch: pa.RecordBatch, rows: I64, n_words: I64, given: bool) -> F64:
    """Return the weights of documents: their own score, next to nothing without one, or by their length."""
    if not given:
        return length_weights(n_words)
    found: F64 = pc.fill_null(batch.column("score").take(pa.array(rows)), WORTHLESS).to_numpy(zero_copy_only=False)
    return found


def _row_batch(batch: pa.RecordBatch, texts: pa.Array, found: Candidates, weights: F64) -> pa.RecordBatch:
    """Return the rows of a batch as a shard holds them: `ROWS`, then the user's columns."""
    n_words, weight = np.zeros(len(batch), np.int64), np.zeros(len(batch))
    n_words[found.rows], weight[found.rows] = found.n_words, weights
    given = [name for name in batch.schema.names if name not in DOCUMENTS.names]
    columns = [*(batch.column(name) for name in ("doc_id", "source", "label")), texts, pa.array(n_words)]
    columns += [pc.binary_length(texts).cast(pa.int64()), pa.array(weight), *(batch.column(name) for name in given)]
    return pa.RecordBatch.from_arrays(columns, names=[*ROWS.names, *given])


def band_keys(signatures: U32, bands: int, band_rows: int) -> U64:
    """Return a key for each band of each signature, (bands, n)."""
    return _band_keys(signatures, bands, band_rows)


@compiled
def _band_keys(signatures: U32, bands: int, band_rows: int) -> U64:
    keys = np.empty((bands, len(signatures)), np.uint64)
    for i in range(len(signatures)):
        for band in range(bands):
            key = np.uint64(0)
            for p in range(band * band_rows, (band + 1) * band_rows):
                key = (key ^ np.uint64(signatures[i, p])) * _MIX
                key ^= key >> np.uint64(31)
            keys[band, i] = key
    return keys


class Shard:
    """A finished shard; large arrays are mapped, not loaded."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.key = folder, folder.name
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
        self.size = int(self.facts["candidates"])
        self.domain = str(self.facts["domain"])
        self._recipe = recipe
        self._maps: dict[str, mmap.mmap] = {}

    def load(self, name: str) -> Any:
        """Return `weights` or `fingerprints`."""
        kind = np.uint64 if name == "fingerprints" else np.float64
        found = np.fromfile(self.folder / name, kind)
        return found.reshape(-1, 2) if name == "fingerprints" else found

    def band(self, number: int) -> U64:
        """Return the keys of a band."""
        return np.fromfile(self.folder / "bands", np.uint64, self.size, offset=8 * self.size * number)

    @property
    def signatures(self) -> U32:
        """The signatures, (n, permutations), mapped."""
        found: U32 = self._mapped("signatures", np.uint32)
        return found.reshape(-1, self._recipe.permutations)

    @property
    def sets(self) -> U64:
        """The shingle sets, mapped."""
        found: U64 = self._mapped("sets", np.uint64)
        return found

    @property
    def ends(self) -> I64:
        """Where each shingle set ends, mapped."""
        found: I64 = self._mapped("ends", np.int64)
        return found

    def _mapped(self, name: str, kind: Any) -> Any:
        if name not in self._maps:
            path = self.folder / name
            if path.stat().st_size == 0:
                return np.zeros(0, kind)
            with path.open("rb") as stream:
                self._maps[name] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._maps[name], kind)

    def forget(self) -> None:
        """Let the mapped pages go, so that they do not count as memory of this process."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return the outcome of each document, in the order in which they were read."""
        return pq.read_table(self.folder / "read.parquet", columns=columns)

    def aside(self) -> pa.Table:
        """Return what was put aside."""
        return pq.read_table(self.folder / "aside.parquet")

    def parts(self) -> list[Path]:
        """Return the files of the rows; within each all rows have the same columns."""
        return sorted(self.folder.glob("rows-*.parquet"))

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield all documents read, in their order: `ROWS`, then the user's columns."""
        for path in self.parts():
            with pq.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(BATCH)


@dataclass
class Index:
    """The shards of a corpus, in its order; a candidate has one number over all of them."""

    shards: Sequence[Shard]
    starts: I64 = field(init=False)

    def __post_init__(self) -> None:
        self.starts = np.cumsum([0, *(shard.size for shard in self.shards)], dtype=np.int64)

    @classmethod
    def open(cls, folders: Iterable[Path], recipe: Recipe) -> Self:
        """Open finished shards."""
        return cls([Shard(folder, recipe) for folder in folders])

    @property
    def size(self) -> int:
        """Number of candidates."""
        return int(self.starts[-1])

    @cached_property
    def given_columns(self) -> pa.Schema:
        """The user's columns of all shards, with types that hold the values of all of them exactly."""
        schemas: dict[Path, pa.Schema] = {}
        for path in (path for shard in self.shards for path in shard.parts()):
            schemas[path] = pa.schema([f for f in pq.read_schema(path) if f.name.startswith(GIVEN)])
        whole = union(schemas.values())
        kinds = {one.name: one.type for one in whole}
        for path, schema in schemas.items():
            for one in schema:
                if one.type == kinds[one.name] or pa.types.is_null(one.type) or kinds[one.name] == TEXT:
                    continue
                with pq.ParquetFile(path, pre_buffer=False) as file:
                    columns = (batch.column(one.name) for batch in file.iter_batches(BATCH, columns=[one.name]))
                    if not all(holds(kinds[one.name], column) for column in columns):
                        kinds[one.name] = TEXT
        return pa.schema(kinds)

    def gather(self, name: str) -> Any:
        """Return `weights` or `fingerprints` of all candidates."""
        shape = (0, 2) if name == "fingerprints" else (0,)
        kind = np.uint64 if name == "fingerprints" else np.float64
        return np.concatenate([np.zeros(shape, kind), *(shard.load(name) for shard in self.shards)])

    def signatures(self, rows: I64) -> U32:
        """Return the signatures of some candidates, whose numbers rise."""
        parts: list[U32] = []
        for shard, inside in self._split(rows):
            parts.append(shard.signatures[inside])
            shard.forget()
        return np.concatenate(parts)

    def sets(self, rows: I64) -> tuple[U64, I64]:
        """Return the shingle sets of some candidates, whose numbers rise, and where each ends."""
        values, sizes = [], []
        for shard, inside in self._split(rows):
            ends = shard.ends
            first, last = np.where(inside > 0, ends[inside - 1], 0), ends[inside]
            values.append(_copied(shard.sets, first, last))
            sizes.append(last - first)
            shard.forget()
        return np.concatenate(values), np.cumsum(np.concatenate(sizes))

    def _split(self, rows: I64) -> Iterator[tuple[Shard, I64]]:
        cuts = np.searchsorted(rows, self.starts)
        for shard, start, a, b in zip(self.shards, self.starts, cuts, cuts[1:], strict=False):
            for first in range(a, b, TOUCHED):
                yield shard, rows[first : min(first + TOUCHED, b)] - start


@compiled
def _copied(values: U64, first: I64, last: I64) -> U64:
    total = 0
    for k in range(len(first)):
        total += last[k] - first[k]
    found = np.empty(total, np.uint64)
    at = 0
    for k in range(len(first)):
        for s in range(first[k], last[k]):
            found[at] = values[s]
            at += 1
    return found

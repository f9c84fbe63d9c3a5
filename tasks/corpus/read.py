"""Read corpora of many formats as streams of documents, with all columns that their tables have.

Formats: Parquet, Arrow, JSON lines, JSON documents, CSV and TSV, plain text, HTML, WARC and WET, each also packed
(gzip, bzip2, xz, zstd, lz4). A file, row or line that cannot be read is put aside with its reason and the rest goes
on. Memory holds one batch, whatever the size of a file: tables go by record batches, lines are bounded, and a long
plain text is cut into passages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.corpus import records
from tasks.corpus.columns import Texts, column_at, find_path, holds_text, ids_of, numbers_of, repaired, texts_of
from tasks.corpus.encodings import Decoder, Joined, as_utf8, is_binary, mark_of, replaced, utf16_without_mark
from tasks.corpus.kinds import (
    CSV,
    JSON,
    LINES,
    TSV,
    Found,
    Skipped,
    find_files,
    unpacked,
)
from tasks.corpus.passages import passages
from tasks.corpus.records import unique_columns
from tasks.corpus.schemas import json_text, storable
from tasks.corpus.web import MAX_PAGE, html_text, warc_pages

TEXT_COLUMNS = ("text", "content", "body")
ID_COLUMNS = ("doc_id", "id")
WHOLE_FILE = 32_768
MAX_LINE = 32 * 2**20
BATCH = 256
GIVEN = "given:"  # precedes the names of the user's columns
DOCUMENTS = pa.schema(
    {
        "doc_id": pa.string(),
        "source": pa.string(),
        "label": pa.string(),
        "text": pa.large_string(),
        "replaced": pa.int64(),
        "score": pa.float64(),
    }
)
T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """One document as read.

    Attributes:
        doc_id: stable and unique within the corpus: the file's own id, or path and row.
        domain: `base` or `second`.
        source: the file's own source, or the path of the file below the given folder.
        label: the file's own label, or empty.
        text: the decoded text.
        replaced: characters that could not be decoded and became U+FFFD.
        score: its weight in the weight column; None if there is none, or no positive number.
    """

    doc_id: str
    domain: str
    source: str
    label: str
    text: str
    replaced: int = 0
    score: float | None = None


@dataclass(frozen=True)
class Layout:
    """Where documents are in the files.

    Attributes:
        text_column: column of the text, or a dotted path into nested fields; empty = the first of `text`, `content`,
            `body`.
        id_column: column of the id; empty = `doc_id` or `id` where there is one, else path and row.
        weight_column: column with the weight of a document; empty = none is read.
        columns: other columns that are carried along; empty = all.
        list_rows: whether each item of a list of texts is a document; else the items are joined by empty lines.
        form: format of all files; empty = by their endings, else by their first bytes.
        code: whether source code is read from folders.
        max_line: bytes of a line; a longer one is put aside.
    """

    text_column: str = ""
    id_column: str = ""
    weight_column: str = ""
    columns: tuple[str, ...] = ()
    list_rows: bool = False
    form: str = ""
    code: bool = False
    max_line: int = MAX_LINE


@dataclass(frozen=True)
class Piece:
    """A file, or some row groups of a Parquet file.

    Attributes:
        file: the file.
        groups: first and last row group (exclusive), or None for all.
    """

    file: Found
    groups: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quarantined:
    """A file, row or line that was put aside.

    Attributes:
        path: the file below the given folder, with the place in it.
        reason: a few words, the same for all of a kind.
        detail: more about this one.
        record: the line or row as it was given, shortened.
    """

    path: str
    reason: str
    detail: str
    record: str = ""


@dataclass
class Reader:
    """Reads the files of one domain and records what it puts aside.

    Attributes:
        domain: given to every document.
        layout: where documents are in the files.
        quarantined: what was put aside so far.
        seen: ids given so far by `read`; share it between readers to keep ids unique over domains.
        named: documents whose id came from a column.
        text_names: columns of the texts.
        columns: columns of all tables.
    """

    domain: str
    layout: Layout = field(default_factory=Layout)
    quarantined: list[Quarantined] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    named: int = 0
    text_names: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)

    def read(self, paths: Sequence[Path]) -> Iterator[list[Document]]:
        """Yield batches of documents of all files, folders in the order of their paths; skipped files are put aside.

        Raises:
            FileNotFoundError: a path does not exist.
        """
        for root in paths:
            if not root.exists():
                raise FileNotFoundError(f"there is no {root}")
        rows = (row for piece in self._pieces(paths) for batch in self.batches([piece]) for row in batch.to_pylist())
        while some := list(islice(rows, BATCH)):
            yield [
                self._unique(Document(domain=self.domain, **{name: row[name] for name in DOCUMENTS.names}))
                for row in some
            ]

    def _pieces(self, paths: Sequence[Path]) -> Iterator[Piece]:
        for found in find_files(paths, self.layout.form, code=self.layout.code):
            if isinstance(found, Skipped):
                self.quarantined.append(Quarantined(found.name, found.reason, found.ending))
            else:
                yield Piece(found)

    def batches(self, pieces: Iterable[Piece]) -> Iterator[pa.RecordBatch]:
        """Yield the documents of some files as record batches: `DOCUMENTS`, then the user's columns.

        Names of the user's columns begin with `GIVEN`; ids are not made unique.
        """
        for piece in pieces:
            yield from self._guarded(piece.file.name, self._batches(piece))

    def _guarded(self, name: str, items: Iterator[T]) -> Iterator[T]:
        """Pass items on until a file turns out damaged; what was read before stays."""
        try:
            yield from items
        except Exception as error:  # noqa: BLE001  (parsers of foreign files raise anything; one file must not end a run)
            self._put_aside(name, "unreadable", f"{type(error).__name__}: {error}")

    def _batches(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        file = piece.file
        match file.kind:
            case "parquet":
                return self._parquet(piece)
            case "arrow":
                return self._arrow(file)
            case "jsonl" | "json" | "csv" | "tsv":
                return self._records(file)
            case "html":
                documents = self._page(file)
            case "warc":
                documents = self._archive(file)
            case _:
                documents = self._plain(file)
        return _in_batches(self._guarded(file.name, documents))

    def _parquet(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(piece.file.path, pre_buffer=False) as file:
            if not self._check_columns(piece.file.name, file.schema_arrow):
                return
            first, last = piece.groups or (0, file.num_row_groups)
            row = sum(file.metadata.row_group(g).num_rows for g in range(first))
            for chunk in file.iter_batches(BATCH, row_groups=list(range(first, last)), columns=self._wanted(file)):
                yield self._documents(piece.file.name, np.arange(row, row + len(chunk)), _unique_names(chunk))
                row += len(chunk)

    def _wanted(self, file: pq.ParquetFile) -> list[str] | None:
        """Return the columns to read, None for all; unique names are needed to read some of them."""
        names: list[str] = file.schema_arrow.names
        if not self.layout.columns or len(set(names)) < len(names) or any("." in name for name in names):
            return None
        path = find_path(file.schema_arrow, self.layout.text_column, TEXT_COLUMNS) or ()
        ours = {*path[:1], self.layout.id_column, self.layout.weight_column, *ID_COLUMNS, "source", "label"}
        return [name for name in names if name in ours or name in self.layout.columns]

    def _arrow(self, file: Found) -> Iterator[pa.RecordBatch]:
        row = 0
        with unpacked(file.path, file.packing) as stream:
            source = pa.memory_map(os.fsencode(file.path)) if not file.packing else pa.BufferReader(stream.read())
            indexed = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if indexed else pa.ipc.open_stream(source)
            chunks = (reader.get_batch(k) for k in range(reader.num_record_batches)) if indexed else iter(reader)
            if not self._check_columns(file.name, reader.schema):
                return
            for chunk in chunks:
                for start in range(0, len(chunk), BATCH):
                    part = _unique_names(chunk.slice(start, BATCH))
                    yield self._documents(file.name, np.arange(row, row + len(part)), part)
                    row += len(part)

    def _check_columns(self, name: str, schema: pa.Schema) -> bool:
        """Return whether a table has a text column; put the file aside if not."""
        self.columns.update(schema.names)
        path = find_path(schema, self.layout.text_column, TEXT_COLUMNS)
        if path is None:
            wanted = f"no {self.layout.text_column}; " if self.layout.text_column else ""
            columns = ", ".join(schema.names)[:1000]
            self._put_aside(name, "no text column", f"{wanted}columns: {columns}; name one with --text-column")
            return False
        kind = _type_at(schema, path)
        if not holds_text(kind):
            self._put_aside(name, "no text column", f"{'.'.join(path)} holds {kind}, not text")
            return False
        return True

    def _records(self, file: Found) -> Iterator[pa.RecordBatch]:
        def aside(place: str, reason: str, detail: str, record: str) -> None:
            self._put_aside(file.name + place, reason, detail, record)

        with unpacked(file.path, file.packing) as stream:
            rows = self._guarded(file.name, _rows_of(file, stream, self.layout.max_line, aside))
            rows = self._with_text(file.name, rows)
            for some, batch in records.batches(rows):
                self.columns.update(batch.schema.names)
                numbers, bad = np.array([r.number for r in some]), np.array([r.replaced for r in some])
                yield self._documents(file.name, numbers, batch, bad)

    def _with_text(self, name: str, rows: Iterator[records.Row]) -> Iterator[records.Row]:
        """Yield the records that have a text; put the others aside."""
        asides = 0
        for row in rows:
            problem = self._missing(row.values)
            if not problem:
                yield row
                continue
            self._put_aside(f"{name}:{row.number + 1}", "no text column", problem, json_text(row.values))
            asides += 1
            if asides >= records.MAX_ASIDE:
                self._put_aside(name, "no text column", f"{asides} records put aside; the rest is not read")
                return

    def _missing(self, values: dict[str, Any]) -> str:
        found: Any = values
        given = self.layout.text_column
        if given in values or not given:
            name = given or next((c for c in TEXT_COLUMNS if c in values), "")
            found = values.get(name, ...)
        else:
            for part in given.split("."):
                items = found if isinstance(found, list) else [found]
                inner = [item[part] for item in items if isinstance(item, dict) and part in item]
                found = ... if not inner else inner if isinstance(found, list) else inner[0]
        texts = found if isinstance(found, list) else [found]
        if found is not ... and all(isinstance(text, str | None | list) for text in texts):
            return ""
        return f"fields: {', '.join(map(str, values))[:200]}; name one with --text-column"

    def _documents(
        self, name: str, numbers: np.ndarray, batch: pa.RecordBatch, bad: np.ndarray | None = None
    ) -> pa.RecordBatch:
        """Return the documents of some rows, with the other columns of the rows."""
        layout, schema = self.layout, batch.schema
        path = find_path(schema, layout.text_column, TEXT_COLUMNS)
        column = column_at(batch, path) if path is not None else pa.nulls(len(batch))
        texts = texts_of(column, rows=layout.list_rows)
        whole = path is not None and len(path) == 1 and not pa.types.is_nested(column.type)
        if whole:
            self.text_names.add(path[0])  # type: ignore[index]
        ids = self._ids(name, numbers, batch)
        score = numbers_of(batch.column(layout.weight_column)) if layout.weight_column in schema.names else None
        columns = [
            pa.array(ids, pa.string()),
            _strings(batch, "source", name),
            _strings(batch, "label", ""),
            pa.array(score or [None] * len(batch), pa.float64()),
        ]
        kept = [n for n in schema.names if not (whole and n == path[0]) and n in (layout.columns or schema.names)]  # type: ignore[index]
        given = storable(repaired(batch.select(kept)))
        if texts.parents is not None:
            columns, given = _exploded(columns, texts, given)
            bad = None if bad is None else bad[texts.parents]
        doubtful = texts.replaced if bad is None else texts.replaced + bad
        ready = [*columns[:3], texts.values, pa.array(doubtful, pa.int64()), columns[3], *given.columns]
        return pa.RecordBatch.from_arrays(ready, names=[*DOCUMENTS.names, *(GIVEN + n for n in kept)])

    def _ids(self, name: str, numbers: np.ndarray, batch: pa.RecordBatch) -> list[str]:
        key = next((c for c in _named(self.layout.id_column, ID_COLUMNS) if c in batch.schema.names), None)
        own: list[str | None] = ids_of(batch.column(key)) if key is not None else [None] * len(batch)
        self.named += sum(one is not None for one in own)
        return [f"{name}#{k:07d}" if one is None else one for one, k in zip(own, numbers.tolist(), strict=True)]

    def _plain(self, file: Found) -> Iterator[Document]:
        with unpacked(file.path, file.packing) as stream:
            head = stream.read(WHOLE_FILE)
            if is_binary(head):
                self._put_aside(file.name, "binary", "the file holds zero or control bytes; it is no text")
                return
            if (unmarked := utf16_without_mark(head)) and not mark_of(head)[0]:
                text, bad = replaced(head + stream.read(MAX_LINE), unmarked)
                yield Document(file.name, self.domain, file.name, "", text, bad)
                return
            source = as_utf8(stream, head) or Joined(head.removeprefix(b"\xef\xbb\xbf"), stream)
            decoder, parts = Decoder(), passages(source, WHOLE_FILE)
            first, second = next(parts, b""), next(parts, None)
            if second is None:
                text, bad = decoder.decode(first)
                yield Document(file.name, self.domain, file.name, "", text, bad)
                return
            for k, part in enumerate(_chained(first, second, parts)):
                text, bad = decoder.decode(part)
                yield Document(f"{file.name}#{k:05d}", self.domain, file.name, "", text, bad)

    def _page(self, file: Found) -> Iterator[Document]:
        with unpacked(file.path, file.packing) as stream:
            data = stream.read(MAX_PAGE + 1)
        if len(data) > MAX_PAGE:
            self._put_aside(file.name, "page too long", f"more than {MAX_PAGE} bytes")
            return
        text, bad = html_text(data)
        yield Document(file.name, self.domain, file.name, "", text, bad)

    def _archive(self, file: Found) -> Iterator[Document]:
        with unpacked(file.path, file.packing) as stream:
            for page in warc_pages(stream):
                if page.problem is not None:
                    self._put_aside(f"{file.name}: {page.address}", *page.problem)
                else:
                    host = urlsplit(page.address).netloc or file.name
                    yield Document(page.address, self.domain, host, "", page.text, page.replaced)

    def _unique(self, document: Document) -> Document:
        """Give the second document of the same id the ending ~2, and so on."""
        while (count := self.seen.setdefault(document.doc_id, 0)) > 0:
            self.seen[document.doc_id] += 1
            document = replace(document, doc_id=f"{document.doc_id}~{count + 1}")
        self.seen[document.doc_id] = 1
        return document

    def _put_aside(self, path: str, reason: str, detail: str, record: str = "") -> None:
        clean = [text.encode("utf-8", "replace").decode() for text in (path, reason, detail, record[:65_536])]
        self.quarantined.append(Quarantined(*clean))


def _rows_of(file: Found, stream: IO[bytes], longest: int, aside: records.Aside) -> Iterator[records.Row]:
    if file.kind in (CSV, TSV):
        return records.csv_rows(stream, "\t" if file.kind == TSV else "", longest, aside)
    head = stream.read(records.CHUNK)
    source = Joined(head, stream)
    if file.kind == JSON and not records.begins_with_lines(head):
        return records.json_document(source, longest, aside)
    if file.kind == LINES and records.without_mark(head).lstrip()[:1] == b"[":
        return records.json_document(source, longest, aside)
    return records.json_lines(source, longest, aside)


def _named(given: str, usual: Sequence[str]) -> Sequence[str]:
    return (given,) if given else usual


def _type_at(schema: pa.Schema, path: Sequence[str]) -> pa.DataType:
    kind = schema.field(schema.get_all_field_indices(path[0])[0]).type
    for name in path[1:]:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        kind = kind.field(kind.get_field_index(name)).type
    return kind


def _unique_names(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = batch.schema.names
    if len(set(names)) == len(names):
        return batch
    return pa.RecordBatch.from_arrays(batch.columns, names=unique_columns(names))


def _strings(batch: pa.RecordBatch, column: str, other: str) -> pa.Array:
    """Return a column as text, with something else where it is missing or empty."""
    if column not in batch.schema.names:
        return pa.array([other] * len(batch), pa.string())
    return pa.array([other if value is None else value for value in ids_of(batch.column(column))], pa.string())


def _exploded(columns: list[pa.Array], texts: Texts, given: pa.RecordBatch) -> tuple[list[pa.Array], pa.RecordBatch]:
    """Repeat the columns of a row for each of its texts; ids get the number of the text."""
    rows = np.zeros(0, np.int64) if texts.parents is None else texts.parents
    parents = pa.array(rows)
    first = np.diff(rows, prepend=-1) != 0
    starts = np.flatnonzero(first)
    inside = np.arange(len(first)) - np.repeat(starts, np.diff(np.r_[starts, len(first)]))
    ids = [f"{name}#{k}" for name, k in zip(columns[0].take(parents).to_pylist(), inside.tolist(), strict=True)]
    return [pa.array(ids, pa.string()), *(c.take(parents) for c in columns[1:])], given.take(parents)


def _in_batches(documents: Iterator[Document]) -> Iterator[pa.RecordBatch]:
    while some := list(islice(documents, BATCH)):
        columns = ([getattr(d, name) for d in some] for name in DOCUMENTS.names)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=DOCUMENTS)


def _chained(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest

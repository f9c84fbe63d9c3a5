"""Read corpora of many formats as streams of documents, with all columns that their tables have.

Formats: Parquet, Arrow, JSON lines, JSON documents, CSV and TSV, plain text, HTML, WARC and WET, each also packed
(gzip, bzip2, xz, zstd, lz4). A file, row or line that cannot be read is put aside with its reason and the rest goes
on. Memory holds one batch, whatever the size of a file: tables go by record batches, lines are bounded, and a long
plain text is cut into passages.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.corpus import records
from tasks.corpus.columns import (
    Texts,
    column_at,
    find_path,
    holds_text,
    ids_of,
    numbers_of,
    repaired,
    texts_of,
    texts_of_values,
)
from tasks.corpus.csv_rows import csv_rows
from tasks.corpus.encodings import Decoder, Joined, Source, Utf8Stream, as_utf8, is_binary, mark_of, utf16_without_mark
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
from tasks.corpus.records import TEXT_COLUMNS, Limits, Row, unique_columns
from tasks.corpus.schemas import json_text, storable
from tasks.corpus.warc import Bytes, Members
from tasks.corpus.web import MAX_PAGE, html_text, warc_pages

ID_COLUMNS = ("doc_id", "id")
WHOLE_FILE = 32_768
MAX_LINE = 32 * 2**20
MOST_ASIDE = 1000  # records of a file that are put aside one by one; the others are counted
BATCH = 256
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
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
        max_line: bytes of a record of JSON or a line of CSV that is held; the text of a longer record is cut into
            passages.
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
        count: how many of a kind this stands for.
    """

    path: str
    reason: str
    detail: str
    record: str = ""
    count: int = 1


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
        name = piece.file.name
        with unpacked(piece.file.path, piece.file.packing) as stream:
            source = pa.BufferReader(stream.read()) if piece.file.packing else piece.file.path
        with pq.ParquetFile(source, pre_buffer=False) as file:
            if not self._check_columns(name, file.schema_arrow):
                return
            first, last = piece.groups or (0, file.num_row_groups)
            row = sum(file.metadata.row_group(g).num_rows for g in range(first))
            for group in range(first, last):
                rows = self._row_group(name, file, group, row)
                yield from self._guarded(f"{name}, row group {group}", rows)
                row += file.metadata.row_group(group).num_rows

    def _row_group(self, name: str, file: pq.ParquetFile, group: int, row: int) -> Iterator[pa.RecordBatch]:
        for chunk in file.iter_batches(BATCH, row_groups=[group], columns=self._wanted(file)):
            yield self._documents(name, np.arange(row, row + len(chunk)), _unique_names(chunk))
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
        many: Counter[str] = Counter()

        def aside(place: str, reason: str, detail: str, record: str) -> None:
            many[reason] += 1
            if many[reason] <= MOST_ASIDE:
                self._put_aside(file.name + place, reason, detail, record)

        limits = Limits(self.layout.max_line, self.layout.text_column)
        with unpacked(file.path, file.packing) as stream:
            rows = self._guarded(file.name, _rows_of(file, stream, limits, aside))
            for some, batch in records.batches(_with_text(rows, self.layout.text_column, aside)):
                self.columns.update(batch.schema.names)
                bad = np.array([row.replaced for row in some])
                texts = texts_of_values(
                    [_found(row.values, self.layout.text_column) for row in some], self.layout.list_rows
                )
                numbers = np.array([row.number for row in some])
                given = Given(texts, bad, [row.passage for row in some])
                yield self._documents(file.name, numbers, batch, given)
        for reason, count in many.items():
            if count > MOST_ASIDE:
                more = count - MOST_ASIDE
                self.quarantined.append(Quarantined(file.name, reason, f"{more} more records", "", more))

    def _documents(
        self, name: str, numbers: np.ndarray, batch: pa.RecordBatch, of_records: Given | None = None
    ) -> pa.RecordBatch:
        """Return the documents of some rows, with the other columns of the rows."""
        layout, schema = self.layout, batch.schema
        path = find_path(schema, layout.text_column, TEXT_COLUMNS)
        column = column_at(batch, path) if path is not None and of_records is None else pa.nulls(len(batch))
        texts = of_records.texts if of_records else texts_of(column, rows=layout.list_rows)
        bad = of_records.replaced if of_records else None
        whole = path is not None and len(path) == 1 and (of_records is not None or not pa.types.is_nested(column.type))
        if whole:
            self.text_names.add(path[0])  # type: ignore[index]
        ids = self._ids(name, numbers, batch)
        if of_records and any(passage is not None for passage in of_records.passages):
            parts = zip(ids, of_records.passages, strict=True)
            ids = [one if passage is None else f"{one}#{passage:05d}" for one, passage in parts]
        score = numbers_of(batch.column(layout.weight_column)) if layout.weight_column in schema.names else None
        columns = [
            pa.array(ids, pa.string()),
            _strings(batch, "source", name),
            _strings(batch, "label", ""),
            pa.array(score or [None] * len(batch), pa.float64()),
        ]
        kept = [n for n in schema.names if not (whole and n == path[0]) and n in (layout.columns or schema.names)]  # type: ignore[index]
        given = storable(repaired(batch.select(kept)))
        parted = {k: v for k, v in partitions(name).items() if k not in schema.names and k in (layout.columns or (k,))}
        if parted:
            self.columns.update(parted)
            kept += parted
            own = [pa.array([value] * len(batch)) for value in parted.values()]
            given = pa.RecordBatch.from_arrays([*given.columns, *own], names=kept)
        if texts.parents is not None:
            for row in np.setdiff1d(np.arange(len(batch)), texts.parents):
                self._put_aside(f"{name}#{numbers[row]:07d}", "no text in the list", "curation.list_rows")
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
            source: Source = as_utf8(stream, head) or Joined(head.removeprefix(b"\xef\xbb\xbf"), stream)
            if not mark_of(head)[0] and (unmarked := utf16_without_mark(head)):
                source = Utf8Stream(Joined(head, stream), unmarked)
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
        packed = file.packing == "gzip"
        opened: AbstractContextManager[Bytes] = Members(file.path) if packed else unpacked(file.path, file.packing)
        with opened as stream:
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
        path, reason, detail, record = (t.encode("utf-8", "replace").decode() for t in (path, reason, detail, record))
        self.quarantined.append(Quarantined(path, reason, detail, record[:65_536]))


def _rows_of(file: Found, stream: IO[bytes], limits: Limits, aside: records.Aside) -> Iterator[Row]:
    if file.kind in (CSV, TSV):
        return csv_rows(stream, "\t" if file.kind == TSV else "", limits, aside)
    head = stream.read(records.CHUNK)
    source = Joined(head, stream)
    if file.kind == JSON and not records.begins_with_lines(head):
        return records.json_document(source, limits, aside)
    if file.kind == LINES and records.in_utf8(head).lstrip()[:1] == b"[":
        return records.json_document(source, limits, aside)
    return records.json_lines(source, limits, aside)


def _with_text(rows: Iterator[Row], given: str, aside: records.Aside) -> Iterator[Row]:
    """Yield the records that have a text; put the others aside."""
    for row in rows:
        if _is_text(_found(row.values, given)):
            yield row
        else:
            columns = ", ".join(map(str, row.values))[:200]
            detail = f"fields: {columns}; name one with --text-column"
            aside(f":{row.number + 1}", "no text column", detail, json_text(row.values))


def _found(values: dict[str, Any], given: str) -> Any:
    """Return the value at the name or path of the text; `...` if there is none."""
    if not given:
        return next((values[name] for name in TEXT_COLUMNS if name in values), ...)
    if given in values:
        return values[given]
    found: Any = values
    for part in given.split("."):
        items = found if isinstance(found, list) else [found]
        inner = [item[part] for item in items if isinstance(item, dict) and part in item]
        found = (
            (None if values.get(given.split(".")[0], ...) is None else ...)
            if not inner
            else inner
            if isinstance(found, list)
            else inner[0]
        )
        if found is None or found is ...:
            return found
    return found


def _is_text(value: Any) -> bool:
    """Return whether a value is a text, or a list of texts or of the parts of a chat message."""
    if isinstance(value, list):
        return all(
            _is_text(one.get("text")) if isinstance(one, dict) and "type" in one else _is_text(one) for one in value
        )
    return value is None or isinstance(value, str)


@dataclass(frozen=True)
class Given:
    """What records say beside their columns.

    Attributes:
        texts: their texts.
        replaced: characters of each that could not be decoded.
        passages: the number of the passage where a long record was cut, else None.
    """

    texts: Texts
    replaced: np.ndarray
    passages: Sequence[int | None]


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

"""Read corpora of many formats as streams of documents, with all columns that their tables have.

Formats: Parquet, Arrow, JSON lines, JSON documents, CSV and TSV, plain text, HTML, WARC and WET, each also packed
(gzip, bzip2, xz, zstd, lz4). A file, row or line that cannot be read is put aside with its reason and the rest goes
on. Memory holds one batch, whatever the size of a file: tables go by record batches, lines are bounded, and a long
plain text is cut into passages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpus.documents import BATCH, DOCUMENTS, GIVEN, Document, Layout, Piece, Quarantined, in_batches
from tasks.corpus.formats.bundles import members
from tasks.corpus.formats.encodings import (
    Between,
    Decoder,
    Joined,
    Source,
    Utf8Stream,
    as_utf8,
    is_binary,
    mark_of,
    utf16_without_mark,
)
from tasks.corpus.formats.kinds import (
    BUNDLES,
    CSV,
    TSV,
    Found,
    Skipped,
    find_files,
    unpacked,
)
from tasks.corpus.formats.warc import Bytes, Members
from tasks.corpus.formats.web import BINARY, HEAD, MAX_PAGE, html_text, warc_pages
from tasks.corpus.passages import passages
from tasks.corpus.tabular import json_records
from tasks.corpus.tabular.arrow import (
    ID_COLUMNS,
    open_arrow,
    partitions,
    seekable,
    strings,
    type_at,
    unique_names,
    wanted,
)
from tasks.corpus.tabular.columns import (
    TEXT_COLUMNS,
    Texts,
    column_at,
    find_path,
    find_value,
    holds_text,
    ids_of,
    is_text,
    numbers_of,
    repaired,
    texts_of,
    texts_of_values,
)
from tasks.corpus.tabular.csv_rows import csv_rows
from tasks.corpus.tabular.json_records import Limits, Row, kind_of
from tasks.corpus.tabular.schemas import json_text, storable

WHOLE_FILE = 32_768
MOST_ASIDE = 1000  # records of a file that are put aside one by one; the others are counted
BATCH_BYTES, LEAST_ROWS, MOST_ROWS = 2**21, 16, 1024  # of a batch of a row group
T = TypeVar("T")


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
            rows, aside = 0, len(self.quarantined)
            of_members = piece.file.kind in BUNDLES
            found = self.batches(self._members(piece)) if of_members else self._batches(piece)
            for batch in self._guarded(piece.file.name, found):
                rows += batch.num_rows
                yield batch
            if not rows and len(self.quarantined) == aside:
                self._put_aside(piece.file.name, "empty", "no record in the file")

    def _members(self, piece: Piece) -> Iterator[Piece]:
        """Yield the members of an archive that are read; put the others aside."""
        found = members(piece.file, piece.groups, self.layout.form, code=self.layout.code)
        for one in self._guarded(piece.file.name, found):
            if isinstance(one, Skipped):
                self._put_aside(one.name, one.reason, one.ending)
            else:
                yield Piece(one)

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
                return self._arrow(piece)
            case "jsonl" | "json" | "csv" | "tsv":
                return self._records(piece)
            case "html":
                documents = self._page(file)
            case "warc":
                documents = self._archive(file)
            case _:
                documents = self._plain(file)
        return in_batches(self._guarded(file.name, documents))

    def _parquet(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        name = piece.file.name
        with seekable(piece.file) as source, pq.ParquetFile(source, pre_buffer=False) as file:
            if not self._check_columns(name, file.schema_arrow):
                return
            first, last = piece.groups or (0, file.num_row_groups)
            row = sum(file.metadata.row_group(g).num_rows for g in range(first))
            for group in range(first, last):
                rows = self._row_group(name, file, group, row)
                yield from self._guarded(f"{name}, row group {group}", rows)
                row += file.metadata.row_group(group).num_rows

    def _row_group(self, name: str, file: pq.ParquetFile, group: int, row: int) -> Iterator[pa.RecordBatch]:
        facts = file.metadata.row_group(group)
        rows = min(MOST_ROWS, max(LEAST_ROWS, BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
        for chunk in file.iter_batches(rows, row_groups=[group], columns=wanted(file, self.layout)):
            yield self._documents(name, np.arange(row, row + len(chunk)), unique_names(chunk))
            row += len(chunk)

    def _arrow(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        file, row = piece.file, 0
        first, last = piece.groups or (0, None)
        with seekable(file) as source:
            schema, chunks = open_arrow(source)
            if not self._check_columns(file.name, schema):
                return
            row = sum(len(chunk) for chunk in islice(chunks, first))
            for chunk in islice(chunks, None if last is None else last - first):
                for start in range(0, len(chunk), BATCH):
                    part = unique_names(chunk.slice(start, BATCH))
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
        kind = type_at(schema, path)
        if not holds_text(kind):
            self._put_aside(name, "no text column", f"{'.'.join(path)} holds {kind}, not text")
            return False
        return True

    def _records(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        file, many = piece.file, Counter[str]()

        def aside(place: str, reason: str, detail: str, record: str) -> None:
            many[reason] += 1
            if many[reason] <= MOST_ASIDE:
                self._put_aside(file.name + place, reason, detail, record)

        limits = Limits(self.layout.max_line, self.layout.text_column)
        with unpacked(file.path, file.packing) as stream:
            rows = self._guarded(file.name, _rows_of(piece, stream, limits, aside))
            for some, batch in json_records.batches(_with_text(rows, self.layout.text_column, aside)):
                self.columns.update(batch.schema.names)
                bad = np.array([row.replaced for row in some])
                texts = texts_of_values(
                    [find_value(row.values, self.layout.text_column) for row in some], self.layout.list_rows
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
            parts = zip(ids.to_pylist(), of_records.passages, strict=True)
            numbered = [one if passage is None else f"{one}#{passage:05d}" for one, passage in parts]
            ids = pa.array(numbered, pa.string())
        score = numbers_of(batch.column(layout.weight_column)) if layout.weight_column in schema.names else None
        columns = [
            ids,
            strings(batch, "source", name),
            strings(batch, "label", ""),
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

    def _ids(self, name: str, numbers: np.ndarray, batch: pa.RecordBatch) -> pa.Array:
        usual = (self.layout.id_column,) if self.layout.id_column else ID_COLUMNS
        key = next((c for c in usual if c in batch.schema.names), None)
        own = ids_of(batch.column(key)) if key is not None else pa.nulls(len(batch), pa.string())
        self.named += len(own) - own.null_count
        if not own.null_count:
            return own
        return pc.coalesce(own, pa.array([f"{name}#{k:07d}" for k in numbers.tolist()], pa.string()))

    def _plain(self, file: Found) -> Iterator[Document]:
        with unpacked(file.path, file.packing) as stream:
            head = stream.read(WHOLE_FILE)
            if is_binary(head):
                self._put_aside(file.name, *BINARY)
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
        if is_binary(data[:HEAD]):
            self._put_aside(file.name, *BINARY)
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


def _rows_of(piece: Piece, stream: IO[bytes], limits: Limits, aside: json_records.Aside) -> Iterator[Row]:
    kind = piece.file.kind
    if kind in (CSV, TSV):
        return csv_rows(stream, "\t" if kind == TSV else "", limits, aside)
    if piece.groups is not None:
        return json_records.json_lines(Between(stream, *piece.groups), limits, aside, piece.line)
    head = stream.read(json_records.CHUNK)
    rows = json_records.json_lines if json_records.are_lines(kind, head) else json_records.json_document
    return rows(Joined(head, stream), limits, aside)


def _with_text(rows: Iterator[Row], given: str, aside: json_records.Aside) -> Iterator[Row]:
    """Yield the records that have a text; put the others aside."""
    for row in rows:
        value = find_value(row.values, given)
        if is_text(value):
            yield row
            continue
        columns = ", ".join(map(str, row.values))[:200]
        if value is ...:
            detail = f"fields: {columns}; name one with --text-column"
        else:
            detail = f"its value is {kind_of(value)}; fields: {columns}"
        aside(f":{row.number + 1}", "no text column", detail, json_text(row.values))


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


def _exploded(columns: list[pa.Array], texts: Texts, given: pa.RecordBatch) -> tuple[list[pa.Array], pa.RecordBatch]:
    """Repeat the columns of a row for each of its texts; ids get the number of the text."""
    rows = np.zeros(0, np.int64) if texts.parents is None else texts.parents
    parents = pa.array(rows)
    first = np.diff(rows, prepend=-1) != 0
    starts = np.flatnonzero(first)
    inside = np.arange(len(first)) - np.repeat(starts, np.diff(np.r_[starts, len(first)]))
    ids = [f"{name}#{k}" for name, k in zip(columns[0].take(parents).to_pylist(), inside.tolist(), strict=True)]
    return [pa.array(ids, pa.string()), *(c.take(parents) for c in columns[1:])], given.take(parents)


def _chained(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest

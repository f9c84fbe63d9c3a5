"""Read corpora: Parquet, JSON lines, plain text, HTML and WARC (plain, .gz, .zst), as streams of documents.

A file that cannot be read, or a line that is no document, is put aside with its reason and the rest goes on. Memory
holds one batch, whatever the size of a file: Parquet goes by record batches, lines are bounded, and a long plain-text
file is cut into passages at blank lines.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar, cast
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpus.web import MAX_PAGE, html_text, warc_pages

TEXT_COLUMNS = ("text", "content", "body")
ID_COLUMNS = ("doc_id", "id")
PARQUET = (".parquet", ".pq")
LINES = (".jsonl", ".ndjson", ".json")
PLAIN = (".txt", ".text", ".md", ".rst")
PAGES = (".html", ".htm", ".xhtml")
ARCHIVES = (".warc",)
KNOWN = PARQUET + LINES + PLAIN + PAGES + ARCHIVES
PACKED = (".gz", ".zst")
MAX_LINE = 32 * 2**20
MAX_ASIDE = 1000  # bad lines after which a file is given up
WHOLE_FILE, PASSAGE = 32_768, 8_192
BATCH = 256
T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """One document as read.

    Attributes:
        doc_id: stable and unique within the corpus: the file's own id, or path and row.
        domain: `base` or `second`.
        source: the file's own source, or the path of the file below the given folder.
        label: the file's own label, or empty.
        text: the text, decoded.
        replaced: bytes that were no UTF-8 and became U+FFFD.
        score: its worth as the file has it; None where that is not asked for, missing or no positive number.
    """

    doc_id: str
    domain: str
    source: str
    label: str
    text: str
    replaced: int = 0
    score: float | None = None


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


@dataclass(frozen=True)
class Piece:
    """A file, or some row groups of a Parquet file.

    Attributes:
        name: as it stands in ids and sources: the path below the given folder.
        path: where it is.
        groups: first and last row group (exclusive), or None for all.
    """

    name: str
    path: Path
    groups: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quarantined:
    """A file or a line that was put aside."""

    path: str
    reason: str
    detail: str


@dataclass
class Reader:
    """Reads the files of one domain and remembers what it put aside.

    Attributes:
        domain: given to every document.
        text_column: name of the text column; empty = the first of `text`, `content`, `body`.
        id_column: name of the id column; empty = `doc_id` or `id` where there is one, else path and row.
        weight_column: name of the column that holds the worth of a document; empty = it is not read.
        quarantined: what was put aside so far.
        skipped: files in folders whose ending is not that of a corpus file.
        seen: ids given so far; share it between readers to keep ids unique over domains.
    """

    domain: str
    text_column: str = ""
    id_column: str = ""
    weight_column: str = ""
    quarantined: list[Quarantined] = field(default_factory=list)
    skipped: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def read(self, paths: Sequence[Path]) -> Iterator[list[Document]]:
        """Yield batches of documents of all files, folders in the order of their paths.

        Raises:
            FileNotFoundError: a given path is not there.
        """
        for root in paths:
            if not root.exists():
                raise FileNotFoundError(f"there is no {root}")
        batch: list[Document] = []
        for name, path in self.files(paths):
            for document in self._file(Piece(name, path)):
                batch.append(self._unique(document))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def batches(self, pieces: Iterable[Piece]) -> Iterator[pa.RecordBatch]:
        """Yield the documents of some files as record batches of `DOCUMENTS`, ids as they were given."""
        for piece in pieces:
            if _ending(piece.path) in PARQUET:
                yield from self._aside(piece, self._columns(piece))
                continue
            rows = self._file(piece)
            while some := list(islice(rows, BATCH)):
                columns = ([getattr(d, name) for d in some] for name in DOCUMENTS.names)
                yield pa.RecordBatch.from_arrays(
                    [pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS
                )

    def files(self, paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
        """Yield the corpus files of files and folders with their names, and count what is passed over."""
        for root in paths:
            if root.is_file():
                yield root.name, root
                continue
            for path in sorted(p for p in root.rglob("*") if p.is_file()):
                relative = path.relative_to(root)
                if any(part.startswith(".") for part in relative.parts) or _ending(path) not in KNOWN:
                    self.skipped += 1
                else:
                    yield relative.as_posix(), path

    def _file(self, piece: Piece) -> Iterator[Document]:
        name, path, ending = piece.name, piece.path, _ending(piece.path)
        if ending in PARQUET:
            documents = self._rows(piece)
        elif ending in LINES:
            documents = self._lines(name, path)
        elif ending in PAGES:
            documents = self._page(name, path)
        elif ending in ARCHIVES:
            documents = self._archive(name, path)
        else:
            documents = self._plain(name, path)
        yield from self._aside(piece, documents)

    def _aside(self, piece: Piece, items: Iterator[T]) -> Iterator[T]:
        """Pass items on until a file turns out damaged."""
        try:
            yield from items
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            # What was read before the damage stays: those documents are whole.
            self._put_aside(piece.name, "unreadable", f"{type(error).__name__}: {error}")

    def _rows(self, piece: Piece) -> Iterator[Document]:
        for batch in self._columns(piece):
            for row in batch.to_pylist():
                yield Document(domain=self.domain, **row)

    def _columns(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        name = piece.name
        with pq.ParquetFile(piece.path, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            text = self._column(columns, self.text_column, TEXT_COLUMNS)
            if text is None:
                self._put_aside(name, "no text column", f"columns: {', '.join(columns)}; name one with --text-column")
                return
            kind = file.schema_arrow.field(text).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                self._put_aside(name, "no text column", f"{text} holds {kind}, not text")
                return
            key = self._column(columns, self.id_column, ID_COLUMNS)
            score = self.weight_column if self.weight_column in columns else None
            wanted = [c for c in (text, key, "source", "label", score) if c is not None and c in columns]
            first, last = piece.groups or (0, file.num_row_groups)
            row = sum(file.metadata.row_group(g).num_rows for g in range(first))
            for chunk in file.iter_batches(BATCH, row_groups=list(range(first, last)), columns=wanted):
                yield self._documents(name, row, chunk, text, key, score)
                row += len(chunk)

    @staticmethod
    def _documents(
        name: str, row: int, chunk: pa.RecordBatch, text: str, key: str | None, score: str | None
    ) -> pa.RecordBatch:
        def strings(column: str | None, other: Callable[[], pa.Array]) -> pa.Array:
            """Return a column as text, with something else where it holds nothing."""
            if column is None or column not in chunk.schema.names:
                return other()
            found = chunk.column(column)
            if not pa.types.is_string(found.type):
                found = pa.array([None if v is None else str(v) for v in found.to_pylist()], pa.string())
            empty = pc.fill_null(pc.equal(found, ""), True)
            return pc.if_else(empty, other(), found) if pc.any(empty).as_py() else found

        def numbered() -> pa.Array:
            return pa.array([f"{name}#{row + k:07d}" for k in range(n)], pa.string())

        n = len(chunk)
        body = pc.fill_null(chunk.column(text).cast(pa.large_string()), "")
        source, label = strings("source", lambda: pa.repeat(name, n)), strings("label", lambda: pa.repeat("", n))
        columns = [strings(key, numbered), source, label, body]
        worth = pa.nulls(n, pa.float64())
        if score:
            worth = pa.array([_worth(v) for v in chunk.column(score).to_pylist()], pa.float64())
        return pa.RecordBatch.from_arrays([*columns, pa.array(np.zeros(n, np.int64)), worth], schema=DOCUMENTS)

    def _lines(self, name: str, path: Path) -> Iterator[Document]:
        before = len(self.quarantined)
        with _open(path) as stream:
            for row, (line, whole) in enumerate(_bounded_lines(stream)):
                if len(self.quarantined) - before >= MAX_ASIDE:
                    self._put_aside(name, "no JSON lines", f"{MAX_ASIDE} lines put aside; the rest is not read")
                    return
                if not whole:
                    self._put_aside(f"{name}:{row + 1}", "line too long", f"more than {MAX_LINE} bytes")
                elif line.strip():
                    yield from self._json(name, row, line)

    def _json(self, name: str, row: int, line: bytes) -> Iterator[Document]:
        decoded, replaced = _decode(line)
        try:
            record = json.loads(decoded)
        except (ValueError, RecursionError) as error:
            self._put_aside(f"{name}:{row + 1}", "not JSON", str(error)[:200])
            return
        columns = list(record) if isinstance(record, dict) else []
        text = self._column(columns, self.text_column, TEXT_COLUMNS)
        if text is None or not isinstance(record[text], str | None):
            found = f"fields: {', '.join(map(str, columns))[:200]}; name one with --text-column"
            self._put_aside(f"{name}:{row + 1}", "no text column", found)
            return
        yield self._document(name, row, record, text, self._column(columns, self.id_column, ID_COLUMNS), replaced)

    def _plain(self, name: str, path: Path) -> Iterator[Document]:
        with _open(path) as stream:
            head = stream.read(WHOLE_FILE)
            if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
                self._put_aside(name, "binary", "the file holds zero bytes; it is no text")
                return
            if len(head) < WHOLE_FILE or head.startswith((b"\xff\xfe", b"\xfe\xff")):
                text, replaced = _decode(head + stream.read(MAX_LINE))
                yield Document(name, self.domain, name, "", text, replaced)
                return
            for row, passage in enumerate(_cut(head, stream)):
                text, replaced = _decode(passage)
                yield Document(f"{name}#{row:05d}", self.domain, name, "", text, replaced)

    def _page(self, name: str, path: Path) -> Iterator[Document]:
        with _open(path) as stream:
            data = stream.read(MAX_PAGE + 1)
        if len(data) > MAX_PAGE:
            self._put_aside(name, "page too long", f"more than {MAX_PAGE} bytes")
            return
        yield Document(name, self.domain, name, "", html_text(data))

    def _archive(self, name: str, path: Path) -> Iterator[Document]:
        with _open(path) as stream:
            for page in warc_pages(stream):
                if page.problem is not None:
                    self._put_aside(f"{name}: {page.address}", *page.problem)
                else:
                    yield Document(page.address, self.domain, urlsplit(page.address).netloc or name, "", page.text)

    def _document(
        self, name: str, row: int, record: dict[str, Any], text: str, key: str | None, replaced: int = 0
    ) -> Document:
        given = record.get(key) if key is not None else None
        doc_id = str(given) if given not in (None, "") else f"{name}#{row:07d}"
        source, label = (str(record.get(c) or "") for c in ("source", "label"))
        # Lone surrogates are legal in JSON and nowhere else.
        body = (record[text] or "").encode("utf-8", "replace").decode()
        score = _worth(record.get(self.weight_column)) if self.weight_column else None
        return Document(doc_id, self.domain, source or name, label, body, replaced, score)

    @staticmethod
    def _column(columns: Sequence[str], given: str, usual: Sequence[str]) -> str | None:
        return next((c for c in ((given,) if given else usual) if c in columns), None)

    def _unique(self, document: Document) -> Document:
        """Give the second document of the same id the ending ~2, and so on."""
        while (count := self.seen.setdefault(document.doc_id, 0)) > 0:
            self.seen[document.doc_id] += 1
            document = replace(document, doc_id=f"{document.doc_id}~{count + 1}")
        self.seen[document.doc_id] = 1
        return document

    def _put_aside(self, path: str, reason: str, detail: str) -> None:
        self.quarantined.append(Quarantined(path, reason, detail))


def _worth(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 < found < float("inf") else None


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(path, "rb"))  # unwrapped: what comes before damage is not lost
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _bounded_lines(stream: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each line and whether it was whole; of a longer one than `MAX_LINE` nothing is kept."""
    while line := stream.readline(MAX_LINE):
        whole = line.endswith(b"\n") or len(line) < MAX_LINE
        if not whole:
            line = b""
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line, whole


def _cut(head: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """Cut a long text at the last blank line, line end or character boundary before `PASSAGE` bytes."""
    pending = head
    while True:
        while len(pending) > PASSAGE:
            window = pending[:PASSAGE]
            end = max(window.rfind(b"\n\n") + 2, window.rfind(b"\r\n\r\n") + 4)
            if end < PASSAGE // 4:
                end = window.rfind(b"\n") + 1
            if end < PASSAGE // 4:
                end = PASSAGE
                while end > PASSAGE - 4 and pending[end] & 0xC0 == 0x80:
                    end -= 1
            yield pending[:end]
            pending = pending[end:]
        more = stream.read(WHOLE_FILE)
        if not more:
            break
        pending += more
    if pending:
        yield pending


def _decode(data: bytes) -> tuple[str, int]:
    """Decode UTF-8 (or UTF-16 by its mark); what is neither becomes U+FFFD and is counted."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
        return text, text.count("\ufffd")
    try:
        return data.decode("utf-8-sig"), 0
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "replace")
        return text, text.count("\ufffd") - data.count("\ufffd".encode())

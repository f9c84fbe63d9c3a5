"""Documents as they are read, where they are in files, and what is put aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from tasks.corpus.formats.kinds import Found

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
    """A file, or a part of a large one.

    Attributes:
        file: the file.
        groups: first and last (exclusive) row group of a Parquet file, batch of an Arrow file, member of an archive, or
            byte of JSON lines; None for all.
        line: number of the first line of some bytes.
    """

    file: Found
    groups: tuple[int, int] | None = None
    line: int = 0


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


def in_batches(documents: Iterator[Document]) -> Iterator[pa.RecordBatch]:
    """Yield documents in record batches."""
    while some := list(islice(documents, BATCH)):
        columns = ([getattr(d, name) for d in some] for name in DOCUMENTS.names)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=DOCUMENTS)

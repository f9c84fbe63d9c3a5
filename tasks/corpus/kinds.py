"""Which format a file has: by its ending, by its first bytes, or as the user says; and how it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

import pyarrow as pa

from tasks.corpus.encodings import is_binary

PARQUET, ARROW, LINES, JSON, CSV, TSV = "parquet", "arrow", "jsonl", "json", "csv", "tsv"
PLAIN, CODE, PAGE, ARCHIVE = "text", "code", "html", "warc"
FORMATS = (PARQUET, ARROW, LINES, JSON, CSV, TSV, PLAIN, PAGE, ARCHIVE)
_ENDINGS = {
    PARQUET: "parquet pq",
    ARROW: "arrow feather arrows ipc",
    LINES: "jsonl ndjson jl jsonlines",
    JSON: "json",
    CSV: "csv",
    TSV: "tsv tab",
    PLAIN: "txt text md markdown rst tex log adoc asciidoc org",
    PAGE: "html htm xhtml",
    ARCHIVE: "warc wet",
    CODE: "py pyi js mjs ts tsx jsx c h cc cpp hpp cxx java go rs rb php sh sql r jl scala kt swift cs lua pl hs",
}
ENDINGS = {f".{ending}": kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
KNOWN = tuple(ending for ending, kind in ENDINGS.items() if kind != CODE)
PACKED = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz", ".lz4": "lz4"}
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
FETCHED = "urls.csv"  # the table of a fetch, beside its WARC files
_DATASETS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
HEAD = 4096
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
HIDDEN, UNKNOWN, METADATA = "hidden file or marker", "unknown ending", "metadata of a data set"


@dataclass(frozen=True)
class Found:
    """A file of a corpus.

    Attributes:
        name: the path below the given folder, as text; bytes that are no UTF-8 are escaped.
        path: the file.
        kind: one of `FORMATS`, or `CODE`.
        packing: its compression, or empty.
    """

    name: str
    path: Path
    kind: str
    packing: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file of a folder that is not read, and why."""

    name: str
    reason: str
    ending: str


def shown(path: Path) -> str:
    """Return a path as text; bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_files(paths: Sequence[Path], forced: str = "", *, code: bool = False) -> Iterator[Found | Skipped]:
    """Yield the files of files and folders, those of a folder in the order of their paths, each read or skipped.

    Args:
        paths: files and folders.
        forced: the format of all files; empty = by their endings, else by their first bytes.
        code: whether source code is read from folders.
    """
    for root in paths:
        if root.is_file():
            yield recognise(root.name, root, forced)
            continue
        seen: set[str] = set()
        for path in sorted(_walk(root, frozenset()), key=lambda item: item.path if isinstance(item, _Aside) else item):
            if isinstance(path, _Aside):
                yield Skipped(shown(path.path.relative_to(root)), path.reason, path.what)
                continue
            found = _in_folder(root, path, forced, code)
            if isinstance(found, Skipped):
                if found.name in seen:  # a hidden folder is named once
                    continue
                seen.add(found.name)
            yield found


@dataclass(frozen=True)
class _Aside:
    """Something in a folder that is no file to read."""

    path: Path
    reason: str
    what: str


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path | _Aside]:
    """Yield the files below a folder; links to folders are followed, unless they lead to a folder above."""
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield _Aside(folder, f"cannot be read ({error.strerror})", "folder")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield _Aside(folder, "link to a folder above", "link")
        return
    for path in entries:
        try:
            if path.is_dir():
                yield from _walk(path, above | {here})
            elif path.is_file():
                yield path
            else:
                yield _Aside(path, "broken link" if path.is_symlink() else "no regular file", "link or device")
        except OSError as error:
            yield _Aside(path, f"cannot be read ({error.strerror})", "link or device")


def recognise(name: str, path: Path, forced: str = "") -> Found | Skipped:
    """Return a file that was given by name, with its format; skipped if the format cannot be told."""
    name = shown(Path(name))
    ending, packing = _ending(path)
    kind, packing = forced or ENDINGS.get(ending, ""), _really(path, packing)
    if not kind:
        kind = sniff(path, packing)
        if kind == PLAIN and ending:  # text of an unknown kind is no prose by itself
            kind = ""
    return Found(name, path, kind, packing) if kind else Skipped(name, UNKNOWN, ending or "no ending")


def _in_folder(root: Path, path: Path, forced: str, code: bool) -> Found | Skipped:
    relative = path.relative_to(root)
    hidden = next((k for k, part in enumerate(relative.parts) if part[0] in "._"), None)
    if hidden is not None:
        return Skipped(shown(Path(*relative.parts[: hidden + 1])), HIDDEN, "hidden")
    ending, packing = _ending(path)
    if path.name in _DATASETS or (path.name == FETCHED and any(path.parent.glob("*.warc*"))):
        return Skipped(shown(relative), METADATA, ending)
    kind, packing = forced or ENDINGS.get(ending, ""), _really(path, packing)
    if not kind and not ending:
        kind = sniff(path, packing)
    if not kind or (kind == CODE and not code):
        return Skipped(shown(relative), UNKNOWN, ending or "no ending")
    return Found(shown(relative), path, kind, packing)


def _ending(path: Path) -> tuple[str, str]:
    """Return the ending that names the format, and the compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = PACKED[suffixes.pop()] if suffixes and suffixes[-1] in PACKED else ""
    ending = suffixes[-1] if suffixes else ""
    return ("" if any(not c.isalnum() for c in ending[1:]) or ending[1:].isdigit() else ending), packing


def _really(path: Path, named: str) -> str:
    """Return how a file is packed, whatever its ending says: downloads are often unpacked on the way, or packed."""
    found = _packing(path)
    if found or not named:
        return found
    try:
        with path.open("rb") as stream:
            return "" if not is_binary(stream.read(HEAD)) else named
    except OSError:
        return named


def _packing(path: Path) -> str:
    """Return the compression of a file by its first bytes."""
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return ""
    if head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bz2"
    return next((packing for magic, packing in _MAGIC.items() if head.startswith(magic)), "")


def sniff(path: Path, packing: str = "") -> str:
    """Return the format of a file by its first bytes; empty if it is binary or cannot be read."""
    try:
        with unpacked(path, packing) as stream:
            head = stream.read(HEAD)
    except DAMAGE:
        return ""
    if head.startswith(b"PAR1"):
        return PARQUET
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return ARROW
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"WARC/"):
        return ARCHIVE
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return PAGE
    if start.startswith(b"{") or (start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b'"', b"[")):
        return JSON
    return PLAIN


def unpacked(path: Path, packing: str) -> IO[bytes]:
    """Open a file and unpack it on the way; what comes before damage can be read."""
    match packing:
        case "gzip":
            stream: Any = gzip.GzipFile(path, "rb")
        case "bz2":
            stream = bz2.BZ2File(path, "rb")
        case "xz":
            stream = lzma.LZMAFile(path, "rb")  # noqa: SIM115  (closed by `_Unpacked`)
        case "zstd" | "lz4":
            stream = io.BufferedReader(pa.CompressedInputStream(pa.OSFile(os.fsencode(path)), packing))
        case _:
            return path.open("rb")
    return cast("IO[bytes]", _Unpacked(stream))


class _Unpacked:
    """A packed stream that gives all that comes before damage, and raises its error only behind that."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        held = 0
        while size < 0 or held < size:
            if self._error is not None and not parts:
                raise self._error
            try:
                part = self._stream.read1(2**18 if size < 0 else size - held) if self._error is None else b""
            except DAMAGE as error:
                self._error = error
                continue
            if not part:
                break
            parts.append(part)
            held += len(part)
        return b"".join(parts)

    def read1(self, size: int = -1) -> bytes:
        found: bytes = self._stream.read1(size)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

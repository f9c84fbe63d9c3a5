"""Which format a file has: by its ending, by its first bytes, or as the user says; and how it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path, PurePath
from typing import IO, Any, Self, cast

import pyarrow as pa

from tasks.corpus.formats.encodings import is_binary

PARQUET, ARROW, LINES, JSON, CSV, TSV = "parquet", "arrow", "jsonl", "json", "csv", "tsv"
PLAIN, CODE, PAGE, ARCHIVE = "text", "code", "html", "warc"
FORMATS = (PARQUET, ARROW, LINES, JSON, CSV, TSV, PLAIN, PAGE, ARCHIVE)
ZIP, TAR = BUNDLES = ("zip", "tar")  # files that hold files
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
    CODE: "py pyi js mjs ts tsx jsx c h cc cpp hpp cxx java go rs rb php sh sql r scala kt swift cs lua pl hs",
}
ENDINGS = {f".{ending}": kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
KNOWN = tuple(ending for ending, kind in ENDINGS.items() if kind != CODE)
PACKED = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
PACKED |= {".xz": "xz", ".lzma": "xz"}
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
JULIA = ".jl"  # JSON lines, except in a folder of source code
FETCHED = "urls.csv"  # the table of a fetch, beside its WARC files
_DATASETS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
TABLES = tuple(f"{name}.parquet" for name in ("kept", "dropped", "decisions", "components", "edges", "quarantined"))
HEAD = 4096
_ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")  # the second is an empty archive
_UNOPENED = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar"}
_TARRED = frozenset({".tar", ".tgz", ".taz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst"})
_POINTER = b"version https://git-lfs.github.com/spec/"
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
HIDDEN, UNKNOWN, METADATA = "hidden file or marker", "unknown ending", "metadata of a data set"
LINK, NO_FILE, ENCRYPTED = "link", "no regular file", "encrypted"  # members of an archive
OUTPUT = "table of an earlier curation"  # of a folder that is given, the kept documents are read
POINTER = "pointer of Git LFS, not the file itself; run git lfs pull"


@dataclass(frozen=True)
class Found:
    """A file of a corpus.

    Attributes:
        name: the path below the given folder, as text; bytes that are no UTF-8 are escaped.
        path: the file.
        kind: one of `FORMATS`, `CODE`, or one of `BUNDLES`.
        packing: its compression, or empty.
    """

    name: str
    path: Path
    kind: str
    packing: str = ""

    def inside(self, name: str) -> Found:
        """Return the file with the name of the archive that it is in."""
        return replace(self, name=f"{name}/{self.name}")


@dataclass(frozen=True)
class Skipped:
    """A file of a folder that is not read, and why."""

    name: str
    reason: str
    ending: str

    def inside(self, name: str) -> Skipped:
        """Return the file with the name of the archive that it is in."""
        return replace(self, name=f"{name}/{self.name}")


def shown(path: PurePath) -> str:
    """Return a path as text; bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def expanded(given: str | Path) -> list[Path]:
    """Return the paths that a path names: itself, or those that match its pattern (`data/*.jsonl`), sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(given).expanduser()
    if path.exists():
        return [path]
    found = sorted(glob(str(path), recursive=True)) if has_magic(str(path)) else []  # noqa: PTH207  (any pattern)
    if not found:
        raise FileNotFoundError(f"there is no {shown(path)}; give files or folders of text")
    return [Path(name) for name in found]


def find_files(
    paths: Sequence[Path], forced: str = "", *, code: bool = False, out: Path | None = None
) -> Iterator[Found | Skipped]:
    """Yield the files of files and folders, those of a folder in the order of their paths, each read or skipped.

    Args:
        paths: files and folders.
        forced: the format of all files; empty = by their endings, else by their first bytes.
        code: whether source code is read from folders.
        out: the folder that the tables go to; if other files are in it, those of the last time are passed over.
    """
    for root in paths:
        if root.is_file():
            yield recognise(root.name, root, forced)
            continue
        if not root.is_dir():
            yield Skipped(shown(PurePath(root.name)), NO_FILE, "pipe or device")
            continue
        again = out is not None and _is_output(root) and root.samefile(out) and _has_others(root)
        seen: set[str] = set()
        for path in sorted(_walk(root, frozenset()), key=lambda item: item.path if isinstance(item, _Aside) else item):
            if isinstance(path, _Aside):
                yield Skipped(shown(path.path.relative_to(root)), path.reason, path.what)
                continue
            found = _in_folder(root, path, forced, code)
            if again and path.parent == root and path.name == TABLES[0]:
                found = Skipped(path.name, OUTPUT, _ending(path)[0])
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


def recognise(name: str, path: Path, forced: str = "", *, code: bool = True, sniffed: bool = True) -> Found | Skipped:
    """Return a file with its format; skipped if the format is not recognised, or the file cannot be opened.

    Args:
        name: of the file.
        path: where it is.
        forced: its format, of an archive that of its members; empty = by its ending, else by its first bytes.
        code: whether source code is read.
        sniffed: whether a file of an unknown ending is recognised by its first bytes, as one without an ending is.
    """
    ending, packing = _ending(PurePath(name))
    name, packing = shown(PurePath(name)), _really(path, packing)
    kind, head = ENDINGS.get(ending, ""), _first(path, packing)
    if bundle := _bundle(head, ending, packing, known=bool(kind)):
        return Found(name, path, bundle, packing)
    kind = forced or kind
    if not kind and (sniffed or not ending):
        kind = sniff(path, packing)
        if kind == PLAIN and ending:  # text of an unknown kind is no prose by itself
            kind = ""
    if kind == CODE and not code:
        kind = ""
    elif ending == JULIA and code and not sniffed and not forced:
        kind = CODE
    if not forced and (other := _unopened(head, packing, archives=not kind)):
        return Skipped(name, other, ending or "no ending")
    return Found(name, path, kind, packing) if kind else Skipped(name, UNKNOWN, ending or "no ending")


def refusal(path: Path, found: Skipped) -> str:
    """Return why a file that was given by name is not read, and what to do."""
    if found.reason == UNKNOWN:
        return (
            f"the format of {shown(path)} is not known ({found.ending}); what is read: {', '.join(FORMATS)}; "
            "if it is one of them, name it by --format, else convert it"
        )
    return f"{shown(path)} is not read: {found.reason}"


def _first(path: Path, packing: str) -> bytes:
    """Return the first bytes of an unpacked file, a record of tar; none of a damaged one."""
    try:
        with unpacked(path, packing) as stream:
            return stream.read(tarfile.BLOCKSIZE)
    except DAMAGE:
        return b""


def _bundle(head: bytes, ending: str, packing: str, *, known: bool) -> str:
    """Return the kind of archive that a file is, by its first bytes; empty for all others.

    Documents of office programs, books and the like are zip archives of unknown endings, and no corpus.
    """
    if head.startswith(_ZIPPED) and not packing and (known or ending in ("", ".zip")):
        return ZIP
    if head[257:262] == b"ustar" or ending in _TARRED:
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.TarError:
            return TAR if head and not head.strip(b"\0") else ""  # zeros: an archive without a member
        return TAR
    return ""


def _unopened(head: bytes, packing: str, *, archives: bool) -> str:
    """Return why an archive or a pointer of Git LFS is not opened; empty for all other files."""
    if head.startswith(_POINTER):
        return POINTER
    found = next((name for magic, name in _UNOPENED.items() if archives and head.startswith(magic)), "")
    if archives and packing and head.startswith(_ZIPPED):
        found = ZIP
    return f"{found} archive; unpack it and give the folder" if found else ""


def _in_folder(root: Path, path: Path, forced: str, code: bool) -> Found | Skipped:
    relative = path.relative_to(root)
    found = below(relative, path, forced, code=code)
    if isinstance(found, Skipped):
        return found
    if path.name == FETCHED and any(path.parent.glob("*.warc*")):
        return Skipped(shown(relative), METADATA, _ending(path)[0])
    if path.name in TABLES and _is_output(path.parent) and (path.parent != root or path.name != TABLES[0]):
        return Skipped(shown(relative), OUTPUT, _ending(path)[0])
    return found


def _is_output(folder: Path) -> bool:
    """Return whether a folder holds the tables of a curation."""
    return all((folder / name).exists() for name in TABLES)


def _has_others(folder: Path) -> bool:
    return any(path.name not in TABLES and path.name[0] not in "._" for path in folder.iterdir())


def below(relative: PurePath, path: Path, forced: str, *, code: bool) -> Found | Skipped:
    """Return a file below a folder or in an archive with its format; hidden files and metadata are skipped.

    Args:
        relative: its path there.
        path: where its content is.
        forced: see `recognise`.
        code: whether source code is read.
    """
    hidden = next((k for k, part in enumerate(relative.parts) if part[0] in "._"), None)
    if hidden is not None:
        return Skipped(shown(PurePath(*relative.parts[: hidden + 1])), HIDDEN, "hidden")
    if relative.name in _DATASETS:
        return Skipped(shown(relative), METADATA, _ending(relative)[0])
    return recognise(str(relative), path, forced, code=code, sniffed=False)


def _ending(path: PurePath) -> tuple[str, str]:
    """Return the ending that names the format, and the compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = PACKED[suffixes.pop()] if suffixes and suffixes[-1] in PACKED else ""
    ending = suffixes[-1] if suffixes else ""
    return ("" if any(not c.isalnum() for c in ending[1:]) or ending[1:].isdigit() else ending), packing


def _really(path: Path, named: str) -> str:
    """Return how a file is packed, whatever its ending says: downloads are often unpacked on the way, or packed."""
    found = packing_of(path)
    if found or not named:
        return found
    try:
        with path.open("rb") as stream:
            return "" if not is_binary(stream.read(HEAD)) else named
    except OSError:
        return named


def packing_of(path: Path) -> str:
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
    if head.startswith((b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")):
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


def local(path: Path) -> pa.OSFile:
    """Open a file for Arrow, whose own way takes no names that are no UTF-8."""
    return pa.OSFile(os.fsencode(path))


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

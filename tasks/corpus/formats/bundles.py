"""Members of zip and tar archives, each as a file of its own.

A member is copied into a temporary file under a name of ours, whatever path the archive gives it, so nothing is written
elsewhere, and memory and disk hold one member at a time. An archive inside an archive is not opened.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from tasks.corpus.formats.encodings import Between
from tasks.corpus.formats.kinds import (
    BUNDLES,
    DAMAGE,
    ENCRYPTED,
    LINK,
    NO_FILE,
    ZIP,
    Found,
    Skipped,
    below,
    shown,
    unpacked,
)

CHUNK = 2**14  # a damaged one costs what is in it
DAMAGED = (*DAMAGE, zipfile.BadZipFile, tarfile.TarError, ValueError)  # what reading a damaged archive raises
NESTED = "archive within an archive; unpack the outer one and give the folder"
_UNIX, _LINK_MODE, _TYPE_MODE = 3, 0o120000, 0o170000

Span = tuple[int, int]


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: its path in the archive.
        size: its bytes, as the archive says.
        reason: why it is not read; empty if it is.
    """

    name: str
    size: int
    reason: str = ""


def members(file: Found, span: Span | None, forced: str, *, code: bool) -> Iterator[Found | Skipped]:
    """Yield the members of an archive as files, each there until the next one is asked for; folders are no members.

    Args:
        file: the archive.
        span: one of `spans`; None = all members.
        forced: the format of all members; empty = by their endings, else by their first bytes.
        code: whether source code is read.

    Raises:
        OSError: the archive is damaged; or another of `DAMAGED`.
    """
    seen: set[str] = set()
    with TemporaryDirectory(prefix="ketcycle-") as folder, _opened(file, span) as found:
        for member, stream in found:
            relative, path = _relative(member.name), Path(folder) / "member"
            if stream is None:
                yield Skipped(shown(relative), member.reason, "member").inside(file.name)
                continue
            problem = _copied(stream, member, path)
            one = below(relative, path, forced, code=code)
            if isinstance(one, Found) and one.kind in BUNDLES:
                one = Skipped(one.name, NESTED, one.kind)
            if isinstance(one, Found) or one.name not in seen:  # a hidden folder is named once
                seen.add(one.name)
                yield one.inside(file.name)
            if problem:
                yield Skipped(shown(relative), "damaged", problem).inside(file.name)
            path.unlink()


def spans(file: Found, n_bytes: int) -> list[Span]:
    """Return parts of an archive whose members have about so many bytes together; none where it has to be read at once.

    They are ranges of members of a zip archive, and of bytes of a tar archive; a packed one has no parts.

    Raises:
        OSError: see `members`.
    """
    if file.packing:
        return []
    with file.path.open("rb") as raw:
        if file.kind == ZIP:
            with zipfile.ZipFile(raw) as zipped:
                infos = zipped.infolist()
                begins, sizes = list(range(len(infos) + 1)), [info.file_size for info in infos]
        else:
            with tarfile.open(fileobj=raw, mode="r:") as tarred:
                pairs = [(info.offset, info.size) for info in _each(tarred)]
                begins, sizes = [*(begin for begin, _ in pairs), raw.seek(0, 2)], [size for _, size in pairs]
    found: list[Span] = []
    first = held = 0
    for k, size in enumerate(sizes):
        if held and held + size > n_bytes:
            found.append((begins[first], begins[k]))
            first, held = k, 0
        held += size
    return [*found, (begins[first], begins[-1])] if found else []


@contextmanager
def _opened(file: Found, span: Span | None) -> Iterator[Iterator[tuple[Member, IO[bytes] | None]]]:
    """Open an archive; its members come with their contents, which are there until the next one is asked for."""
    with unpacked(file.path, file.packing) as raw:
        if file.kind == ZIP:
            with zipfile.ZipFile(raw) as zipped:
                yield _of_zip(zipped, span)
        else:
            part: Any = Between(raw, *span) if span else raw
            with tarfile.open(fileobj=part, mode="r|") as tarred:
                yield _of_tar(tarred)


def _of_zip(archive: zipfile.ZipFile, span: Span | None) -> Iterator[tuple[Member, IO[bytes] | None]]:
    for info in archive.infolist()[slice(*span) if span else slice(None)]:
        if info.is_dir():
            continue
        name = info.filename.replace("\\", "/")
        mode = info.external_attr >> 16 & _TYPE_MODE if info.create_system == _UNIX else 0
        reason = ENCRYPTED if info.flag_bits & 1 else LINK if mode == _LINK_MODE else ""
        if reason:
            yield Member(name, info.file_size, reason), None
            continue
        try:
            stream = archive.open(info)
        except (NotImplementedError, zipfile.BadZipFile) as error:
            yield Member(name, info.file_size, f"damaged, or packed in an unknown way ({error})"), None
            continue
        with stream:
            yield Member(name, info.file_size), stream


def _of_tar(archive: tarfile.TarFile) -> Iterator[tuple[Member, IO[bytes] | None]]:
    for info in _each(archive):
        if not info.isdir():
            reason = "" if info.isfile() else LINK if info.issym() or info.islnk() else NO_FILE
            yield Member(info.name, info.size, reason), None if reason else archive.extractfile(info)


def _each(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of an archive, none of which is held: of a long archive they would fill the memory."""
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]
        yield info


def _relative(name: str) -> PurePosixPath:
    """Return the path of a member below the root of its archive."""
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")))


def _copied(stream: IO[bytes], member: Member, path: Path) -> str:
    """Copy a member into a file; return what is wrong with it, empty if nothing is."""
    free = shutil.disk_usage(path.parent).free
    with path.open("wb") as target:
        if member.size > free:
            return f"it has {member.size} bytes, and {free} are free in {path.parent}"
        try:
            while data := stream.read(CHUNK):
                target.write(data)
        except DAMAGED as error:
            return f"{type(error).__name__}: {error}"
    return ""

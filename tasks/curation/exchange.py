"""Shards and searches of one curation on machines that share no folder: they travel through the lake.

A shard is a data set `curation/shards/s<key>`, a file of the corpus that the other machines cannot see
`curation/files/f<digest>`, and the edges of some bands `curation/bands/b<digest>`. What a machine has made is in the
lake before its task ends, so a machine that dies costs the parts that it was at.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.lake import Ref, link_or_copy
from tasks.corpus.documents import Piece
from tasks.curation.index.near_duplicates import Join, join_bands
from tasks.curation.index.shards import UNREADABLE, Recipe, Work, digest_of, make_shard
from tasks.stage import Context

PROBED = 5  # files of a corpus that are compared to see whether a machine has the same ones
Everywhere = Callable[[Callable[[], bool]], bool]


@dataclass(frozen=True)
class MakeShard:
    """Makes a shard, here or on a machine with another home; picklable."""

    context: Context
    recipe: Recipe

    def __call__(self, work: Work) -> Path:
        """Make a shard where the caller's folders are."""
        return make_shard(_shards(self.context), work, self.recipe)

    def send(self, items: Sequence[Work], everywhere: Everywhere) -> None:
        """Put the files of the corpus into the lake, unless all machines see them at their paths."""
        files = {d: p.file.path for work in items for p, d in zip(work.pieces, work.digests, strict=True)}
        if everywhere(_Sees(tuple(list(files.items())[:PROBED]))):
            return
        for digest, path in files.items():
            name = f"curation/files/f{digest[:32]}"
            if not digest.startswith(UNREADABLE) and not self.context.lake.versions(name):
                with TemporaryDirectory(dir=self.context.scratch) as folder:
                    link_or_copy(path, Path(folder) / "file")
                    self.context.lake.put_folder(name, Path(folder), link=True)

    def there(self, work: Work) -> str:
        """Make a shard on another machine and put it into the lake; return its key."""
        if get_shard(self.context, work.key) is None:
            pieces = tuple(self._here(p, d) for p, d in zip(work.pieces, work.digests, strict=True))
            make_shard(_shards(self.context), replace(work, pieces=pieces), self.recipe)
        put_shard(self.context, work.key)
        return work.key

    def fetch(self, key: str) -> Path:
        """Return the folder of a shard that another machine has made."""
        found = get_shard(self.context, key)
        assert found is not None, key  # noqa: S101  (its maker has put it there)
        return found

    def _here(self, piece: Piece, digest: str) -> Piece:
        """Return a piece whose file is on this machine."""
        if digest.startswith(UNREADABLE) or digest_of(piece.file.path) == digest:
            return piece
        name = f"curation/files/f{digest[:32]}"
        versions = self.context.lake.versions(name)
        if not versions:  # the reader puts it aside
            return piece
        path = self.context.lake.folder(versions[-1]) / "file"
        return replace(piece, file=replace(piece.file, path=path))


@dataclass(frozen=True)
class _Sees:
    """Whether a machine has files at their paths."""

    files: tuple[tuple[str, Path], ...]

    def __call__(self) -> bool:
        return all(digest_of(path) == digest for digest, path in self.files)


@dataclass(frozen=True)
class JoinBands:
    """Searches some bands, here or on a machine with another home; picklable."""

    context: Context
    join: Join

    def __call__(self, bands: list[int]) -> Path:
        """Search where the caller's folders are."""
        return join_bands(self.join, bands)

    def send(self, _: Sequence[Any], everywhere: Everywhere) -> None:
        """Put the shards into the lake, and which candidates take part."""
        del everywhere
        for shard in self.join.folders:
            put_shard(self.context, shard.name)
        with TemporaryDirectory(dir=self.context.scratch) as folder:
            for name in ("active", "known"):
                link_or_copy(self.join.scratch / name, Path(folder) / name)
            self.context.lake.put_folder(self._name, Path(folder), link=True)

    def there(self, bands: list[int]) -> str:
        """Search on another machine; return the reference of the edges in the lake."""
        folders = [get_shard(self.context, folder.name) for folder in self.join.folders]
        given = self.context.lake.folder(self.context.lake.versions(self._name)[-1])
        with TemporaryDirectory(dir=self.context.scratch) as name:
            scratch, out = Path(name), Path(name) / "out"
            out.mkdir()
            for part in ("active", "known"):
                link_or_copy(given / part, scratch / part)
            found = [folder for folder in folders if folder is not None]
            path = join_bands(replace(self.join, folders=tuple(found), scratch=scratch), bands)
            path.rename(out / path.name)
            return str(self.context.lake.put_folder(f"curation/bands/b{bands[0]:04d}_{self._mark}", out))

    def fetch(self, ref: str) -> Path:
        """Return the file of edges that another machine has found."""
        (path,) = self.context.lake.files(Ref.parse(ref))
        target = self.join.scratch / path.name
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        link_or_copy(path, draft)
        draft.rename(target)
        return target

    @property
    def _mark(self) -> str:
        return hashlib.sha256(repr(sorted(folder.name for folder in self.join.folders)).encode()).hexdigest()[:16]

    @property
    def _name(self) -> str:
        return f"curation/bands/given_{self._mark}"


def _shards(context: Context) -> Path:
    return context.home / "index" / "curation" / "shards"


def put_shard(context: Context, key: str) -> None:
    """Put a shard of this home into the lake, unless it is there."""
    if not context.lake.versions(f"curation/shards/s{key}"):
        context.lake.put_folder(f"curation/shards/s{key}", _shards(context) / key, link=True)


def get_shard(context: Context, key: str) -> Path | None:
    """Return the folder of a shard: of this home, or fetched from the lake; None if it does not exist yet."""
    target = _shards(context) / key
    if (target / "facts.json").exists():
        return target
    versions = context.lake.versions(f"curation/shards/s{key}")
    if not versions:
        return None
    draft = target.with_name(f".{key}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(context.lake.folder(versions[-1]), draft, copy_function=link_or_copy)
        try:
            draft.rename(target)
        except OSError:  # another process was faster
            if not (target / "facts.json").exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target

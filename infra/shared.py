"""Lake and evidence of an installation: in its home, or in a store that several machines share.

With a store, the folder in the home is a mirror. A version is first written locally, then its files are uploaded and
its manifest last, so that a version exists in the store once its manifest does. A version of another machine is
downloaded when it is read, and verified against its digests before it becomes visible. Lists come from the store.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import LakeError
from infra.evidence import Evidence
from infra.lake import Lake, Ref, damaged, named_by, sha256, write_atomic
from infra.store import Store

LAKE = "lake"
ABANDONED_S = 86400.0  # uploading one file takes less


def open_lake(home: Path) -> Lake:
    """Return the lake of an installation.

    Raises:
        BadInput: a setting cannot be used.
    """
    store = Store.of(home)
    return SharedLake(store.mirror(home) / LAKE, store) if store else Lake(home / LAKE)


def open_evidence(home: Path) -> Evidence:
    """Return the evidence of an installation.

    Raises:
        BadInput: a setting cannot be used.
    """
    store = Store.of(home)
    return Evidence(store.mirror(home) / "evidence", store) if store else Evidence(home / "evidence")


def shipped_evidence() -> Evidence:
    """Return the evidence that ships with the package, without rows where none ships; it is read-only."""
    places = (Path(__file__).parents[1] / "docs" / "evidence", Path(__file__).parents[1] / "deployments" / "evidence")
    found = next((place for place in places if any(place.glob("evidence/part-*.parquet"))), places[0])
    return Evidence(found / "evidence")


class SharedLake(Lake):
    """Data sets in a store, with a mirror below one folder."""

    def __init__(self, root: Path, store: Store) -> None:
        super().__init__(root)
        self.place, self._store = store.url, store

    def manifest(self, ref: Ref) -> dict[str, Any]:
        """Return the manifest of a version, fetched if it is not here.

        Raises:
            LakeError: the version does not exist, its manifest cannot be read, or the store does not answer.
        """
        if not self._manifest_path(ref).exists():
            if (text := self._store.text(_key(ref))) is None:
                self._store.sizes(f"{LAKE}/{ref.name}")  # raises if there is no bucket
            else:
                self._keep(ref, text)
        return super().manifest(ref)

    def files(self, ref: Ref) -> list[Path]:
        """Return the files of a version, fetched if they are not here.

        Raises:
            LakeError: the version does not exist, is damaged in the store, or the store does not answer.
        """
        if not _whole(self.entries(ref)):
            self._fetch(ref)
        return super().files(ref)

    def check(self, ref: Ref) -> None:
        """Check whether a version is complete in the store, without fetching it.

        Raises:
            LakeError: the version does not exist, one of its files is missing or has another size, or the store does
                not answer.
        """
        text = self._store.text(_key(ref))
        if text is None:
            raise LakeError(f"the lake at {self.place} has no data set {ref}; was it cleaned? run the stage again")
        base = f"{LAKE}/{ref.name}/{json.loads(text)['folder']}"
        sizes = self._store.sizes(base)
        for entry in json.loads(text)["files"]:
            if sizes.get(f"{base}/{entry['path']}") != entry["bytes"]:
                raise damaged(ref, f"{entry['path']} is not whole in {self.place}")

    def names(self, below: str = "") -> list[str]:
        """Return the names of all data sets in the store, or of those below a name, in alphabetical order."""
        keys = self._store.sizes(f"{LAKE}/{below}".rstrip("/"))
        return named_by(key.removeprefix(f"{LAKE}/") for key in keys)

    def versions(self, name: str) -> list[Ref]:
        """Return all versions of a data set that are in the store, the oldest first."""
        prefix = f"{LAKE}/{name}/"
        found = [key.removeprefix(prefix) for key in self._store.sizes(f"{LAKE}/{name}")]
        refs = [Ref(name, key.removesuffix(".json")) for key in found if "/" not in key and named_by([f"x/{key}"])]
        for ref in refs:
            self.manifest(ref)
        return sorted(refs, key=lambda ref: (self._manifest_path(ref).stat().st_mtime_ns, ref.version))

    def remove(self, ref: Ref) -> int:
        """Delete a version, in the store and here, its manifest first; return the bytes freed.

        Raises:
            LakeError: the version does not exist, or the store does not answer.
        """
        folder = json.loads(self._store.text(_key(ref)) or "{}").get("folder", self.manifest(ref)["folder"])
        self._store.delete([_key(ref)])
        self._store.delete(self._store.sizes(f"{LAKE}/{ref.name}/{folder}"))
        return super().remove(ref)

    def orphans(self, older_than_s: float = 3600.0) -> list[Path]:
        """Return folders without a manifest, and mirrored versions that are no longer in the store."""
        found = super().orphans(older_than_s)
        for name in super().names():
            here, there = super().versions(name), set(self.versions(name))
            for ref in here:
                if ref not in there:
                    found += [self._manifest_path(ref), self.root / name / self.manifest(ref)["folder"]]
        return [path for path in found if path.exists()]

    def unfinished(self, older_than_s: float = ABANDONED_S) -> dict[str, int]:
        """Return the folders without a manifest in the store, with their bytes; killed writers leave them."""
        folders: dict[tuple[str, str], dict[str, int]] = {}
        sizes = self._store.sizes(LAKE)
        for key, size in sizes.items():
            parts = key.split("/")
            at = next((i for i, part in enumerate(parts) if len(part) == 32), None)
            if at is not None:
                folders.setdefault(("/".join(parts[1:at]), parts[at]), {})[key] = size
        named = {
            (ref.name, str(self.manifest(ref)["folder"]))
            for name in named_by(key.removeprefix(f"{LAKE}/") for key in sizes)
            for ref in self.versions(name)
        }
        now, found = time.time(), {}
        for (name, folder), inside in folders.items():
            if (name, folder) not in named and min(self._store.age_s(key, now) for key in inside) > older_than_s:
                found[f"{name}/{folder}"] = sum(inside.values())
        return found

    def discard(self, folder: str) -> None:
        """Delete folders that `unfinished` returned."""
        self._store.delete(self._store.sizes(f"{LAKE}/{folder}"))

    def _publish(self, ref: Ref, folder: Path, manifest: Mapping[str, Any]) -> None:
        try:
            self.check(ref)
        except LakeError:  # new, or damaged and replaced by this write
            for entry in manifest["files"]:
                self._store.put(f"{LAKE}/{ref.name}/{folder.name}/{entry['path']}", folder / entry["path"])
            text = json.dumps(manifest, indent=1)
            self._store.put_text(_key(ref), text)
            self._keep(ref, text)
        else:
            self._keep(ref, self._store.text(_key(ref)) or "")
            self._place(ref, folder)

    def _fetch(self, ref: Ref) -> None:
        """Download the files of a version; they are verified against their digests and appear together."""
        folder = self.root / ref.name / uuid.uuid4().hex
        base = f"{LAKE}/{ref.name}/{self.manifest(ref)['folder']}"
        try:
            for _, entry in self.entries(ref):
                path = folder / entry["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                if not self._store.get(f"{base}/{entry['path']}", path):
                    raise damaged(ref, f"{entry['path']} is gone from {self.place}")
                if path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
                    raise damaged(ref, f"{entry['path']} in {self.place} is not what was written")
            self._place(ref, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, ref: Ref, folder: Path) -> None:
        """Upload a folder to the place that the manifest names, unless it is there already."""
        target = self.root / ref.name / str(self.manifest(ref)["folder"])
        if target == folder:
            return
        if not _whole(self.entries(ref)):
            shutil.rmtree(target, ignore_errors=True)
            try:
                folder.rename(target)
            except OSError:  # another process was faster
                if not _whole(self.entries(ref)):
                    raise
        shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, ref: Ref, text: str) -> None:
        """Store the manifest here, with the time stamp of the version."""
        path = self._manifest_path(ref)
        write_atomic(path, text)
        if written_ns := json.loads(text).get("written_ns"):  # older versions lack this field
            os.utime(path, ns=(written_ns, written_ns))


def _key(ref: Ref) -> str:
    return f"{LAKE}/{ref.name}/{ref.version}.json"


def _whole(entries: list[tuple[Path, dict[str, Any]]]) -> bool:
    return all(path.exists() and path.stat().st_size == entry["bytes"] for path, entry in entries)

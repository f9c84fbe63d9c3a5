"""Objects under keys that several machines share, in S3 or another store supported by fsspec.

Objects appear atomically, and every later read finds them. S3 guarantees both; a mounted folder does not. Credentials
are found by the client of the store, for S3 in the variables `AWS_*` or in `~/.aws`; set `AWS_ENDPOINT_URL` for an
S3-compatible store other than Amazon's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import settings
from infra.errors import BadInput, LakeError

CONNECT_S, ATTEMPTS = 10, 3
PARTS, PART_BYTES = 2, 16 * 2**20  # bytes of an upload part, held in memory; S3 accepts 10,000 parts for one file
FOLDER = "stores"  # folder in the home with the files downloaded from each store

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": CONNECT_S, "retries": {"mode": "standard", "max_attempts": ATTEMPTS}},
        "max_concurrency": PARTS,
        "default_block_size": PART_BYTES,
    },
}
_ADVICE = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials",
    "PermissionError": "see whether the key is right (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and may read, write, "
    "list and delete there",
    "FileNotFoundError": "make the bucket, or correct lake_url",
    "EndpointConnectionError": "see whether the store runs and AWS_ENDPOINT_URL is its address",
}


@dataclass(frozen=True)
class Store:
    """Objects below one address.

    Attributes:
        url: e.g. `s3://bucket/prefix`.
    """

    url: str

    @classmethod
    def of(cls, home: Path) -> Store | None:
        """Return the store given by the settings; None if all data is in the home."""
        url = settings.load(home=home).lake_url
        return cls(url.rstrip("/")) if url else None

    def mirror(self, home: Path) -> Path:
        """Return the folder of a home with the files downloaded from this store; each store has its own folder."""
        return home / FOLDER / hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def put(self, key: str, path: Path) -> None:
        """Upload a file.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not take it.
        """
        with self._asked() as (files, root):
            files.put_file(str(path), f"{root}/{key}")

    def put_text(self, key: str, text: str) -> None:
        """Upload a text.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not take it.
        """
        with self._asked() as (files, root):
            files.pipe_file(f"{root}/{key}", text.encode())

    def get(self, key: str, path: Path) -> bool:
        """Download an object into a file; return False if it does not exist.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not answer.
        """
        with self._asked() as (files, root):
            try:
                files.get_file(f"{root}/{key}", str(path))
            except FileNotFoundError:
                return False
        return True

    def text(self, key: str) -> str | None:
        """Return an object as text; None if it does not exist.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not answer.
        """
        with self._asked() as (files, root):
            try:
                return str(files.cat_file(f"{root}/{key}").decode())
            except FileNotFoundError:
                return None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the key of every object below a folder, and its bytes.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not answer.
        """
        with self._asked() as (files, root):
            found = files.find(f"{root}/{prefix}", detail=True)
            if not found:
                files.info(files._strip_protocol(root).partition("/")[0])  # noqa: SLF001  (no bucket is not empty)
            start = len(files._strip_protocol(root)) + 1  # noqa: SLF001
        return {name[start:]: int(entry["size"]) for name, entry in found.items()}

    def age_s(self, key: str, now: float) -> float:
        """Return the age of an object in seconds.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not answer, or the object does not exist.
        """
        with self._asked() as (files, root):
            return now - float(files.modified(f"{root}/{key}").timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; an object that does not exist is no error.

        Raises:
            BadInput: the client of such a store is not installed.
            LakeError: the store did not answer.
        """
        with self._asked() as (files, root):
            for key in keys:
                try:
                    files.rm_file(f"{root}/{key}")
                except FileNotFoundError:
                    continue

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, str]]:
        """Yield the client and the root; errors of the client become errors with advice."""
        import fsspec  # slow import that only an installation with a store needs

        protocol = self.url.partition("://")[0]
        try:
            files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **_OPTIONS.get(protocol, {}))
        except (ImportError, ValueError) as error:
            extra = "pip install 'ketcycle[s3]'" if protocol == "s3" else f"install the fsspec client of {protocol}"
            raise BadInput(f"lake_url {self.url}: {error}; {extra}") from None
        try:
            yield files, root
        except Exception as error:  # seam: every store has errors of its own
            kinds = [kind.__name__ for kind in type(error).__mro__]
            advice = next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), "see whether the store can be reached")
            raise LakeError(
                f"the store {self.url} failed: {type(error).__name__}: {error}; {advice}, then continue with --resume"
            ) from error

"""Versions that must be equal on all machines of an installation, which exchange pickled tasks and share a lake.

The digest of the code identifies the modules of this process. Sources are read on request, not at import. If a source
changed after this module was loaded, the loaded code is unknown, and the digest is marked accordingly.
"""

from __future__ import annotations

import hashlib
import platform
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dask", "distributed", "cloudpickle", "prefect", "numpy", "pyarrow", "torch", "transformers", "qiskit")
ROOT = Path(__file__).parents[1]
_LOADED_S = time.time()


@cache
def installed() -> dict[str, str]:
    """Return the versions of this process: Python, ketcycle with a digest of its code, and libraries for exchange."""
    found = {"python": platform.python_version(), "ketcycle": f"{_version('ketcycle')}+{code(ROOT, _LOADED_S)}"}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def code(root: Path, loaded_s: float) -> str:
    """Return a digest of the sources below a folder.

    Args:
        root: folder of the packages.
        loaded_s: time at which the packages were loaded, seconds since the epoch.

    Returns:
        Eight hexadecimal digits; `edited-since-start` and the time of loading if a source changed after it.
    """
    paths = sorted(path for package in ("flows", "infra", "tasks") for path in (root / package).rglob("*.py"))
    if any(path.stat().st_ctime > loaded_s for path in paths):
        return f"edited-since-start-{loaded_s:.3f}"
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]

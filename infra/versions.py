"""What must be the same on all machines of an installation, for they exchange pickled tasks and read one lake."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dask", "distributed", "cloudpickle", "prefect", "numpy", "pyarrow", "torch", "transformers", "qiskit")


@cache
def installed() -> dict[str, str]:
    """Return the versions of this process: Python, ketcycle with a digest of its code, and what they exchange."""
    found = {"python": platform.python_version(), "ketcycle": f"{_version('ketcycle')}+{_code()}"}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _code() -> str:
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(p for package in ("flows", "infra", "tasks") for p in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


installed()  # of the code that was loaded, not of what lies on the disk when somebody asks

"""The shipped corpus (`deployments/sample`): two domains of text and the true near-duplicate pairs."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def sample_path(name: str) -> Path:
    """Return the path of `base`, `second` or `truth` of the shipped corpus.

    Raises:
        FileNotFoundError: the installation lacks the file.
    """
    path = Path(str(files("deployments").joinpath("sample", f"{name}.parquet")))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; reinstall ketcycle or give a corpus of your own")
    return path

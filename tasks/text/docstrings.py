"""Docstrings of installed libraries: further real text beside the shipped corpus, read from source, never imported.

The texts depend on the installed versions; `constraints.txt` pins the versions, and a study stores the digest of its
texts, so that two machines can compare whether they used the same texts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SHORTEST = 50  # words

# Libraries by source; a pattern where the whole library would be far more text than a bank needs.
LIBRARIES = {
    "numerics": (("networkx", "**/*.py"), ("numpy", "**/*.py"), ("scipy", "**/*.py"), ("sklearn", "**/*.py")),
    "frameworks": (
        ("matplotlib", "**/*.py"),
        ("qiskit", "**/*.py"),
        ("sqlalchemy", "**/*.py"),
        ("torch", "nn/**/*.py"),
        ("transformers", "models/*/configuration_*.py"),
    ),
}


def library_docstrings(source: str, kept: Path | None = None) -> dict[str, str]:
    """Return the docstrings of at least 50 words of the libraries of a source, in the order of the files.

    Args:
        source: one of `LIBRARIES`.
        kept: folder where they are kept for the installed versions: reading all sources takes 5 CPU seconds.

    Returns:
        Docstring -> its module: library and path of the file.

    Raises:
        ValueError: the source does not exist.
    """
    if source not in LIBRARIES:
        raise ValueError(f"docstrings come from {', '.join(LIBRARIES)}, not from {source!r}")
    if kept is None:
        return _read(source)
    asked = [SHORTEST, *((library, pattern, _version(library)) for library, pattern in LIBRARIES[source])]
    path = kept / f"docstrings-{source}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found
    found = _read(source)
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=kept, suffix=".tmp", encoding="utf-8", delete=False) as made:
        json.dump(found, made)
    Path(made.name).replace(path)
    return found


def _version(library: str) -> str:
    """Return the version and the place of an installed library; empty if it is not installed."""
    spec = find_spec(library)
    name = {"sklearn": "scikit-learn"}.get(library, library)
    return f"{version(name)} {spec.origin}" if spec and spec.origin else ""


@cache
def _read(source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for library, pattern in LIBRARIES[source]:
        spec = find_spec(library)
        if spec is None or spec.origin is None:
            continue
        root = Path(spec.origin).parent
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            if "test" not in name:
                for text in _docstrings(path):
                    if len(text.split()) >= SHORTEST:
                        found.setdefault(text, f"{library}/{name}")
    return found


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # the file is a template, or not UTF-8
        return
    waiting: list[ast.AST] = [tree]
    while waiting:  # only statements hold definitions; walking every expression takes as long as parsing
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        waiting += [child for child in reversed(getattr(node, "body", ())) if isinstance(child, ast.stmt)]

"""Location of the list of deployments: in a clone of the repository, or inside a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def project_file() -> Path:
    """Return prefect.yaml of the repository, or the copy that a wheel holds in this package."""
    path = PACKAGE.parent / "prefect.yaml"
    return path if path.exists() else PACKAGE / "prefect.yaml"

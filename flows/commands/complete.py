"""What the shell offers for an argument: names of stages, decisions, profiles and runs; else nothing."""

from __future__ import annotations

from contextlib import suppress
from importlib import resources
from pathlib import Path

import typer

from infra.errors import KetcycleError
from infra.settings import Settings


def stages(incomplete: str) -> list[str]:
    """Return the stages that begin like this; of a list with commas the last item is completed."""
    from tasks.contract import STAGES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in STAGES if name.startswith(last)]


def subtasks(incomplete: str) -> list[str]:
    """Return the decisions that begin like this."""
    from tasks.registry import names

    return [name for name in names() if name.startswith(incomplete)]


def options(incomplete: str) -> list[str]:
    """Return the options of stages and decisions that begin like this, with the sign that a value follows."""
    from tasks.options import listed, sections

    known = (name for section in sections() for name, _ in listed(section))
    return [f"{name}=" for name in known if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Return the profiles that begin like this."""
    names = (Path(str(p)) for p in (resources.files("deployments") / "profiles").iterdir())
    return sorted(p.stem for p in names if p.suffix == ".yaml" and p.name.startswith(incomplete))


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin like this."""
    from tasks.contract import Method

    return [method.value for method in Method if method.value.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    """Return the kinds of backends that begin like this."""
    return [name for name in ("aer", "noisy:fake_torino", "noisy:", "ibm:") if name.startswith(incomplete)]


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the home that begin like this."""
    return _folders(context, "runs", incomplete)


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """Return the studies of the home that begin like this."""
    return _folders(context, "studies", incomplete)


def _folders(context: typer.Context, kind: str, incomplete: str) -> list[str]:
    home = context.params.get("home")
    if home is None:
        with suppress(KetcycleError, ValueError):
            home = Settings().home
    folder = Path(home or ".ketcycle").expanduser() / kind
    return sorted(path.name for path in folder.glob(f"{incomplete}*") if path.is_dir())

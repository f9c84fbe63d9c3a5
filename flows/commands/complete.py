"""Shell completion of arguments: names of stages, decisions, options, profiles, backends, runs and studies."""

from __future__ import annotations

from contextlib import suppress
from importlib import resources
from pathlib import Path

import typer

from infra.errors import KetcycleError
from infra.settings import Settings


def stages(incomplete: str) -> list[str]:
    """Return the stages that begin with the given text; of a comma-separated list the last item is completed."""
    from tasks.contract import STAGES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in STAGES if name.startswith(last)]


def subtasks(incomplete: str) -> list[str]:
    """Return the decisions that begin with the given text."""
    from tasks.registry import names

    return [name for name in names() if name.startswith(incomplete)]


def pilots(incomplete: str) -> list[str]:
    """Return the pilots that begin with the given text."""
    from tasks.contract import PILOTS
    from tasks.options import decisions_of

    return [name for name in decisions_of(PILOTS) if name.startswith(incomplete)]


def options(incomplete: str) -> list[str]:
    """Return the options of stages and decisions that begin with the given text, each followed by `=`."""
    from tasks.options import listed, sections

    known = (name for section in sections() for name, _ in listed(section))
    return [f"{name}=" for name in known if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Return the profiles that begin with the given text."""
    names = (Path(str(p)) for p in (resources.files("deployments") / "profiles").iterdir())
    return sorted(p.stem for p in names if p.suffix == ".yaml" and p.name.startswith(incomplete))


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin with the given text."""
    from tasks.contract import Method

    return [method.value for method in Method if method.value.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    """Return the kinds of backends that begin with the given text."""
    return [name for name in ("aer", "noisy:fake_torino", "noisy:", "ibm:") if name.startswith(incomplete)]


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the home that begin with the given text."""
    return _folders(context, "runs", incomplete)


def studies(context: typer.Context, incomplete: str) -> list[str]:
    """Return the studies of the home that begin with the given text."""
    return _folders(context, "studies", incomplete)


def _folders(context: typer.Context, kind: str, incomplete: str) -> list[str]:
    home = context.params.get("home")
    if home is None:
        with suppress(KetcycleError, ValueError):
            home = Settings().home
    folder = Path(home or ".ketcycle").expanduser() / kind
    return sorted(path.name for path in folder.glob(f"{incomplete}*") if path.is_dir())

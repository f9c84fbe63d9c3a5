"""Command `outlook`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import complete
from flows.commands.console import AsJson, Home, clear_errors, print_value
from infra import settings


def outlook(
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage; may be repeated.", autocompletion=complete.stages)
    ] = None,
    hardware: Annotated[
        Path | None, typer.Option(help="YAML file with values to replace in tasks/outlook/hardware.yaml.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option(help="YAML file with values to replace in tasks/outlook/site.yaml.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for outlook.html and the exports; default `outlook` in the home.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show break-even sizes, costs, benefits and risks of every decision, from stored or shipped evidence."""
    from flows.reports.outlook.build import build_outlook
    from flows.reports.outlook.export import write_outlook
    from flows.reports.outlook.text import console
    from tasks.outlook.assumptions import load_assumptions

    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        found = build_outlook(loaded, load_assumptions(hardware, site), stage or ())
        paths = write_outlook(found, loaded, out or loaded.home / "outlook")
        print_value(found.asdict() if as_json else console(found, paths), as_json)

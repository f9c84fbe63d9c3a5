"""Commands that look at what runs left: `report`, `compare`, `evidence`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, out, print_value
from infra import settings


def report(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; default the newest.")] = None,
    html: Annotated[bool, typer.Option("--html", help="Make the report anew from the stored evidence.")] = False,
    open_at: Annotated[Path | None, typer.Option("--open", help="With --html: also put the page there.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print the report of a run."""
    from flows.render import closing, read_report

    with clear_errors():
        loaded = settings.load(home=home)
        if html:
            from flows.report import remake

            path = remake(loaded, run_id)
            if open_at:
                shutil.copyfile(path, open_at)
            print_value({"report": str(open_at or path)} if as_json else str(open_at or path), as_json)
            return
        found = read_report(loaded.home, run_id)
        print_value(found if as_json else closing(found), as_json)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN")],
    second: Annotated[str, typer.Argument(metavar="RUN")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: parameters, time, energy, decisions, quality, data and model."""
    from flows.compare import compare as compare_runs
    from flows.render import comparison
    from infra.energy.model import Coefficients

    with clear_errors():
        found = compare_runs(settings.load(home=home).home, first, second, Coefficients.load())
        print_value(found if as_json else comparison(found), as_json)


def evidence(
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    subtask: Annotated[str | None, typer.Option(help="Only this decision, e.g. pruning.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the stored evidence, one row for each executed arm."""
    from rich.table import Table

    from infra.evidence import Evidence

    with clear_errors():
        rows = Evidence(settings.load(home=home).home / "evidence").read(run_id=run_id, subtask=subtask)
        if as_json:
            print_value([row.asdict() for row in rows], as_json)
            return
        header = ("run", "stage", "decision", "arm", "status", "n", "quality", "CPU s", "circuits", "source", "when")
        table = Table(*header, pad_edge=False)
        for row in rows:
            quality = f"{sum(row.qualities) / len(row.qualities):.4g}" if row.qualities else "-"
            cells = (row.run_id, row.stage, row.subtask or row.problem, row.arm, row.status, str(len(row.qualities)))
            cpu_s = f"{row.usage.cpu_s + row.prepare.cpu_s:.3g}"
            circuits = str(row.usage.circuits + row.prepare.circuits)
            table.add_row(*cells, quality, cpu_s, circuits, row.energy_source, row.created_at[:19])
        out.print(table if rows else "no evidence yet; try: ketcycle run")

"""Commands that show runs and the installation: `status`, `logs`, `report`, `compare`, `evidence`."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import complete
from flows.commands.console import AsJson, Home, clear_errors, out, print_table, print_value
from infra import runs, settings
from infra.errors import BadInput
from infra.settings import Settings

if TYPE_CHECKING:
    from infra.installation.status import Status


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every few seconds, until interrupted.")] = False,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds between refreshes, with --watch.")] = 5.0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show the installation on one screen: services, runs, queue and budget, champion, drift, events, disk."""
    from infra.installation.status import look as take

    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        while True:
            found = take(loaded)
            if as_json:
                print_value(found.asdict(), as_json)
            else:
                if watch:
                    out.clear()
                _show(found)
            if not watch:
                return
            time.sleep(every)


def _show(found: Status) -> None:
    from flows.reports.status import headline, sections

    out.print(headline(found), highlight=False, soft_wrap=True)
    for section in sections(found):
        out.print(f"\n[bold]{section.title}[/bold]", highlight=False)
        print_table([dict(zip(section.columns, row, strict=True)) for row in section.rows], f"  {section.empty}")


def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run.", autocompletion=complete.runs)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further lines, until interrupted.")] = False,
    home: Home = None,
) -> None:
    """Print the log of a run, from all its processes, with the time and the run on every line.

    RUN is a run of the state folder, or the name or id of a flow run in the Prefect page, such as
    "curate-on-arrival: aug.parquet".
    """
    from infra.installation.status import prefect_of
    from infra.run_log import lines

    with clear_errors():
        loaded = settings.load(home=home)
        found = None
        if not (runs.folder(loaded.home, run_id) / "log.txt").exists():
            prefect = prefect_of(loaded)
            found = prefect.logs(run_id) if prefect.answers() else None
        for line in found or lines(loaded.home, run_id, follow=follow):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def report(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run; default the newest.", autocompletion=complete.runs)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All tables: stages, decisions, energies.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Rebuild the report from the stored evidence.")] = False,
    open_at: Annotated[Path | None, typer.Option("--open", help="With --html: also write the page here.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print the report of a run."""
    from flows.reports.run.closing import render, summarise
    from flows.reports.run.text import full_tables

    with clear_errors():
        loaded = settings.load(home=home)
        if html:
            from flows.reports.run.report import remake

            path = remake(loaded, run_id)
            if open_at:
                shutil.copyfile(path, open_at)
            print_value({"report": str(open_at or path)} if as_json else str(open_at or path), as_json)
            return
        found = runs.read_report(loaded.home, run_id)
        page = runs.report_files(loaded.home, found["run_id"])[-1]
        print_value(found if as_json else full_tables(found) if full else render(summarise(found, page)), as_json)


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", autocompletion=complete.runs)],
    second: Annotated[str, typer.Argument(metavar="RUN", autocompletion=complete.runs)],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: parameters, time, energy, decisions, quality, data and model."""
    from flows.reports.run import compare as sides
    from infra.energy.model import Coefficients

    with clear_errors():
        found = sides.compare(settings.load(home=home).home, first, second, Coefficients.load())
        print_value(found if as_json else sides.render(found), as_json)


def evidence(
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.", autocompletion=complete.runs)] = None,
    subtask: Annotated[str | None, typer.Option(help="Only this decision, e.g. pruning.")] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Recompute all joules, USD and grams of CO2 with --coefficients.")
    ] = False,
    coefficients: Annotated[Path | None, typer.Option(help="Coefficients file; default the package's.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --recompute: also rewrite the reports; with --verify: the pages.")
    ] = False,
    carbon_series: Annotated[Path | None, typer.Option(help="CSV or Parquet of time and g CO2e per kWh.")] = None,
    export: Annotated[
        tuple[str, Path] | None, typer.Option(metavar="csv|spdx FILE", help="Write the evidence to a file.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Recompute the tables of README and docs from docs/evidence; compare.")
    ] = False,
    publish: Annotated[
        list[str] | None,
        typer.Option(metavar="STUDY|RUN", help="Add it to docs/evidence and rewrite the tables; may be repeated."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the stored evidence, one row for each executed arm; recompute, export, publish or verify it."""
    with clear_errors():
        loaded = settings.load(home=home, carbon_series=carbon_series)
        if publish or verify:  # the outlook's estimator
            settings.quiet_libraries(loaded.home)
        if recompute:
            _recompute(loaded, run_id, coefficients, write, as_json)
        elif export:
            _export(loaded, run_id, coefficients, *export)
        elif publish:
            _publish(loaded, publish, as_json)
        elif verify:
            _verify(loaded, as_json, write=write)
        else:
            _list(loaded, run_id, subtask, as_json)


def _recompute(loaded: Settings, run_id: str | None, path: Path | None, write: bool, as_json: bool) -> None:
    from flows.reports.recompute import recompute, render, rewrite
    from infra.energy.model import Coefficients

    if path is None:
        raise BadInput("--recompute needs --coefficients FILE; start from a copy of infra/energy/coefficients.yaml")
    new = Coefficients.load(path)
    found = recompute(loaded, run_id, new)
    found["reports"] = rewrite(loaded, found, new) if write else []
    print_value(found if as_json else render(found), as_json)


def _publish(loaded: Settings, names: list[str], as_json: bool) -> None:
    from flows.reports.documentation.published import publish

    changed = [str(path) for path in publish(loaded, names)]
    print_value({"pages": changed} if as_json else "\n".join(changed) or "no page changed", as_json)


def _verify(loaded: Settings, as_json: bool, *, write: bool) -> None:
    from dataclasses import asdict

    from flows.reports.documentation.published import verify, write_pages

    if write:
        write_pages(loaded)
    parts, found = verify(loaded)
    said = [
        f"{d.page}: study {d.study}, {d.cell}: {d.published!r} is published, {d.recomputed!r} computed" for d in found
    ]
    said.append(f"{parts} generated tables and figures, {len(found)} cells differ from the shipped evidence")
    print_value({"parts": parts, "differences": [asdict(d) for d in found]} if as_json else "\n".join(said), as_json)
    if found:
        raise typer.Exit(1)


def _export(loaded: Settings, run_id: str | None, coefficients: Path | None, kind: str, path: Path) -> None:
    from flows.reports.export import export_csv, export_spdx
    from infra.energy.model import Coefficients

    if kind not in ("csv", "spdx"):
        raise BadInput(f"evidence is exported as csv or spdx, not {kind!r}")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {path.absolute().parent} to write to")
    write = export_csv if kind == "csv" else export_spdx
    count = write(loaded, path, Coefficients.load(coefficients), run_id)
    out.print(f"{path}: {count} {'rows' if kind == 'csv' else 'AI packages'}")


def _list(loaded: Settings, run_id: str | None, subtask: str | None, as_json: bool) -> None:
    from rich.table import Table

    from infra.shared import open_evidence

    rows = open_evidence(loaded.home).read(run_id=run_id, subtask=subtask)
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

"""Command `pilot`: run a published industry case again and judge its claim."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.commands import complete
from flows.commands.console import AsJson, Home, clear_errors, err, print_table, print_value
from flows.commands.display import OutputMode, Plain, Verbose
from infra import settings
from infra.errors import BadInput
from infra.settings import Settings


def pilot(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[PILOT]", help="grid, clinical, flights, weights or sentiment.", autocompletion=complete.pilots
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="smoke: a quick check that it runs; full: with verdicts.")] = "full",
    backend: Annotated[str, typer.Option(help="aer, noisy:<fake device> or ibm:<device>.")] = "aer",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    resume: Annotated[
        str | None, typer.Option(help="Continue this interrupted study.", autocompletion=complete.studies)
    ] = None,
    show: Annotated[str | None, typer.Option(help="Write and print the page of this study again.")] = None,
    verbose: Verbose = False,
    plain: Plain = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run a published industry case again, judge its claim and write its page; without a name, list the cases."""
    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        if show:
            _show(loaded, show, as_json)
        elif name is None and resume is None:
            _list(as_json)
        else:
            given = {"pilot": name, "profile": profile, "backend": backend, "seed": seed}
            _pilot(loaded, given, resume, as_json, OutputMode(verbose, plain))


def _list(as_json: bool) -> None:
    from tasks.contract import PILOTS
    from tasks.options import decisions_of
    from tasks.pilots.claim import published

    rows = [
        {"pilot": name, "title": published(name).title, "claim": published(name).claim} for name in decisions_of(PILOTS)
    ]
    if as_json:
        print_value(rows, as_json)
    else:
        print_table(rows, "no pilots")


def _show(loaded: Settings, study_id: str, as_json: bool) -> None:
    from flows.pilots.page import build_page
    from flows.reports.study.pilot import write_pilot
    from flows.study.config import read_record
    from tasks.contract import PILOTS

    record = read_record(loaded.home, study_id)
    if not record["config"]["subtask"].startswith(f"{PILOTS}/"):
        raise BadInput(f"{study_id} is a study of {record['config']['subtask']}; run ketcycle study --show {study_id}")
    found = build_page(loaded, record)
    write_pilot(loaded.home / "studies" / study_id, found)
    _print(found, as_json)


def _pilot(loaded: Settings, given: dict[str, Any], resume: str | None, as_json: bool, mode: OutputMode) -> None:
    from pydantic import ValidationError

    from flows.commands.study import new_name, run_flow
    from flows.pilots.config import PilotConfig
    from flows.study.config import read_record
    from infra.runtime.backends.registry import canonical_name
    from tasks.contract import PILOTS

    if resume:
        stored = read_record(loaded.home, resume)["config"]
        given = {name: stored[name] for name in ("profile", "backend", "seed")}
        given["pilot"] = stored["subtask"].partition("/")[2]
    try:
        config = PilotConfig(**given, study_id=resume or new_name(f"pilots/{given['pilot']}"))
    except ValidationError as error:
        raise BadInput("; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())) from None
    canonical_name(config.backend)
    title = f"pilot {config.pilot}, {config.profile}"
    found = run_flow("flows.pilots.pilot", config, loaded, mode, title, config.study_id, f"{PILOTS}/{config.pilot}")
    _print(found, as_json)
    page = loaded.home / "studies" / config.study_id / "pilot.html"
    err.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


def _print(found: dict[str, Any], as_json: bool) -> None:
    from rich.console import Group
    from rich.text import Text

    from flows.reports.study.pilot import answers, lists, opening, tables
    from flows.reports.text import table

    if as_json:
        print_value(found, as_json)
        return
    said = [Text(f"{question} {answer}: {reason}") for question, answer, reason in answers(found)]
    listed = [
        Text(f"{heading}\n" + "\n".join(f"  * {line}" for line in lines)) for heading, lines in lists(found).items()
    ]
    drawn = [table(heading, header, cells) for heading, (header, cells) in (opening(found) | tables(found)).items()]
    print_value(Group(Text(f"{found['title']}\n{found['claim']}\n{found['source']}"), *said, *listed, *drawn), as_json)

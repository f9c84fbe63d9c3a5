"""Command `study`: all arms of one decision over its instance bank."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from importlib import import_module
from typing import Annotated, Any

import typer

from flows.commands import complete
from flows.commands.console import AsJson, Home, clear_errors, err, print_table, print_value
from flows.commands.display import OutputMode, Plain, Verbose, shown
from infra import settings
from infra.errors import BadInput
from infra.settings import Settings


def study(
    subtask: Annotated[
        str | None,
        typer.Argument(metavar="[STAGE/SUBTASK]", help="E.g. inference/pruning.", autocompletion=complete.subtasks),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Comma-separated arms; the incumbent always runs. Default all.")
    ] = None,
    sizes: Annotated[str | None, typer.Option(help="Sizes of the instances as MIN-MAX; default all.")] = None,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of instances; default as many as certification needs.")
    ] = None,
    quantum_instances: Annotated[
        int | None, typer.Option(min=1, help="Run quantum arms on this many of the first instances; default all.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Executions of each arm on each instance; default 1.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of times that the bank is drawn; default 1.")] = None,
    backend: Annotated[str | None, typer.Option(help="aer (default), noisy:<fake device> or ibm:<device>.")] = None,
    noisy: Annotated[
        str | None,
        typer.Option(help="noisy:<fake device>: also run each quantum arm's smallest instance with its noise."),
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="File or folder of text; may be repeated.")] = None,
    second: Annotated[list[str] | None, typer.Option(help="File or folder of the second domain.")] = None,
    objective: Annotated[str | None, typer.Option(help="Objective of the verdict: energy, cost or time.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all random numbers.")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this interrupted study.", autocompletion=complete.studies)
    ] = None,
    show: Annotated[str | None, typer.Option(help="Print the table of this study, also while it runs.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the decisions and their instance banks.")] = False,
    verbose: Verbose = False,
    plain: Plain = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run all arms of a decision over its instance bank, append evidence, print the table."""
    chosen = {
        "subtask": subtask,
        "arms": tuple(a.strip() for a in arms.split(",")) if arms else None,
        "instances": instances,
        "quantum_instances": quantum_instances,
        "repeats": repeats,
        "seeds": seeds,
        "backend": backend,
        "noisy": noisy,
        "corpus": tuple(corpus) if corpus else None,
        "second": tuple(second) if second else None,
        "objective": objective,
        "seed": seed,
    }
    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        if list_:
            _list(loaded, as_json)
            return
        if show:
            _show(loaded, show, as_json)
            return
        _study(
            loaded, {**chosen, "sizes": _range(sizes) if sizes else None}, resume, as_json, OutputMode(verbose, plain)
        )


def _list(loaded: Settings, as_json: bool) -> None:
    from flows.study.bank import list_banks

    rows = list_banks(loaded)
    if as_json:
        print_value(rows, as_json)
        return
    said = [
        {
            "decision": row["decision"],
            "instances": row["instances"],
            "independent units": row["units"],
            "units to certify": row["needed"],
            "by source": ", ".join(f"{name} {n}" for name, n in row["sources"].items()),
            "by size": ", ".join(f"{size}: {n}" for size, n in row["sizes"].items()),
            "arms": ", ".join(row["arms"]),
        }
        for row in rows
    ]
    print_table(said, "no decisions")


def _show(loaded: Settings, study_id: str, as_json: bool) -> None:
    from flows.reports.study.page import write_study
    from flows.study.config import read_record
    from flows.study.table import build_study
    from tasks.registry import find_subtask

    record = read_record(loaded.home, study_id)
    found = build_study(loaded, find_subtask(record["config"]["subtask"]), record)
    write_study(loaded.home / "studies" / study_id, found)
    print_value(found if as_json else _closing(found), as_json)


def _study(loaded: Settings, chosen: dict[str, Any], resume: str | None, as_json: bool, mode: OutputMode) -> None:
    from pydantic import ValidationError

    from flows.study.config import StudyConfig, read_record
    from infra.runtime.backends.registry import canonical_name
    from tasks.registry import find_subtask

    given = {name: value for name, value in chosen.items() if value is not None}
    if resume:
        given = {**read_record(loaded.home, resume)["config"], **given}
    elif "subtask" not in given:
        raise BadInput("name a decision, e.g. ketcycle study inference/pruning; ketcycle study --list shows them")
    if "subtask" in given:
        subtask = find_subtask(given["subtask"])
        for name in given.get("arms") or ():
            if name not in {arm.name for arm in subtask.arms}:
                raise BadInput(f"{subtask.key} has no arm {name!r}; it has {', '.join(a.name for a in subtask.arms)}")
    name = resume or new_name(given["subtask"])
    try:
        config = StudyConfig(**{**given, "study_id": name})
    except ValidationError as error:
        raise BadInput("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    canonical_name(config.backend)
    if config.noisy and not canonical_name(config.noisy).startswith("noisy:"):
        raise BadInput(f"--noisy takes noisy:<fake device>, e.g. noisy:fake_torino, not {config.noisy!r}")
    title = f"study {name} of {config.subtask}"
    found = run_flow("flows.study.study", config, loaded, mode, title, name, config.subtask)
    print_value(found if as_json else _closing(found), as_json)
    page = loaded.home / "studies" / name / "study.md"
    err.print(f"study: {page}", highlight=False, markup=False, soft_wrap=True)


def run_flow(
    module: str, config: Any, loaded: Settings, mode: OutputMode, title: str, study_id: str, key: str
) -> dict[str, Any]:
    """Run the flow of a study or pilot with the services of the home, show its progress, and return its result.

    Args:
        module: where the flow is, under the module's own name; imported once the address of the Prefect server is
            known, which Prefect reads when it is imported.
        config: the flow's parameters.
        loaded: the settings.
        mode: live view or lines.
        title: name of the flow for the display.
        study_id: the study.
        key: the decision, `stage/name`.
    """
    from infra import progress

    with shown(title, mode, output=loaded.home / "studies" / study_id / "output.txt") as display:
        display.say(f"study {study_id} begins (home {loaded.home})")
        from infra.compute import services
        from tasks.registry import modules_of

        with services(loaded, modules_of((key,)), lambda: import_module(module)) as running:
            progress.listen(display.take)
            display.say(running.said)
            flow = getattr(import_module(module), module.rpartition(".")[2])
            found: dict[str, Any] = (flow if running.prefect_url else flow.fn)(config)
    return found


def new_name(subtask: str) -> str:
    """Return a name for a new study of a decision."""
    decision = subtask.partition("/")[2].replace("_", "-")
    return f"{decision}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _closing(found: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    from flows.reports.study.cells import filled_tables, notes, title
    from flows.reports.text import table

    return Group(
        Text(title(found)),
        *(table(each.heading, each.header, cells) for each, cells in filled_tables(found)),
        *map(Text, notes(found)),
        Text(found["break_even"]),
        Text(found["statistics"]),
    )


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise BadInput(f"sizes are given as MIN-MAX, e.g. 4-12, not {text!r}") from None

"""Command `drift`: compare two tables by every arm, or the windows of one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, print_value
from infra import settings
from infra.errors import BadInput


def drift(
    current: Annotated[Path, typer.Option(help="The rows to be judged: Parquet (file or folder), CSV or JSON lines.")],
    reference: Annotated[
        Path | None, typer.Option(help="Normal rows, in the same formats; optional with --stream.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Comma-separated columns to be compared; default all that can be.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Column whose values are compared as segments too.")] = None,
    arms: Annotated[str | None, typer.Option(help="Comma-separated arms; default all with few circuits.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Compare the windows of the current table and print the change points.")
    ] = False,
    window: Annotated[int, typer.Option(min=4, help="Rows of a window, with --stream.")] = 100,
    level: Annotated[
        float | None, typer.Option(help="Level of the tests; default .05, with --stream .01 for each window.")
    ] = None,
    effect: Annotated[
        float, typer.Option(help="Minimum share of rows that must differ for a column to count as drifted.")
    ] = 0.05,
    debounce: Annotated[int, typer.Option(min=1, help="Consecutive drifted windows that make a change.")] = 2,
    rows: Annotated[int, typer.Option(min=6, help="Maximum rows of each table that the arms compare.")] = 200,
    permutations: Annotated[int, typer.Option(min=19, help="Permutations of each test.")] = 499,
    shots: Annotated[int, typer.Option(min=1, help="Shots of each circuit.")] = 256,
    minimum: Annotated[int, typer.Option(min=6, help="Minimum rows of each table and each segment.")] = 20,
    backend: Annotated[str, typer.Option(help="aer, noisy:<fake device> or ibm:<device>.")] = "aer",
    html: Annotated[Path | None, typer.Option(help="Also write the result as an HTML page.")] = None,
    prometheus: Annotated[
        Path | None, typer.Option(help="Also write the figures for node_exporter's textfile collector (*.prom).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling and permutations.")] = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Test whether two tables have one distribution: schema, every column, every arm's test and its energy."""
    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        from infra.runtime.backends.registry import canonical_name

        canonical_name(backend)
        alpha = level if level is not None else 0.01 if stream else 0.05
        if not 0 < alpha < 1:
            raise BadInput(f"the level is a probability between 0 and 1, not {alpha}")
        if reference is None and not stream:
            raise BadInput("give --reference, or --stream to compare windows of the current table")
        for path in (html, prometheus):
            if path and not path.absolute().parent.is_dir():
                raise BadInput(f"folder {path.absolute().parent} does not exist; make it or give another")
        named = _names(columns)
        if stream:
            if by or prometheus:
                raise BadInput("--by and --prometheus compare two tables; leave --stream out")
            found, page = _walk(current, reference, named, window, alpha, debounce, seed)
        else:
            from tasks.monitoring.compare import Question

            try:
                asked = Question(named, by or "", alpha, effect, rows, permutations, shots, minimum, seed)
            except ValueError as error:
                raise BadInput(str(error)) from None
            found, page = _compare(loaded, current, reference, asked, _names(arms), backend)
        _write(found, page, html, prometheus)
        print_value(found if as_json else _closing(found), as_json)
        for path in filter(None, (html, prometheus)):
            err.print(f"written: {path}", highlight=False)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _titles(current: Path, reference: Path | None) -> dict[str, Any]:
    return {"current": current.name, "reference": reference.name if reference else "its first windows"}


def _compare(
    loaded: settings.Settings, current: Path, reference: Path | None, asked: Any, arms: tuple[str, ...], backend: str
) -> tuple[dict[str, Any], Any]:
    from flows.reports.drift.page import comparison
    from tasks.monitoring.two_tables import compare_tables

    _, found = compare_tables(loaded, reference, current, asked, arms=arms, backend=backend)
    return {**_titles(current, reference), **found}, comparison


def _walk(
    current: Path, reference: Path | None, named: tuple[str, ...], window: int, level: float, debounce: int, seed: int
) -> tuple[dict[str, Any], Any]:
    from flows.reports.drift.page import walked
    from tasks.monitoring.two_tables import stream, stream_report
    from tasks.monitoring.watching.states import Rules

    rules, steps = Rules(level=level, minimum=1, debounce=debounce), []
    for done in stream(current, window, rules, reference, named, seed):
        steps.append(done)
        if done.change is not None or len(steps) % 50 == 0:
            err.print(_progress(done), highlight=False)
    return {**_titles(current, reference), **stream_report(steps, rules)}, walked


def _write(found: dict[str, Any], page: Any, html: Path | None, prometheus: Path | None) -> None:
    from infra.lake import write_atomic

    if html:
        write_atomic(html, page(found))
    if prometheus:
        from flows.reports.drift.metrics import exposition

        write_atomic(prometheus, exposition(found))


def _progress(step: Any) -> str:
    said = f"change at row {step.change}" if step.change is not None else str(step.watch.level)
    return f"rows {step.begin}-{step.end}: {said}"


def _closing(found: dict[str, Any]) -> Any:
    from flows.reports.drift.cells import compared, stream_lines

    return compared(found) if "views" in found else stream_lines(found)

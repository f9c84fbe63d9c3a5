"""Command `drift`: two tables compared by every arm, or one table walked in windows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, print_value
from infra import settings
from infra.errors import BadInput


def drift(
    current: Annotated[Path, typer.Option(help="Parquet or CSV file with the rows to be judged.")],
    reference: Annotated[Path | None, typer.Option(help="The same of normal rows; with --stream optional.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Comma-separated columns to be watched; default all that can be.")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="Comma-separated arms; default all with few circuits.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Walk the current table in windows and print the change points.")
    ] = False,
    window: Annotated[int, typer.Option(min=4, help="Rows of a window, with --stream.")] = 100,
    level: Annotated[float | None, typer.Option(help="Default .05; with --stream .01, for each window.")] = None,
    debounce: Annotated[int, typer.Option(min=1, help="Drifted windows in a row that are a change.")] = 2,
    rows: Annotated[int, typer.Option(min=6, help="Rows of each table that are compared at most.")] = 200,
    permutations: Annotated[int, typer.Option(min=19, help="Of each test.")] = 499,
    shots: Annotated[int, typer.Option(min=1, help="For each circuit.")] = 256,
    minimum: Annotated[int, typer.Option(min=6, help="Rows that each table must have.")] = 20,
    backend: Annotated[str, typer.Option(help="aer, noisy:<fake device> or ibm:<device>.")] = "aer",
    html: Annotated[Path | None, typer.Option(help="Also write a page to look at.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling and permutations.")] = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Say whether two tables come from one distribution: every arm's test, its circuits and its energy."""
    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        from flows.reports.drift import comparison, walked
        from infra.lake import write_atomic
        from infra.runtime.backends.registry import canonical_name
        from tasks.monitoring import two_tables as flow
        from tasks.monitoring.states import Rules

        canonical_name(backend)
        alpha = level if level is not None else 0.01 if stream else 0.05
        if not 0 < alpha < 1:
            raise BadInput(f"the level is a probability between 0 and 1, not {alpha}")
        if reference is None and not stream:
            raise BadInput("give --reference, or --stream to walk the current table alone")
        named = tuple(name.strip() for name in columns.split(",")) if columns else ()
        now = flow.read_table(current)
        normal = flow.read_table(reference) if reference else None
        title = {"current": current.name, "reference": reference.name if reference else "its own beginning"}
        if stream:
            rules = Rules(level=alpha, minimum=1, debounce=debounce)
            steps = []
            for done in flow.stream(now, window, rules, normal, named, seed):
                steps.append(done)
                if done.change is not None or len(steps) % 50 == 0:
                    err.print(_progress(done, now.num_rows), highlight=False)
            found: dict[str, Any] = {**title, **flow.stream_report(steps, rules)}
            page = walked
        else:
            assert normal is not None  # noqa: S101  (checked above)
            asked = flow.Asked(
                named, tuple(a.strip() for a in arms.split(",")) if arms else (), alpha, rows, permutations, shots,
                minimum, backend, seed,
            )  # fmt: skip
            found = {**title, **flow.compare_tables(loaded, normal, now, asked)}
            page = comparison
        if html:
            if not html.absolute().parent.is_dir():
                raise BadInput(f"there is no folder {html.absolute().parent} to write to")
            write_atomic(html, page(found))
        print_value(found if as_json else _closing(found), as_json)
        if html:
            err.print(f"page: {html}", highlight=False)


def _progress(step: Any, rows: int) -> str:
    said = f"change at row {step.change}" if step.change is not None else str(step.watch.level)
    return f"rows {step.begin}-{step.end} of {rows}: {said}"


def _closing(found: dict[str, Any]) -> Any:
    from flows.reports.drift import compared, stream_lines

    return compared(found) if "views" in found else stream_lines(found)

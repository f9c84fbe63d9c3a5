"""The `ketcycle` command. Heavy libraries are imported only by the commands that need them."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from infra import settings
from infra.errors import BadInput, KetcycleError, StageFailed
from infra.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)
queue_app = typer.Typer(no_args_is_help=True, help="Look into the quantum runtime queue.")
app.add_typer(queue_app, name="queue")

out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)

Home = Annotated[Path | None, typer.Option(help="State folder [default: ./.ketcycle or KETCYCLE_HOME].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, progress on standard error.")]
Corpus = Annotated[list[str] | None, typer.Option(help="File or folder of text; may be repeated. Default: the sample.")]
Second = Annotated[list[str] | None, typer.Option(help="File or folder of the second domain; may be repeated.")]
Profile = Annotated[str | None, typer.Option(help="Sizes: demo (default) or smoke.")]
Method = Annotated[str | None, typer.Option(help="classical, quantum, shadow (default) or auto.")]
Backend = Annotated[str | None, typer.Option(help="aer (default) or noisy:<fake device>.")]
Objective = Annotated[str | None, typer.Option(help="What auto minimises: energy (default), cost or time.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]


@app.command()
def run(
    profile: Profile = None,
    corpus: Corpus = None,
    second: Second = None,
    method: Method = None,
    backend: Backend = None,
    stages: Annotated[str | None, typer.Option(help="Comma-separated stages; default all seven.")] = None,
    objective: Objective = None,
    seed: Seed = None,
    resume: Annotated[str | None, typer.Option(help="Continue this run where it stopped.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Name of the new run.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run the lifecycle, or some of its stages, and print what each decision cost and gained."""
    chosen = {
        "profile": profile,
        "corpus": tuple(corpus) if corpus else None,
        "second": tuple(second) if second else None,
        "method": method,
        "backend": backend,
        "stages": tuple(s.strip() for s in stages.split(",")) if stages else None,
        "objective": objective,
        "seed": seed,
    }
    with _clear_errors():
        _run(settings.load(home=home), chosen, resume, run_id, as_json)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="curation, preprocessing, architecture, training, ...")],
    profile: Profile = None,
    corpus: Corpus = None,
    second: Second = None,
    method: Method = None,
    backend: Backend = None,
    seed: Seed = None,
    resume: Annotated[str | None, typer.Option(help="Take the inputs of this run.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run one stage on the products of the run named, or on the newest in the lake."""
    run(profile, corpus, second, method, backend, name, None, seed, resume, None, home, as_json)


@app.command()
def report(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; default the newest.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print the report of a run."""
    from flows.render import closing, read_report

    with _clear_errors():
        found = read_report(settings.load(home=home).home, run_id)
        _print(found if as_json else closing(found), as_json)


@app.command()
def evidence(
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    subtask: Annotated[str | None, typer.Option(help="Only this decision, e.g. pruning.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the stored evidence, one row for each executed arm."""
    from rich.table import Table

    from infra.evidence import Evidence

    with _clear_errors():
        rows = Evidence(settings.load(home=home).home / "evidence").read(run_id=run_id, subtask=subtask)
        if as_json:
            _print([row.asdict() for row in rows], as_json)
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


@queue_app.command("list")
def queue_list(
    state: Annotated[str | None, typer.Option(help="Only this state, e.g. DONE.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the calls in the ledger of the runtime queue."""
    from infra.runtime.ledger import list_calls

    with _clear_errors():
        calls = list_calls(settings.load(home=home).ledger, state=state, run=run_id, limit=limit)
        if as_json:
            _print(calls, as_json)
            return
        shown = [
            {
                "key": call["key"][:12],
                "state": call["state"],
                "run": call["run"],
                "decision": f"{call['stage']}/{call['subtask']}",
                "arm": call["arm"],
                "backend": call["backend"],
                "circuits": call["circuits"],
                "shots": call["shots"],
                "CPU s": f"{call['cpu_s'] or 0:.3g}",
                "QPU s, projected": f"{call['qpu_s_projected'] or 0:.4g}",
                "created": str(call["created"])[:19],
            }
            for call in calls
        ]
        _print_table(shown, "no such calls in the ledger")


@queue_app.command("show")
def queue_show(
    key: Annotated[str, typer.Argument(help="Replay key, or its first characters.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one call: what was sent, where, what came back, what it used."""
    from infra.runtime.ledger import show_call

    with _clear_errors():
        call = show_call(settings.load(home=home).ledger, key)
        if as_json:
            _print(call, as_json)
            return
        _print_table([{"field": name, "value": value} for name, value in call.items()], "")


@app.command()
def up(home: Home = None) -> None:
    """Start the Prefect server, a Dask cluster and the MLflow page on loopback; stop them with Ctrl-C."""
    with _clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        from infra.compute import stay_up

        stay_up(loaded, err.print)


def _run(loaded: Settings, chosen: dict[str, Any], resume: str | None, run_id: str | None, as_json: bool) -> None:
    settings.quiet_libraries(loaded.home)
    from pydantic import ValidationError

    from flows.config import RunConfig, load_profile
    from flows.render import closing
    from infra import progress
    from infra.runtime.backends import canonical_name

    given = {name: value for name, value in chosen.items() if value is not None}
    if resume:
        given = {**_stored_config(loaded.home, resume), **given}
    name = resume or run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    try:
        config = RunConfig(**{**given, "run_id": name})
    except ValidationError as error:
        raise BadInput("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    load_profile(config.profile)
    canonical_name(config.backend)
    _check_paths(config.corpus + config.second)
    if (loaded.home / "runs" / name).exists() and not resume:
        raise BadInput(f"there is a run {name} already; choose another name, or continue it with --resume {name}")
    show = progress.console(lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
    show(f"run {name}: starting Prefect and Dask (home {loaded.home})")
    from infra.compute import services

    since, failure = datetime.now(UTC).isoformat(timespec="microseconds"), None
    with services(loaded) as running:
        progress.listen(show)
        show(f"Prefect page {running.prefect_url.removesuffix('/api')}")
        from flows.lifecycle import close_books, lifecycle

        try:
            lifecycle(config)
        except StageFailed as error:
            failure = error
    found = close_books(name, since)
    _print(found if as_json else closing(found), as_json)
    show(f"report: {loaded.home / 'runs' / name / 'report.md'}")
    if failure:
        raise failure


def _stored_config(home: Path, run_id: str) -> dict[str, Any]:
    path = home / "runs" / run_id / "run.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text())["config"]
    except FileNotFoundError:
        known = ", ".join(sorted(p.parent.name for p in (home / "runs").glob("*/run.json"))) or "none"
        raise BadInput(f"no run {run_id} in {home / 'runs'}; runs there: {known}") from None
    return stored


def _check_paths(paths: tuple[str, ...]) -> None:
    missing = [path for path in paths if not Path(path).expanduser().exists()]
    if missing:
        raise BadInput(f"no such file or folder: {', '.join(missing)}")


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the project's errors into one line and exit code 2 (what was given is wrong) or 1 (it failed)."""
    try:
        yield
    except BadInput as error:
        err.print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from None
    except KetcycleError as error:
        err.print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None


def _print(value: Any, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")
    else:
        out.print(value)


def _print_table(rows: list[dict[str, Any]], empty: str) -> None:
    from rich.table import Table

    if not rows:
        out.print(empty)
        return
    table = Table(*rows[0], pad_edge=False)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)


def main() -> None:
    """Entry point of the `ketcycle` command; a SIGTERM stops it as Ctrl-C does, with what it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()

"""Commands that run stages: `run`, `stage`."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands import complete
from flows.commands.console import AsJson, Home, clear_errors, err, print_value
from flows.commands.display import OutputMode, Plain, Verbose, shown
from infra import runs, settings
from infra.errors import BadInput, StageFailed
from infra.settings import Settings

if TYPE_CHECKING:
    from flows.lifecycle.config import RunConfig

Corpus = Annotated[list[str] | None, typer.Option(help="File or folder of text; may be repeated. Default: the sample.")]
Second = Annotated[list[str] | None, typer.Option(help="File or folder of the second domain; may be repeated.")]
Profile = Annotated[
    str | None,
    typer.Option(help="demo (default), smoke, full, pretrained, or a YAML file.", autocompletion=complete.profiles),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.OPTION=VALUE",
        help="Set any option of a stage or decision, e.g. inference.pruning.units=8; may be repeated.",
        autocompletion=complete.options,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(help="classical, quantum, shadow (default) or auto.", autocompletion=complete.methods),
]
Backend = Annotated[
    str | None,
    typer.Option(help="aer (default), noisy:<fake device> or ibm:<device>.", autocompletion=complete.backends),
]
Objective = Annotated[str | None, typer.Option(help="What auto minimises: energy (default), cost or time.")]
TextColumn = Annotated[str | None, typer.Option(help="Column that holds the text; default text.")]
IdColumn = Annotated[str | None, typer.Option(help="Column that names a document; default doc_id or id.")]
WeightColumn = Annotated[
    str | None,
    typer.Option(help="Column with a positive score, by which near duplicates are kept. Default: text length."),
]
Rules = Annotated[
    str | None,
    typer.Option(help="curation: quality rules: none, prose (default), web, code, or a YAML file of thresholds."),
]
Language = Annotated[
    list[str] | None, typer.Option(help="curation: language to keep, ISO 639-1, or any; may be repeated.")
]
Columns = Annotated[
    str | None, typer.Option(help="curation: comma-separated columns to keep with the text. Default: all.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="curation: parquet, arrow, jsonl, json, csv, tsv, text, html or warc."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of all random numbers.")]
Scale = Annotated[
    float | None,
    typer.Option(help="Scaling dial: training compute as a multiple of the demo's; sets model size and tokens."),
]
CoreMinutes = Annotated[float | None, typer.Option(help="The dial, given as CPU minutes of the training.")]
GpuHours = Annotated[
    float | None,
    typer.Option(help="The dial, given as GPU hours of the training; without a GPU, projected for an H100."),
]
Joules = Annotated[float | None, typer.Option(help="The dial, given as modelled joules of the training.")]


def run(
    profile: Profile = None,
    options: Options = None,
    corpus: Corpus = None,
    second: Second = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    weight_column: WeightColumn = None,
    model: Annotated[str | None, typer.Option(help="Folder of a pretrained model in transformers format.")] = None,
    evaluate: Annotated[str | None, typer.Option(help="Text file on which a pretrained model is scored.")] = None,
    method: Method = None,
    backend: Backend = None,
    stages: Annotated[
        str | None, typer.Option(help="Comma-separated stages; default all seven.", autocompletion=complete.stages)
    ] = None,
    objective: Objective = None,
    scale: Scale = None,
    core_minutes: CoreMinutes = None,
    gpu_hours: GpuHours = None,
    joules: Joules = None,
    seed: Seed = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run where it stopped.", autocompletion=complete.runs)
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Name of the new run.")] = None,
    verbose: Verbose = False,
    plain: Plain = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run the lifecycle, or some of its stages, and print quality and cost of each decision."""
    chosen = {
        "profile": profile,
        "options": _with_dial(options, scale, core_minutes, gpu_hours, joules),
        "corpus": _absolute(corpus),
        "second": _absolute(second),
        "text_column": text_column,
        "id_column": id_column,
        "weight_column": weight_column,
        "model": model,
        "evaluate": evaluate,
        "method": method,
        "backend": backend,
        "stages": tuple(s.strip() for s in stages.split(",")) if stages is not None else None,
        "objective": objective,
        "seed": seed,
    }
    with clear_errors():
        _run(settings.load(home=home), chosen, resume, run_id, as_json, OutputMode(verbose, plain))


def stage(
    name: Annotated[
        str, typer.Argument(help="curation, preprocessing, architecture, ...", autocompletion=complete.stages)
    ],
    profile: Profile = None,
    options: Options = None,
    corpus: Corpus = None,
    second: Second = None,
    text_column: TextColumn = None,
    id_column: IdColumn = None,
    weight_column: WeightColumn = None,
    threshold: Annotated[
        float | None, typer.Option(help="curation: Jaccard similarity of near duplicates, above 0, at most 1.")
    ] = None,
    rules: Rules = None,
    language: Language = None,
    min_words: Annotated[int | None, typer.Option(min=0, help="curation: words of the shortest document.")] = None,
    max_words: Annotated[int | None, typer.Option(min=1, help="curation: words of the longest document.")] = None,
    columns: Columns = None,
    form: Format = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets the tables of the stage as Parquet files.")] = None,
    method: Method = None,
    backend: Backend = None,
    scale: Scale = None,
    core_minutes: CoreMinutes = None,
    gpu_hours: GpuHours = None,
    joules: Joules = None,
    seed: Seed = None,
    resume: Annotated[
        str | None, typer.Option(help="Use the inputs of this run.", autocompletion=complete.runs)
    ] = None,
    verbose: Verbose = False,
    plain: Plain = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Run one stage on the products of the run named, or on the newest in the lake.

    `curation` with --corpus filters and deduplicates that corpus alone. --out gets the tables kept, dropped,
    quarantined, edges, components and decisions; without --out they go into the lake. It runs in this process by the
    classical method, without a Prefect server, MLflow or circuits, unless another --method or a --backend is given.
    """
    given = {
        "rules": str(Path(rules).absolute()) if rules and Path(rules).is_file() else rules,
        "languages": language,
        "min_words": min_words,
        "max_words": max_words,
        "columns": [column.strip() for column in columns.split(",")] if columns else None,
        "form": form,
    }
    shorthand = [f"curation.{option}={json.dumps(value)}" for option, value in given.items() if value is not None]
    chosen = {
        "profile": profile,
        "options": _with_dial([*shorthand, *(options or [])], scale, core_minutes, gpu_hours, joules),
        "corpus": _absolute(corpus),
        "second": _absolute(second),
        "text_column": text_column,
        "id_column": id_column,
        "weight_column": weight_column,
        "threshold": threshold,
        "method": method,
        "backend": backend,
        "stages": (name,),
        "seed": seed,
    }
    with clear_errors():
        from flows.reports.tables import export_tables
        from infra.lake import check_folder

        if out is not None:
            check_folder(out)
        loaded = settings.load(home=home)
        if name == "curation" and corpus and method in (None, "classical") and not (backend or resume):
            from flows.commands.curate import curate

            curate(loaded, {**chosen, "method": "classical"}, out, as_json, OutputMode(verbose, plain))
            return
        run_id = _run(loaded, chosen, resume, None, as_json, OutputMode(verbose, plain))
        if out is not None:
            for path in export_tables(loaded.home, run_id, name, out):
                err.print(f"written: {path}", highlight=False, soft_wrap=True)


def _with_dial(
    options: list[str] | None,
    scale: float | None,
    core_minutes: float | None,
    gpu_hours: float | None,
    joules: float | None,
) -> list[str] | None:
    """Return the assignments of options, those of the scaling dial first; None if there are none."""
    dial = {"scale": scale, "core_minutes": core_minutes, "gpu_hours": gpu_hours, "joules": joules}
    turned = [f"architecture.{name}={value}" for name, value in dial.items() if value is not None]
    return [*turned, *(options or [])] or None


def _absolute(paths: list[str] | None) -> tuple[str, ...] | None:
    """Return absolute paths, which workers with other working folders need; an empty path stays, to be refused."""
    return tuple(path and str(Path(path).expanduser().absolute()) for path in paths) if paths else None


def _run(
    loaded: Settings, chosen: dict[str, Any], resume: str | None, run_id: str | None, as_json: bool, mode: OutputMode
) -> str:
    settings.quiet_libraries(loaded.home)
    config = _config(loaded, chosen, resume, run_id)
    from flows.reports.run.closing import render, summarise
    from infra import progress

    name = config.run_id
    since = datetime.now(UTC).isoformat(timespec="microseconds")
    failure: StageFailed | None = None
    title = f"run {name}: profile {Path(config.profile).stem}, method {config.method}, backend {config.backend}"
    output = runs.folder(loaded.home, name) / "output.txt"
    with shown(title, mode, config.stages, output) as display:
        display.say(f"run {name} begins (home {loaded.home})")
        from infra.compute import services

        with services(loaded, config.modules, lambda: import_module("flows.lifecycle.run")) as running:
            progress.listen(display.take)
            display.say(running.said)
            from flows.lifecycle.run import charge, run_lifecycle

            if running.prefect_url:
                from flows.lifecycle.lifecycle import lifecycle as run_lifecycle  # it reads Prefect's address
            try:
                run_lifecycle(config)
            except StageFailed as error:
                failure = error
        charge(name, since)  # services have stopped
        found = runs.read_report(loaded.home, name)
    page = runs.report_files(loaded.home, name)[-1]
    print_value(found if as_json else render(summarise(found, page)), as_json)
    if failure:
        raise failure
    return name


def _config(loaded: Settings, chosen: dict[str, Any], resume: str | None, run_id: str | None) -> RunConfig:
    """Return the validated parameters of the run; a new run gets its name here."""
    from pydantic import ValidationError

    from flows.lifecycle.checks import check_backend, check_run
    from flows.lifecycle.config import RunConfig, explain, is_file, resolve_options
    from infra import completion
    from tasks.options import merge, parse_assignment

    for option, value in {**chosen, "resume": resume, "run": run_id}.items():
        if value == "" or (isinstance(value, tuple) and "" in value):  # as from a shell variable that is not set
            raise BadInput(f"--{option.replace('_', '-')} has an empty value; give it a value or leave it out")
    given = {name: value for name, value in chosen.items() if value is not None}
    stored = _stored_config(loaded.home, resume) if resume else {}
    if "options" in given:
        given["options"] = merge(stored.get("options", {}), *map(parse_assignment, given["options"]))
    if is_file(given.get("profile", "")):
        given["profile"] = str(Path(given["profile"]).expanduser().absolute())
    name = resume or run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    try:
        config = RunConfig(**{**stored, **given, "run_id": name})
    except ValidationError as error:
        raise BadInput(explain(error)) from None
    if resume:
        with completion.claimed(loaded.home, name):  # refused here, before services start
            resolve_options(config, loaded)
            check_backend(config.backend)
    else:
        check_run(config, loaded)
        _take_name(loaded.home, config)
    return config


def _stored_config(home: Path, run_id: str) -> dict[str, Any]:
    stored: dict[str, Any] = runs.read(home, run_id)[1]["config"]
    return stored


def _take_name(home: Path, config: RunConfig) -> None:
    """Write the first record of a new run, which reserves its name.

    Raises:
        BadInput: there is a run of this name.
    """
    runs.create(home, config.run_id, {"config": config.model_dump(mode="json"), "status": "starting", "stages": {}})

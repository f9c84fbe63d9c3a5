"""Commands of the installation: `init`, `config`, `doctor`, `clean`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, err, out, print_table, print_value
from infra import settings
from infra.errors import BadInput


def init(
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a ketcycle.toml that lists every setting as a comment."""
    from infra.lake import write_atomic

    with clear_errors():
        path = Path(settings.FILE).absolute()
        if path.exists() and not force:
            raise BadInput(f"{path} is there already; --force replaces it")
        write_atomic(path, settings.template())
        out.print(f"wrote {path}", highlight=False)


def config(home: Home = None, as_json: AsJson = False) -> None:
    """Print every setting with its value and the origin of the value."""
    with clear_errors():
        found = settings.show(home=home)
        if as_json:
            print_value([asdict(item) for item in found], as_json)
            return
        rows = [{"setting": s.name, "value": s.value, "from": s.origin, "description": s.description} for s in found]
        print_table([row | {"value": "" if row["value"] is None else row["value"]} for row in rows], "")


def doctor(
    backend: Annotated[str, typer.Option(help="Backend to check: aer, noisy:NAME or ibm:NAME.")] = "aer",
    fix: Annotated[bool, typer.Option("--fix", help="Make safe repairs first, and print them.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check this installation and report what is missing; exit code 1 if something needs repair."""
    from infra.installation.doctor import examine, repair

    with clear_errors():
        loaded = settings.load(home=home)
        for line in repair(loaded) if fix else ():
            err.print(line, highlight=False, soft_wrap=True)
        findings = examine(loaded, backend)
        if as_json:
            print_value([asdict(item) for item in findings], as_json)
        else:
            rows = [{"": f.level, "what": f.about, "found": f.found, "what to do": f.advice} for f in findings]
            print_table(rows, "")
    if any(item.level == "wrong" for item in findings):
        raise typer.Exit(1)


def clean(
    keep: Annotated[int, typer.Option(min=0, help="Number of newest runs and studies to keep.")],
    versions: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Newest versions of each registered model to keep besides those with an alias; default: all versions.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Remove old runs and the data that only they use; evidence and ledger are kept."""
    from infra import retention

    with clear_errors():
        loaded = settings.load(home=home)
        settings.quiet_libraries(loaded.home)
        items = retention.clean(loaded, keep, versions, dry_run=dry_run)
        freed = sum(item.n_bytes for item in items)
        rows = [{"what": item.what, "name": item.name, "MB": f"{item.n_bytes / 1e6:.1f}"} for item in items]
        if as_json:
            print_value({"removed": rows, "freed_bytes": freed, "dry_run": dry_run}, as_json)
            return
        print_table(rows, "nothing to remove")
        if rows:
            out.print(f"{freed / 1e6:.1f} MB {'would be' if dry_run else ''} freed".replace("  ", " "), highlight=False)

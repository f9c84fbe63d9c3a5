"""`ketcycle stage curation --corpus FILES`: the classical method in this process, without services."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.commands.console import err, print_value
from flows.commands.display import OutputMode, shown
from infra.errors import BadInput
from infra.settings import Settings


def curate(loaded: Settings, chosen: Mapping[str, Any], out: Path | None, as_json: bool, mode: OutputMode) -> None:
    """Curate a corpus into a folder, or into the lake; show progress, and print the closing line with the energy used.

    Raises:
        BadInput: an option or a file cannot be used; the message says what to do.
    """
    from pydantic import ValidationError

    from flows.lifecycle.config import RunConfig, explain, resolve_options
    from infra.energy.meter import Meter
    from infra.energy.model import Coefficients
    from tasks.options import merge, parse_assignment

    given = {name: value for name, value in chosen.items() if value is not None}
    if any(value == "" or (isinstance(value, tuple) and "" in value) for value in given.values()):
        raise BadInput("an option has an empty value; give it a value or leave it out")
    given["options"] = merge({}, *map(parse_assignment, given.get("options", ())))
    try:
        config = RunConfig(**given)
    except ValidationError as error:
        raise BadInput(explain(error)) from None
    own = resolve_options(config, loaded)["curation"]
    from tasks.curation.options import Options
    from tasks.curation.reading import closing_line

    options = Options.model_validate({name: value for name, value in own.items() if name in Options.model_fields})
    into = str(out) if out else f"the lake of {loaded.home}"
    with shown(f"curating into {into}", mode), Meter() as meter:
        if out is None:
            facts = _into_lake(loaded, own)
        else:
            from tasks.curation.direct import curate as curated

            facts = curated(options, out.expanduser(), loaded.home / "index" / "curation")
    band = Coefficients.load().cpu_energy_j(meter.usage, source=meter.source)
    facts["cpu_s"], facts["energy_j"] = round(meter.usage.cpu_s, 2), [band.p5, band.p50, band.p95]
    line = (
        f"{closing_line(facts)}; {meter.usage.cpu_s:.1f} CPU s, {band.p50:.3g} J [{band.p5:.3g}, {band.p95:.3g}] "
        f"({meter.source})"
    )
    print_value(facts if as_json else line, as_json)
    written = str(out) if out else f"curation/kept and its other tables, in the lake of {loaded.home}"
    err.print(f"written: {written}", highlight=False, markup=False, soft_wrap=True)


def _into_lake(loaded: Settings, own: Mapping[str, Any]) -> dict[str, Any]:
    """Curate into the lake of the home, where later stages find it; return the facts for the closing line."""
    from tasks.curation.stage import prepare, publish
    from tasks.stage import Context, State

    run_id = f"curation-{secrets.token_hex(4)}"
    decided = {**own, "representatives": {**own.get("representatives", {}), "posed": 0}}  # no arm, no circuit
    context = Context(run_id, "curation", loaded.home, 0, decided)
    try:
        return dict(publish(context, prepare(context, State())).facts)
    finally:
        shutil.rmtree(context.scratch.parents[1], ignore_errors=True)

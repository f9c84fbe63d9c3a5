"""Commands of the quantum runtime queue: `queue list`, `queue show`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.console import AsJson, Home, clear_errors, print_table, print_value
from infra import settings

app = typer.Typer(no_args_is_help=True, help="Look into the quantum runtime queue.")


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="Only this state, e.g. DONE.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="Only this run.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """List the calls in the ledger of the runtime queue."""
    from infra.runtime.inspect import list_calls

    with clear_errors():
        calls = list_calls(settings.load(home=home).ledger, state=state, run=run_id, limit=limit)
        if as_json:
            print_value(calls, as_json)
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
        print_table(shown, "no such calls in the ledger")


@app.command("show")
def show(
    key: Annotated[str, typer.Argument(help="Replay key, or its first characters.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show one call: what was sent, where, what came back, what it used."""
    from infra.runtime.inspect import show_call

    with clear_errors():
        call = show_call(settings.load(home=home).ledger, key)
        if as_json:
            print_value(call, as_json)
            return
        print_table([{"field": name, "value": value} for name, value in call.items()], "")

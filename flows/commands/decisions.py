"""Command `decisions`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.commands.console import AsJson, clear_errors, print_table, print_value


def decisions(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/decisions.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List all decisions with their arms and options."""
    from flows.reports.documentation.decisions import list_decisions, markdown

    with clear_errors():
        found = list_decisions()
        if as_markdown:
            typer.echo(markdown(found), nl=False)
        elif as_json:
            print_value([asdict(item) for item in found], as_json)
        else:
            rows = [
                {
                    "decision": item.decision,
                    "quality": item.metric,
                    "arms": ", ".join(arm["name"] for arm in item.arms),
                    "options": ", ".join(name.rpartition(".")[2] for name in item.options),
                }
                for item in found
            ]
            print_table(rows, "no decisions")

"""The reference pages of the documentation, as Markdown, made from the code: commands, settings, events."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from infra.events import PAYLOADS, PREFIX
from infra.settings import Settings, environment_with

SETTINGS = """# Settings

A flag goes before a variable of the environment, that before `ketcycle.toml` in the current folder, and that before the
default. `ketcycle init` writes a file with all of them as comments; `ketcycle config` prints each with its value and
where the value comes from.
"""
ESCAPED = str.maketrans({"|": r"\|"})
EVENTS = """# Events

Runs, watches and webhooks report these events to the Prefect server; automations act on them
([operations](../operations.md)). `ketcycle emit NAME` sends one by hand.
"""


def commands() -> str:
    """Return a page with every command, its arguments and its options."""
    typed = [sys.executable, "-m", "typer", "flows.cli", "utils", "docs", "--name", "ketcycle", "--title", "Commands"]
    done = subprocess.run(typed, capture_output=True, text=True, check=True, env=environment_with(TERM="dumb"))  # noqa: S603
    return done.stdout


def settings() -> str:
    """Return a page with every setting, its variable of the environment and its default."""
    rows = (
        (f"`{name}`", f"`KETCYCLE_{name.upper()}`", _default(field.default), field.description)
        for name, field in Settings.model_fields.items()
    )
    return SETTINGS + _table(("setting", "variable", "default", "meaning"), rows)


def events() -> str:
    """Return a page with every event and the fields of its payload."""
    parts = [EVENTS]
    for name, model in PAYLOADS.items():
        rows = (
            (f"`{field}`", "required" if about.is_required() else _default(about.default), about.description)
            for field, about in model.model_fields.items()
        )
        parts += [f"\n## {PREFIX}.{name}\n\n{model.__doc__}\n", _table(("field", "default", "meaning"), rows)]
    return "".join(parts)


PAGES = {"commands": commands, "settings": settings, "events": events}


def _default(value: Any) -> str:
    plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return "none" if plain in (None, "") else f"`{plain}`"


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "\n" + "".join(f"| {' | '.join(str(cell).translate(ESCAPED) for cell in line)} |\n" for line in lines)

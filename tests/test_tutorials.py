"""Every shell line of a tutorial runs, in order, as a reader would type it; lines of other pages name what exists."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PAGES = sorted(path for path in [ROOT / "README.md", *DOCS.rglob("*.md")] if path.parent.name != "reference")


def kind(page: Path) -> str:
    found = re.search(r"<!-- test: (quick|long) -->", page.read_text())
    assert found, f"{page.name} says neither <!-- test: quick --> nor long"
    return found[1]


def script(page: Path) -> str:
    return "\n".join(re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL))


def steps(page: Path) -> list[str]:
    """Return the shell lines one by one, a here-document with the lines that belong to it."""
    return re.findall(r"^(?:.*<<'END'\n(?:.*\n)*?END|.+)$", script(page), re.MULTILINE)


def follow_here(page: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the lines of a page in the current folder: `ketcycle` and scripts in this process, all others in a shell."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shown = []
    for step in steps(page):
        words = shlex.split(step) if "<<" not in step else []
        if words[:1] == ["ketcycle"]:
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{step}: {done.output}{done.exception}"
            shown.append(done.output)
        elif words[:1] == ["python"] and words[1].endswith(".py"):
            with redirect_stdout(StringIO()) as said, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                runpy.run_path(words[1], run_name="__main__")
            shown += [said.getvalue(), *(str(warning.message) for warning in caught)]
        else:
            ran = subprocess.run(["bash", "-ec", step], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert ran.returncode == 0, f"{step}: {ran.stdout}"
            shown.append(ran.stdout)
    return "\n".join(shown)


def follow(page: Path, folder: Path) -> str:
    """Run the shell lines of a page in a folder; return what they printed."""
    commands = folder / "bin"
    commands.mkdir()
    for name, module in (("ketcycle", "-m flows.cli"), ("python", "")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KETCYCLE_", "PREFECT_"))}
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "set -eo pipefail\n" + script(page)],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


PROMISED = {
    "your-corpus": ["1 of 4 documents kept", "near_duplicates", "exact_duplicates", "length"],
    "watching": ["change at request 1", "prompt_tokens"],
    "qpu-budget": ["qpu_s", "'00':", "was made before", "bell"],
    "first-run": ["What each decision chose", "reused: ", '"choices"'],
    "your-model": ["What it cost"],
    "nightly": ["drift-watch", "curation"],
}


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the variables that a command sets for its process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("page", [page for page in TUTORIALS if kind(page) == "quick"], ids=lambda page: page.stem)
def test_a_quick_tutorial_works_line_by_line(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KETCYCLE_HOME", raising=False)
    shown = follow_here(page, monkeypatch)
    assert [text for text in PROMISED[page.stem] if text not in shown] == [], shown[-3000:]


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [page for page in TUTORIALS if kind(page) == "long"], ids=lambda page: page.stem)
def test_a_long_tutorial_works_line_by_line(page: Path, tmp_path: Path) -> None:
    shown = follow(page, tmp_path)
    assert [text for text in PROMISED[page.stem] if text not in shown] == [], shown[-3000:]


def typed(page: Path) -> list[str]:
    """Return the lines of a page that begin with `ketcycle`, without comments and what follows a pipe."""
    lines = re.findall(
        r"^ketcycle .*(?:\\\n.*)*", "\n".join(re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)), re.M
    )
    return [re.split(r"\s+#| && | > | \| | &$", line.replace("\\\n", " "))[0] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_pages_show_exist_with_their_options(page: Path) -> None:
    for line in typed(page):
        command = typer.main.get_command(app)
        words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
        while hasattr(command, "commands"):
            name = words.pop(0) if words else ""
            for choice in name.split("|")[:1]:
                assert choice in command.commands, f"{page.name}: {line}"
                command = command.commands[choice]
            if not words:
                break
        known = {name for item in command.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
        asked = {word.split("=")[0].rstrip(",;") for word in words if word.startswith("--") and word != "--"}
        assert asked <= known, f"{page.name}: {line}"

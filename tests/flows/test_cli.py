"""The command line as a whole: help, exit codes, completion, and what a command that only looks imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).parents[2]
HEAVY = ("prefect", "mlflow", "torch", "qiskit", "qiskit_ibm_runtime", "distributed", "dask", "transformers", "scipy", "matplotlib")  # noqa: E501  # fmt: skip


def commands() -> list[tuple[str, ...]]:
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
    return found


@pytest.mark.parametrize("command", [(), *commands()], ids=" ".join)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    lines = [line.strip() for line in done.output.splitlines() if line.strip()]
    assert lines[0].startswith("Usage:")
    assert lines[1].endswith(".") or len(lines[1]) > 60, f"no sentence says what {command} does: {lines[1]}"


def test_help_names_the_exit_codes() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    assert "0 done" in said
    assert "1 " in said
    assert "2 " in said


LOOKING = {
    "--help": 0,
    "run --help": 0,
    "study --help": 0,
    "config": 0,
    "doctor": 0,
    "report": 2,
    "evidence": 0,
    "queue list": 2,
    "clean --keep 3 --dry-run": 0,
    "down": 0,
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    """Run the commands that only look, each in a fork of one fresh process; say how they ended and what they loaded."""
    folder = tmp_path_factory.mktemp("home")
    code = f"""
import json, os, sys
from flows.cli import app
found = {{}}
for line in {list(LOOKING)!r}:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        code = 0
        try:
            app(line.split() if "--help" in line else [*line.split(), "--home", {str(folder)!r}])
        except SystemExit as end:
            code = end.code or 0
        heavy = sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r}))
        os.write(write, json.dumps([code, heavy]).encode())
        os._exit(0)
    os.close(write)
    found[line] = json.loads(os.fdopen(read).read())
    os.waitpid(pid, 0)
print(json.dumps(found))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KETCYCLE_", "PREFECT_"))}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line: (code, heavy) for line, (code, heavy) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("line", LOOKING)
def test_a_command_that_only_looks_loads_nothing_heavy(imported: dict[str, tuple[int, list[str]]], line: str) -> None:
    code, heavy = imported[line]
    assert heavy == []
    assert code == LOOKING[line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_produced(shell: str) -> None:
    environment = {**os.environ, "_KETCYCLE_COMPLETE": f"source_{shell}"}
    done = CliRunner().invoke(app, [], env=environment, prog_name="ketcycle")
    assert "_KETCYCLE_COMPLETE" in done.output


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Return what the shell would offer after a line."""
    words = line.split(" ")
    environment = {"_KETCYCLE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], env=environment, prog_name="ketcycle").output.split()


def test_names_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "monday").mkdir(parents=True)
    (tmp_path / "runs" / "tuesday").mkdir(parents=True)
    monkeypatch.setenv("KETCYCLE_HOME", str(tmp_path))
    assert completed(monkeypatch, "ketcycle ev") == ["evidence"]
    assert completed(monkeypatch, "ketcycle stage mon") == ["monitoring"]
    assert completed(monkeypatch, "ketcycle study inference/p") == ["inference/pruning"]
    assert completed(monkeypatch, "ketcycle report ") == ["monday", "tuesday"]
    assert completed(monkeypatch, "ketcycle run --resume tu") == ["tuesday"]
    assert completed(monkeypatch, "ketcycle run --profile sm") == ["smoke"]
    assert completed(monkeypatch, "ketcycle run --method sh") == ["shadow"]

"""Progress display of a command: a live view of the run in a terminal, plain lines elsewhere.

A display takes log records (`infra.progress` defines the figures they may carry), wherever they come from. Output of
libraries goes to a file, so that it does not break the live view.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Protocol

import typer
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from infra import progress

Verbose = Annotated[bool, typer.Option("--verbose", help="Print every line of the log as it comes.")]
Plain = Annotated[bool, typer.Option("--plain", help="Print lines also where a terminal could show a live display.")]

WIDTH = 100
PER_SECOND = 2.0  # redraws of the live view
EVERY_S = 10.0  # between two plain lines about the same bar
LINGERS_S = 3.0  # a finished bar stays visible
IDLE_S = 10.0  # without progress, then a bar without a known total is removed
MARKS = {"done": "green", "reused": "green", "running": "bold cyan", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class OutputMode:
    """Options `--verbose` and `--plain` of a command; by default a live view in a terminal, lines elsewhere."""

    verbose: bool = False
    plain: bool = False

    @property
    def live(self) -> bool:
        """Whether standard error is a terminal that can show a live view, and no option asks for lines."""
        able = sys.stderr.isatty() and Console(stderr=True).is_terminal and not Console(stderr=True).is_dumb_terminal
        return able and not (self.verbose or self.plain)


class Display(Protocol):
    """Shows the progress of a command."""

    def take(self, record: logging.LogRecord) -> None:
        """Show a log record, of this process or of a worker."""

    def say(self, text: str) -> None:
        """Show a line of the command itself."""


class PlainLines:
    """Plain lines, each with the seconds since the beginning.

    Args:
        write: prints one line.
        every: print all lines, not only results of stages, warnings and what this process logs.
    """

    def __init__(self, write: Callable[[str], object], *, every: bool = False) -> None:
        self._write, self._every, self._began = write, every, time.monotonic()
        self._last: dict[tuple[str, str], float] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def take(self, record: logging.LogRecord) -> None:
        """Print a record; of the workers' records only warnings and, every `EVERY_S`, the progress of a bar."""
        if self._every or self._is_news(record):
            self.say(record.getMessage())

    def _is_news(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return True
        bar = getattr(record, "bar", None)
        if bar is None:
            return not hasattr(record, "worker") and not hasattr(record, "count")
        key = (_worker(record), bar[0])
        if bar[1] < bar[2] and record.created - self._last.get(key, record.created - EVERY_S) < EVERY_S:
            return False
        self._last[key] = record.created
        return True


@dataclass
class _Stage:
    """A stage in the live view: its state, when it began and ended (seconds since the epoch), its last line."""

    state: str = ""
    began: float = 0.0
    ended: float = 0.0
    line: str = ""


class LiveView:
    """The latest state of a run, from its log records; `render` draws it.

    Args:
        title: name of the run.
        stages: its stages, in order; empty for a command without stages.
    """

    def __init__(self, title: str, stages: Sequence[str] = ()) -> None:
        self._title, self._began = title, time.time()
        self._stages = {name: _Stage() for name in stages}
        self._lines: dict[str, str] = {}  # the last line of this process (empty name) and of each worker
        self._warnings: list[str] = []
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(28), _Done(), _Rate(), TimeRemainingColumn(compact=True)
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._ended: dict[TaskID, float] = {}  # when a bar was complete, or a bar without a total last advanced
        self._workers: dict[str, int] = {}  # numbers of the workers, in the order of their first records

    def take(self, record: logging.LogRecord) -> None:
        """Add a record to the view."""
        text, worker = record.getMessage(), self._number(record)
        if record.levelno >= logging.WARNING:
            self._warnings = [*self._warnings, text][-3:]
        if stage := getattr(record, "stage", None):
            name, state = stage
            self._enter(name, state, record.created, text)
        if bar := getattr(record, "bar", None):
            self._advance((worker, bar[0]), bar[1], bar[2])
        elif count := getattr(record, "count", None):
            self._add(*count)
        self._lines[worker] = text

    def say(self, text: str) -> None:
        """Show a line of the command itself."""
        self._lines[""] = text

    def render(self, now: float | None = None) -> RenderableType:
        """Return the view at a time (seconds since the epoch; None = now), at most 100 columns wide."""
        now = time.time() if now is None else now
        self._drop_finished(now)
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        head.add_column(justify="right")
        head.add_row(Text(self._title, style="bold"), Text(_clock(now - self._began), style="bold"))
        parts: list[RenderableType] = [head]
        if self._stages:
            parts.append(self._stage_table(now))
        if any(task.visible for task in self._bars.tasks):
            parts.append(Padding(self._bars.make_tasks_table(self._bars.tasks), (0, 0, 0, 2)))
        parts.append(self._line_table())
        parts += [Text(f"! {text}", style="yellow", overflow="ellipsis", no_wrap=True) for text in self._warnings]
        return Constrain(Group(*parts), WIDTH)

    def _enter(self, name: str, state: str, at: float, text: str) -> None:
        stage = self._stages.setdefault(name, _Stage())
        stage.state = state
        if state == "running":
            stage.began, stage.line = at, ""
            return
        stage.ended, stage.line = at, text.removeprefix(f"{name}: ")

    def _number(self, record: logging.LogRecord) -> str:
        name = _worker(record)
        return str(self._workers.setdefault(name, len(self._workers) + 1)) if name else ""

    def _advance(self, key: tuple[str, str], done: float, total: float) -> None:
        known = self._tasks.get(key)
        if known is not None and done < self._task(known).completed:
            self._bars.remove_task(known)  # the same work starts again, as in another stage
            known = None
        if known is None:
            known = self._tasks[key] = self._bars.add_task(key[1], total=total or None)
        self._ended.pop(known, None)
        self._bars.update(known, completed=done, total=total or None, visible=True)

    def _add(self, what: str, done: float, total: float) -> None:
        known = self._tasks.get(("", what))
        before = self._task(known) if known is not None else None
        self._advance(
            ("", what),
            (before.completed if before else 0) + done,
            ((before.total or 0) if before else 0) + total,
        )

    def _task(self, task_id: TaskID) -> Task:
        return next(task for task in self._bars.tasks if task.id == task_id)

    def _drop_finished(self, now: float) -> None:
        for task in self._bars.tasks:
            if task.total is None or task.completed >= task.total:
                idle_s = now - self._ended.setdefault(task.id, now)
                if idle_s >= (IDLE_S if task.total is None else LINGERS_S):
                    self._bars.update(task.id, visible=False)

    def _stage_table(self, now: float) -> Table:
        table = _grid(max(map(len, self._stages)) + 2, 7, 6)
        for name, stage in self._stages.items():
            style = MARKS.get(stage.state, "dim")
            until = now if stage.state == "running" else stage.ended
            spent = _clock(until - stage.began).rjust(6) if stage.began else ""
            state = Text(stage.state or "waits", style=style)
            table.add_row(Text(f"  {name}", style=style), state, spent, Text(stage.line))
        return table

    def _line_table(self) -> Table:
        table = _grid(max((len(worker) for worker in self._lines), default=0) + 9)
        for worker in sorted(self._lines):
            name = f"  worker {worker}" if worker else "  run"
            table.add_row(Text(name, style="dim"), Text(self._lines[worker], style="dim"))
        return table


def _grid(*widths: int) -> Table:
    """Return a table without borders: columns of these widths, and a last one that takes the rest and truncates."""
    table = Table.grid(padding=(0, 1), expand=True)
    for width in widths:
        table.add_column(width=width, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    return table


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total else ""))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:,.1f}/s" if speed >= 1 else f"{60 * speed:,.1f}/min")


class _Drawn:
    """A renderable that draws the current state of a view."""

    def __init__(self, picture: LiveView) -> None:
        self._picture = picture

    def __rich__(self) -> RenderableType:
        return self._picture.render()


@contextlib.contextmanager
def shown(
    title: str, mode: OutputMode = OutputMode(), stages: Sequence[str] = (), output: Path | None = None
) -> Iterator[Display]:
    """Show the records of this process, and those given to the display, until the block ends.

    Args:
        title: name of the run.
        mode: live view or lines.
        stages: its stages, in order.
        output: file for the output of libraries in this process and its children; None = standard output and error.
    """
    in_terminal = mode.live  # asked before the streams are redirected
    with _apart(None if mode.verbose else output) as stream:
        console = Console(file=stream)
        if in_terminal:
            picture = LiveView(title, stages)
            live = Live(_Drawn(picture), console=console, refresh_per_second=PER_SECOND, redirect_stdout=False)
            with live, progress.own(picture.take):
                yield picture
            return
        lines = PlainLines(
            lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), every=mode.verbose
        )
        with progress.own(lines.take):
            yield lines


@contextlib.contextmanager
def _apart(output: Path | None) -> Iterator[IO[str]]:
    """Yield the original standard error; other output of this process and its children goes to a file until the end."""
    if output is None:
        yield sys.stderr
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        inherited = sys.stderr.fileno() == 2
    except (OSError, ValueError):
        inherited = False
    kept = [os.dup(1), os.dup(2)]
    output.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    stream = os.fdopen(os.dup(kept[1]), "w", buffering=1) if inherited else sys.stderr
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield stream
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(file)
        if inherited:
            stream.close()
        with contextlib.suppress(FileNotFoundError):  # the home is gone: what went wrong before is the error to show
            if not output.stat().st_size:
                output.unlink()


def _worker(record: logging.LogRecord) -> str:
    return str(getattr(record, "worker", ""))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d}"

"""Students that learn from a cached teacher against students that learn from the text alone, for equal CPU seconds.

    python -m benchmarks.distillation [table|tune] [--keep FILE] [--write]

`table`: the teacher has the size of the demo profile and has learned the training text of the shipped corpus; students
have half its width and depth, and Muon and AdamW train them. Each seed has windows of its own, few enough that a
student reads them several times, and the teacher reads all of them once; that time counts. Every way is tuned on
further windows with six settings: three rates, each with all or two fifths of the steps (the text alone, which
overfits) or two weights of the teacher. Students make as many steps as the CPU seconds cover at rates that are
measured first, in turns, so that other work on the machine changes how long it takes and not what it finds. `--keep
FILE` stores rates, the teacher and finished trainings, so that a rerun goes on; `--write` puts the table into
`docs/stages/finetuning.md`. About half an hour.

`tune` tries the same number of settings of each arm of the decision on two tasks that are in no bank, one with little
and one with more text, and the five best on four other such tasks. It prints the mean bits per byte, and which settings
of the best lie at the edge of the grid; `--write` stores the best in the package. About half an hour.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.kept import Kept
from benchmarks.page import write_part
from benchmarks.training import BATCH, as_worker, corpus, table
from benchmarks.training import model as demo_model
from flows.study.bank import gather_material
from infra import settings as loaded_settings
from tasks.bench import make_bench
from tasks.contract import Instance
from tasks.finetuning.distillation.arms import WAYS as ARMS
from tasks.finetuning.distillation.arms import Settings
from tasks.finetuning.distillation.bank import tuning
from tasks.finetuning.distillation.problem import Distillation, quality
from tasks.finetuning.distillation.teaching import Lesson, ask_teacher, finish, on_lesson, on_text
from tasks.finetuning.models import WIDTH
from tasks.model.causal import save_model
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training.loop import train
from tasks.statistics import mean_interval

TEACHER_TOKENS = 3_000_000
UNIQUE = (300, 900)  # windows of 128 tokens that a student has
SECONDS = 20.0
SEEDS = (0, 1, 2, 3, 4)
TUNING = 5  # the seed whose windows the settings are chosen on
RATES = (0.0125, 0.025, 0.05)  # of Muon
PARTS, SHARES = (0.4, 1.0), (0.5, 0.9)
DECAY = 0.3  # of the text alone, which overfits without it
SCRATCH, DRAWS, LARGEST = "text alone", "12 draws", "12 largest probabilities"
WAYS = (SCRATCH, DRAWS, LARGEST)
ARM_RATES = (0.0125, 0.025, 0.05, 0.1, 0.2)
ON_TEXT = tuple({"readings": r, "decay": d} for r, d in product((8, 15), (0.0, 0.3, 1.0)))
ON_TEXT_WIDE = tuple({"readings": r, "decay": d} for r, d in product((2, 15), (0.0, 0.3, 1.0)))  # fewer are paid for
ON_LESSON = tuple(
    {"readings": 15, "share": s, "decay": d}
    for s, d in ((0.25, 0.3), (0.5, 0.3), (0.8, 0.3), (1.0, 0.3), (0.5, 0.0), (0.5, 1.0))
)
ON_RELATIONS = tuple(
    {"readings": 15, "share": s, "relation": w, "decay": 0.3}
    for s, w in ((0.5, 0.01), (0.5, 0.1), (0.5, 1), (0.5, 10), (0.25, 0.1), (0.8, 0.1))
)
COLUMNS: dict[str, Sequence[dict[str, Any]]] = {  # six for each arm
    "scratch": ON_TEXT,
    "draws": ON_LESSON,
    "largest": ON_LESSON,
    "relations": ON_RELATIONS,
    "squared-cosines": ON_RELATIONS,
    "gaussian": ON_RELATIONS,
    "pruned": ON_TEXT_WIDE,
    "wide": ON_TEXT_WIDE,
}
BEYOND = {"readings": 15, "share": 1.0, "decay": 0.0}  # ends of the grid that nothing lies beyond
FIRST, FINALS = (0, 5), (1, 3, 4, 6)  # tasks of all trials, and of the finalists: little and more text of four sources
FINALISTS = 5
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "finetuning.md"


@dataclass(frozen=True)
class Setting:
    """Settings of a training: rate, and the part of the steps that is made (the text alone) or the teacher's weight."""

    rate: float
    other: float


def settings(way: str) -> list[Setting]:
    """Return the settings that are tried."""
    return [Setting(*pair) for pair in product(RATES, PARTS if way == SCRATCH else SHARES)]


def teacher(folder: Path) -> float:
    """Train the teacher into a folder and return its bits per byte."""
    windows, held_out = corpus()
    net = demo_model(0)
    train(net, windows, Recipe(tokens=TEACHER_TOKENS, batch=BATCH))
    save_model(net, folder)
    return bits_per_byte(net, held_out)


def problem(folder: Path, unique: int, seed: int) -> Distillation:
    """Return a student's problem: windows that no other seed has; held-out text of which tuning has the other half."""
    windows, held_out = corpus()
    order = np.random.default_rng(0).permutation(len(windows))
    rows = order[seed * max(UNIQUE) : seed * max(UNIQUE) + unique]
    test = held_out.take(slice(int(seed == TUNING), None, 2))
    return Distillation(folder, 64, 2, windows.take(rows), test, 0, batch=BATCH)


def lesson_of(posed: Distillation, way: str) -> Lesson:
    """Return what the teacher says of all windows."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        return ask_teacher(posed, len(posed.train), rng, Path(folder), largest=way == LARGEST)


def student(posed: Distillation, way: str, setting: Setting, steps: int, seed: int) -> Any:
    """Train a student of a way for some steps."""
    loss: Callable[..., torch.Tensor] = on_text
    if way == SCRATCH:
        decay, steps = DECAY, max(1, int(setting.other * steps))
    else:
        decay, loss = 0.0, on_lesson(lesson_of(posed, way), setting.other)
    made = posed.student(seed)
    return finish(posed, made, steps, lambda **_: None, loss, len(posed.train), setting.rate, decay)


def step_s(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of a step of each way, measured in turns."""
    posed = problem(folder, 64, TUNING)
    lesson = lesson_of(posed, DRAWS)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(5):
        for way in WAYS:
            loss = on_text if way == SCRATCH else on_lesson(lesson, 0.5)
            spent = []
            for steps in (4, 24):  # the difference leaves out what a training costs once
                began = time.process_time()
                finish(posed, posed.student(0), steps, lambda **_: None, loss, len(posed.train), RATES[0])
                spent.append(time.process_time() - began)
            found[way].append((spent[1] - spent[0]) / 20)
    return {way: median(values[1:]) for way, values in found.items()}


def reading_s(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of a window that the teacher reads, by what is kept of it, measured in turns."""
    posed = problem(folder, 64, TUNING)
    found: dict[str, list[float]] = {way: [] for way in WAYS[1:]}
    for _ in range(5):
        for way, values in found.items():
            began = time.process_time()
            lesson_of(posed, way)
            values.append((time.process_time() - began) / len(posed.train))
    return {SCRATCH: 0.0, **{way: median(values[1:]) for way, values in found.items()}}


def compare(kept: Kept, folder: Path, seconds: float) -> str:
    """Return the tables."""
    taught = kept.cell("teacher", lambda: teacher(folder))
    step = kept.cell("step", lambda: step_s(folder))
    reading = kept.cell("reading", lambda: reading_s(folder))

    def steps(way: str, unique: int) -> int:
        return max(1, int((seconds - unique * reading[way]) / step[way]))

    def measured(way: str, unique: int, setting: Setting, seed: int) -> list[float]:
        def run() -> list[float]:
            posed = problem(folder, unique, seed)
            began = time.process_time()
            made = student(posed, way, setting, steps(way, unique), seed)
            return [-quality(posed, made)[0], time.process_time() - began]

        found: list[float] = kept.cell(f"{seconds:g} s {way} {unique} {setting} {seed}", run)
        return found

    rows = []
    for unique in UNIQUE:
        best = {}
        for way in WAYS:
            tried = {setting: measured(way, unique, setting, TUNING)[0] for setting in settings(way)}
            best[way] = min(tried, key=lambda setting: tried[setting])
        scratch = np.array([measured(SCRATCH, unique, best[SCRATCH], seed)[0] for seed in SEEDS])
        for way in WAYS:
            lost, spent = np.array([measured(way, unique, best[way], seed) for seed in SEEDS]).T
            low, high = mean_interval(scratch - lost) or (0.0, 0.0)
            made, other = steps(way, unique), "teacher"
            if way == SCRATCH:
                made, other = int(best[way].other * made), "part of the steps"
            rows.append((
                f"{unique * 128:,}", way, f"rate {best[way].rate:g}, {other} {best[way].other:g}",
                f"{made * BATCH / unique:.1f}", f"{lost.mean():.3f}",
                "-" if way == SCRATCH else f"{(scratch - lost).mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                "-" if way == SCRATCH else f"{int((lost < scratch).sum())} of {len(SEEDS)}", f"{spent.mean():.0f}",
            ))  # fmt: skip
    header = ("tokens of text", "student learns from", "best of six settings", "epochs", "bits per byte",
              "gain over the text alone [95 %]", "better in", "CPU s")  # fmt: skip
    said = f"Teacher: {taught:.3f} bits per byte after {TEACHER_TOKENS:,} tokens. Students: {seconds:g} CPU seconds each, what the teacher's reading takes included."  # noqa: E501  # fmt: skip
    return f"{said}\n\n{table(header, rows)}"


def trials(name: str) -> list[tuple[Settings, str]]:
    """Return the settings of an arm, each with which of them lie at the edge of the grid."""
    grid = [{"rate": rate, **column} for rate, column in product(ARM_RATES, COLUMNS[name])]
    tried = {key: {row[key] for row in grid} for key in grid[0]}
    ends = {k: {min(v), max(v)} - {BEYOND.get(k)} if len(v) > 1 else set() for k, v in tried.items()}
    return [(Settings(**row), ", ".join(f"{key} {v:g}" for key, v in row.items() if v in ends[key])) for row in grid]


def tune(kept: Kept, home: Path, *, write: bool) -> None:
    """Print the bits per byte of every setting of the arms, and store the best finalists if told to."""
    material = gather_material(loaded_settings.load(home=home))
    tasks = [found for found in tuning(material, np.random.default_rng(0)) if found.size == WIDTH // 2]

    def lost(name: str, setting: Settings, numbers: Sequence[int]) -> float:
        found = [
            kept.cell(f"{name} {setting} task {number}", partial(_lost, name, setting, tasks[number], number))
            for number in numbers
        ]
        return float(np.mean(found))

    best: dict[str, dict[str, Any]] = {}
    for name in COLUMNS:
        found = []
        for setting, edge in trials(name):
            found.append((lost(name, setting, FIRST), setting, edge))
            sys.stderr.write(f"\r{name}: {len(found)} of {len(trials(name))} settings, {found[-1][0]:.3f}   ")
        sys.stdout.write(f"\n{name}: {', '.join(f'{value:.3f}' for value, _, _ in found)}\n")
        finals = []
        for first, setting, edge in sorted(found, key=lambda item: item[0])[:FINALISTS]:
            finals.append((lost(name, setting, FINALS), setting, edge))
            sys.stdout.write(f"  {first:.3f}, then {finals[-1][0]:.3f} with {setting}\n")
        value, setting, edge = min(finals, key=lambda item: item[0])
        sys.stdout.write(f"  best {value:.3f} with {setting}; at the edge: {edge or 'nothing'}\n")
        sys.stdout.flush()
        best[name] = {key: v for key, v in asdict(setting).items() if key in ("rate", *COLUMNS[name][0])}
        best[name]["loss"] = round(value, 3)
    if write:
        path = Path(str(resources.files("tasks.finetuning.distillation") / "settings.yaml"))
        head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        rows = [f"{k}: {yaml.safe_dump(v, default_flow_style=True, sort_keys=False).strip()}" for k, v in best.items()]
        path.write_text("\n".join([*head, *rows, ""]), encoding="utf-8")


def _lost(name: str, setting: Settings, task: Instance[Distillation], seed: int) -> float:
    """Return the bits per byte that an arm reaches on a task."""
    posed = task.pose()
    with tempfile.TemporaryDirectory() as folder:
        made = ARMS[name](setting, posed, make_bench(seed, scratch=Path(folder)))
    return -quality(posed, made)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", default="table", choices=("table", "tune"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of `table`: CPU seconds of each training")
    parser.add_argument("--keep", type=Path, help="file that keeps finished trainings; teachers lie beside it")
    parser.add_argument("--write", action="store_true", help="put the table into the page, or store the settings")
    given = parser.parse_args(arguments)
    as_worker("benchmarks.distillation", arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep.with_suffix(".teacher") if given.keep else Path(temporary) / "teacher"
        if given.what == "tune":
            tune(Kept.at(given.keep), folder, write=given.write)
            return
        text = compare(Kept.at(given.keep), folder, given.seconds)
    sys.stdout.write(text + "\n")
    if given.write:
        write_part(PAGE, "distillation", text)


if __name__ == "__main__":
    main()

"""Which settings a fine-tuning gets next: makes the stored table of real runs, tunes the policies, replays every arm.

    python -m benchmarks.tuning table FOLDER [--seconds 280]   # as many runs as fit; call it until none is left
    python -m benchmarks.tuning pack FOLDER                    # writes the package resource from its complete tables
    python -m benchmarks.tuning tune [--cells 12] [--arm N]    # settings of the policies, outside the bank
    python -m benchmarks.tuning replay [--cells 12] [--arm N]  # arms (default all) on the packed tables

A table has all 64 settings with three seeds: LoRA on a byte-level model of .2 M weights that was trained on one source
of text, tuned to another. Joules are modelled: CPU seconds of the stored runs and of the arm itself times the watts of
a core, simulated circuits included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from qiskit_aer.primitives import SamplerV2 as AerSampler

from flows.study.bank import gather_material
from infra import settings
from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from tasks.bench import make_bench
from tasks.contract import Arm, Bench
from tasks.finetuning.models import CONTEXT, TRAINED, byte_windows, source_model
from tasks.finetuning.tuning_policy import bank
from tasks.finetuning.tuning_policy.arms import (
    CHALLENGER,
    INCUMBENT,
    OTHERS,
    learn_circuit,
    learn_network,
    learn_table,
)
from tasks.finetuning.tuning_policy.policies import Tuning
from tasks.finetuning.tuning_policy.problem import Campaign, Tuned, measures, quality
from tasks.finetuning.tuning_policy.runs import Real, Split, losses
from tasks.finetuning.tuning_policy.space import MIXTURES, RANKS, RATES, SETTINGS
from tasks.model.causal import load_model
from tasks.text.works import joined

TOKENS, SEEDS = 8_192, 3
PARTS = {"train": 128, "validation": 48, "test": 48}  # windows
OUTSIDE = 10_000  # cells from this number on are not in the bank
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("setting", pa.int16()),
        ("seed", pa.int8()),
        ("validation", pa.float32()),
        ("test", pa.float32()),
        ("cpu_s", pa.float32()),
    ]
)
GRID = {"rate": (0.01, 0.03, 0.1, 0.3, 1.0), "scale": (0.3, 1.0, 2.0), "entropy": (0.0, 0.03), "steps": (1, 4)}


def split(text: bytes) -> Split:
    """Return windows drawn without overlap from behind the text that the model of a source was trained on."""
    room = len(text) // (CONTEXT + 1) - TRAINED
    order = TRAINED + np.random.default_rng(0).permutation(room)[: sum(PARTS.values())]
    every = byte_windows(text, 0, TRAINED + room)
    ends = np.cumsum(list(PARTS.values()))[:-1]
    return Split(*(every.take(part) for part in np.split(order, ends)))


def campaigns() -> dict[str, Real]:
    """Return the runs of each source: the model of the source before it in the alphabet is tuned to it."""
    loaded = settings.load()
    material = gather_material(loaded)
    names = sorted(material.texts)
    found = {}
    for number, name in enumerate(names):
        base = names[number - 1]
        model = source_model(joined(material.texts[base]), 0, material.folder)
        target, kept = (split(joined(material.texts[source])) for source in (name, base))
        found[name] = Real(model, target, kept, losses(load_model(model), target, kept), TOKENS)
    return found


def done(folder: Path, source: str) -> dict[tuple[int, int], dict[str, float]]:
    """Return the stored runs of a source by setting and seed; a line that a kill cut short is left out."""
    path = folder / f"{source}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {(row["setting"], row["seed"]): row for row in rows}


def table(folder: Path, seconds: float) -> None:
    """Make runs in a random order until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    began, left = time.monotonic(), 0
    wanted = list(product(range(SETTINGS), range(SEEDS)))
    for source, runs in campaigns().items():
        finished = done(folder, source)
        with (folder / f"{source}.jsonl").open("a") as stream:
            for number in np.random.default_rng(0).permutation(len(wanted)).tolist():
                setting, seed = wanted[number]
                if (setting, seed) in finished:
                    continue
                if time.monotonic() - began > seconds:
                    left += 1
                    continue
                run = runs.run(setting, seed)
                row = {"setting": setting, "seed": seed, "validation": run.reward, "test": run.test, "cpu_s": run.cpu_s}
                stream.write(json.dumps(row) + "\n")
                stream.flush()
    sys.stdout.write(f"{left} runs are left\n")


def pack(folder: Path) -> None:
    """Write the complete tables of a folder as Parquet into the package, with how they were made."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        runs = done(folder, path.stem)
        sys.stdout.write(f"{path.stem}: {len(runs)} of {SETTINGS * SEEDS} runs\n")
        if len(runs) == SETTINGS * SEEDS:
            rows += [{"source": path.stem, **run} for _, run in sorted(runs.items())]
    if not rows:
        raise SystemExit(f"no table in {folder} is complete; run: python -m benchmarks.tuning table {folder}")
    about = {
        "made_by": "python -m benchmarks.tuning table",
        "grid": json.dumps({"share of base text": MIXTURES, "rank": RANKS, "learning rate": RATES}),
        "reward": "gain on the target minus loss on the base domain, bits per byte",
        "tokens": str(TOKENS),
        "context": str(CONTEXT),
        "windows": json.dumps(PARTS),
        "model": "tasks.finetuning.models.source_model of the source before this one in the alphabet",
        "text": "as `ketcycle study` reads it: the shipped corpus and docstrings of libraries in constraints.txt",
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }
    found = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(about)
    target = Path(bank.__file__).parent / bank.RESOURCE
    pq.write_table(found, target, compression="zstd")
    sys.stdout.write(f"{len(rows)} runs, {target.stat().st_size:,} bytes\n")


def play(solve: object, problem: Campaign) -> tuple[Tuned, float]:
    """Return what an arm comes to and its own CPU seconds."""
    with TemporaryDirectory() as folder:
        tools = make_bench(problem.cell, Path(folder), AerSampler(seed=problem.cell))
        bench = replace(tools, rng=np.random.default_rng([problem.cell, 1]))
        began = time.process_time()
        found = solve(problem, bench)  # type: ignore[operator]
        return found, time.process_time() - began


def tune(cells: int, chosen: list[str]) -> None:
    """Print the mean quality of every setting of the policies, the same number for each of them."""
    policies = {"table": learn_table, "network": learn_network, "circuit": _circuit}
    for name, learn in policies.items():
        if chosen and name not in chosen:
            continue
        rows = []
        for rate, scale, entropy, steps in product(*GRID.values()):
            solve = partial(learn, Tuning(rate, scale, entropy, steps))
            values = [
                quality(problem, play(solve, problem)[0])[0]
                for source in bank.stored_runs()
                for problem in (bank.campaign(source, OUTSIDE + cell) for cell in range(cells))
            ]
            rows.append((float(np.mean(values)), rate, scale, entropy, steps))
        for mean, *chosen in sorted(rows, reverse=True)[:5]:
            sys.stdout.write(f"{name}: {mean:.4f} with {dict(zip(GRID, chosen, strict=True))}\n")
        sys.stdout.write(f"{name}: median of {len(rows)} settings {np.median([row[0] for row in rows]):.4f}\n")
        sys.stdout.flush()


def _circuit(tuning: Tuning, problem: Campaign, bench: Bench) -> Tuned:
    return learn_circuit(tuning, True, problem, bench)


def replay(cells: int, chosen: list[str]) -> None:
    """Print what arms come to: means over tables and cells with their standard errors."""
    watts = Coefficients.load().cpu_energy_j(Usage(cpu_s=1.0), source="modelled").p50
    header = ("arm", "share of the best, mean over episodes", "at the end", "episodes to 95 %", "training J to 95 %",
              "campaigns that arrive", "circuits", "J of the policy itself")  # fmt: skip
    sys.stdout.write(f"| {' | '.join(header)} |\n|{'---|' * len(header)}\n")
    for arm in (INCUMBENT, CHALLENGER, *OTHERS):
        if chosen and arm.name not in chosen:
            continue
        rows = np.array([_replayed(arm, source, cell) for source in bank.stored_runs() for cell in range(cells)])
        mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        shown = (
            f"{mean[0]:.3f} ± {error[0]:.3f}",
            f"{mean[1]:.3f} ± {error[1]:.3f}",
            f"{mean[2]:.1f} ± {error[2]:.1f}",
            f"{watts * mean[3]:.0f} ± {watts * error[3]:.0f}",
            f"{rows[:, 4].sum():.0f} of {len(rows)}",
            f"{mean[5]:.0f}",
            f"{watts * mean[6]:.2f}",
        )
        sys.stdout.write(f"| {arm.name} | {' | '.join(shown)} |\n")
        sys.stdout.flush()


def _replayed(arm: Arm[Campaign, Tuned], source: str, cell: int) -> list[float]:
    problem = bank.campaign(source, cell)
    found, own = play(arm.solve, problem)
    named = measures(problem, found)
    names = ("share of the best at the end", "episodes to 95 %", "training CPU s to 95 %", "arrives")
    return [*quality(problem, found), *(named[name][0] for name in names), float(found.circuits), own]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table", "pack", "tune", "replay"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("tuning-runs"))
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--arm", action="append", default=[], help="of `replay` and `tune`; may be repeated")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.command == "table":
        table(given.folder, given.seconds)
    elif given.command == "pack":
        pack(given.folder)
    elif given.command == "tune":
        tune(given.cells, given.arm)
    else:
        replay(given.cells, given.arm)


if __name__ == "__main__":
    main(sys.argv[1:])

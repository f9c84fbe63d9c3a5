"""Ways to train a circuit under equal executions: `python -m benchmarks.gradients [tune|table]`.

`tune` tries the same number of settings of each arm on a task that is in no bank, with two seeds, and the five best on
six other such tasks. It prints the mean losses, and which settings of the best lie at the edge of the grid. Its
circuits run on the simulator of the queue without the queue. `table` runs every arm on cells of the bank and prints how
many executions and circuits it takes to the same training loss, on Aer's sampler through the queue, or on a noisy
device (`--backend noisy:<device>`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from importlib import resources
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from benchmarks.kept import Kept
from flows.study.bank import gather_material
from infra import settings
from infra.runtime.queue import Runtime, Scope
from tasks.bench import make_bench as direct_bench
from tasks.contract import Bench
from tasks.text.embeddings import embed
from tasks.text.samples import sample_documents
from tasks.text.windows import passages
from tasks.training.gradients.arms import (
    TUNED,
    Change,
    Gains,
    by_adaptive_directions,
    by_block_metric,
    by_natural_spsa,
    by_shift,
    by_spsa,
    follow,
    train_exactly,
)
from tasks.training.gradients.bank import EXECUTIONS, LAYERS, QUBITS, TRAINING, bank, make_task
from tasks.training.gradients.problem import Texts, executions_to, quality, training_losses
from tasks.training.gradients.subtask import GRADIENTS

START = asdict(Gains(rate=0.0, texts=0, shots=0))  # the defaults of what is not tuned
RATES = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8)
# A step is at least one job: at one text and one shot SPSA would make 10,000 of them.
BATCHES = tuple({"texts": t, "shots": s} for t, s in ((1, 4), (2, 4), (2, 8), (4, 8), (8, 16)))
COLUMNS: dict[str, Sequence[dict[str, Any]]] = {  # five for each arm; those of most are the batches
    "adjoint": [{"texts": count} for count in (4, 8, 16, 32, 96)],  # takes no shots; 96 are all
    "forward-adaptive": [  # chooses its shots, and more directions for a larger share
        {"texts": t, "share": s} for t, s in ((1, 0.01), (1, 0.03), (1, 0.1), (4, 0.03), (8, 0.03))
    ],
}
TUNING_SEEDS = (1, 2)
FIRST, FINALS = 99, (3, 4, 5, 6, 7, 8)  # the task of all trials; those of the finalists, which are seeds, too
FINALISTS = 5
CHANGES: dict[str, Change] = {
    "parameter-shift": by_shift,
    "spsa": by_spsa,
    "qn-spsa": by_natural_spsa,
    "forward-adaptive": by_adaptive_directions,
    "block-natural": by_block_metric,
}


def make_bench(runtime: Runtime, name: str, seed: int) -> Bench:
    """Return what an arm works with, its circuits in the runtime queue."""
    scope = Scope("bench", "training", "gradients", name, "arm", 0, seed)
    return Bench(
        rng=np.random.default_rng(seed),
        sampler=runtime.sampler(scope),
        estimator=runtime.estimator(scope),
        map=lambda function, items: [function(item) for item in items],
        once=lambda _, make: make(),
        scratch=Path(tempfile.gettempdir()),
    )


@cache
def tuning_task(seed: int = FIRST) -> Texts:
    """Return a task of shorter passages than those of the bank; the seed draws them and the initial weights."""
    vectors = []
    for domain in ("base", "second"):
        cut = [p for _, text in sample_documents(domain) for p in passages(text, 25)]
        chosen = np.random.default_rng(seed).permutation(len(cut))[: 2 * TRAINING]
        vectors.append(embed([cut[i] for i in chosen]).astype(np.float64))
    return make_task(vectors[0], vectors[1], TRAINING, QUBITS, LAYERS, seed, EXECUTIONS)


def trials(name: str) -> list[tuple[Gains, str]]:
    """Return the settings of an arm, each with which of them lie at the edge of the grid."""
    columns = COLUMNS.get(name, BATCHES)
    grid = [{"rate": rate, **column} for rate, column in product(RATES, columns)]
    ends = {key: {f(row[key] for row in grid) for f in (min, max)} for key in grid[0]}
    return [
        (replace(TUNED[name], **row), ", ".join(f"{key} {value}" for key, value in row.items() if value in ends[key]))
        for row in grid
    ]


def tune(arms: Sequence[str], kept: Kept, *, write: bool) -> None:
    """Print the final training loss of every setting of some arms, and store the best finalist if told to."""
    path = Path(str(resources.files("tasks.training.gradients") / "gains.yaml"))
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in arms:
        found = []
        for gains, edge in trials(name):
            losses = [
                kept.cell(f"{name} {gains} seed {seed}", partial(_tail, name, gains, FIRST, seed))
                for seed in TUNING_SEEDS
            ]
            found.append((float(np.mean(losses)), gains, edge))
            sys.stderr.write(f"\r{name}: {len(found)} of {len(trials(name))} settings, {found[-1][0]:.3f}   ")
            sys.stderr.flush()
        shown = ", ".join(f"{value:.3f}" for value, _, _ in found)
        sys.stdout.write(f"\n{name}: {shown}\n")
        finals = []
        for first, gains, edge in sorted(found, key=lambda item: item[0])[:FINALISTS]:
            losses = [
                kept.cell(f"{name} {gains} task {seed}", partial(_tail, name, gains, seed, seed)) for seed in FINALS
            ]
            finals.append((float(np.mean(losses)), gains, edge))
            spread = float(np.std(losses, ddof=1) / len(losses) ** 0.5)
            sys.stdout.write(f"  {first:.3f}, then {finals[-1][0]:.3f} +- {spread:.3f} with {gains}\n")
        value, gains, edge = min(finals, key=lambda item: item[0])
        sys.stdout.write(f"  best {value:.3f} with {gains}; at the edge: {edge or 'nothing'}\n")
        sys.stdout.flush()
        changed = {key: value for key, value in asdict(gains).items() if key in stored[name] or value != START[key]}
        stored[name] = {**changed, "loss": round(value, 3)}
    if write:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = [line for line in lines if line.startswith("#")]
        rows = [
            f"{name}: {yaml.safe_dump(row, default_flow_style=True, sort_keys=False).strip()}"
            for name, row in stored.items()
        ]
        path.write_text("\n".join([*head, *rows, ""]), encoding="utf-8")


def _tail(name: str, gains: Gains, task: int, seed: int) -> float:
    """Return the mean training loss of the last tenth of the steps, because single steps jump; inf without a step."""
    problem, bench, change = tuning_task(task), direct_bench(seed), CHANGES.get(name)
    solved = follow(gains, change, problem, bench) if change else train_exactly(gains, problem, bench)
    tail = [value for _, value in training_losses(problem, solved, max(1, len(solved.path) // 10))]
    return float(np.mean(tail)) if tail else float("inf")


def table(runtime: Runtime, cells: int, target: float) -> None:
    """Print executions to a training loss, and the final losses, of every arm over cells of the bank."""
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
    problems = [cell.pose() for cell in islice(bank(material, np.random.default_rng([0, 7])), cells)]
    header = ("arm", f"cells at {target:g}", "executions, median", "steps", "training loss", "held-out loss")
    sys.stdout.write("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|\n")
    for arm in GRADIENTS.arms:
        rows: list[dict[str, Any]] = []
        for number, problem in enumerate(problems):
            solved = arm.solve(problem, make_bench(runtime, f"table {arm.name} {number}", number))
            curve = training_losses(problem, solved)
            final = curve[-1][1] if curve else float("nan")
            rows.append({"to": executions_to(curve, target), "steps": len(curve), "final": final,
                         "held": -quality(problem, solved)[0]})  # fmt: skip
        reached = [row["to"] for row in rows if row["to"] is not None]
        cells_text = (
            arm.name, f"{len(reached)} of {len(rows)}", f"{median(reached):.0f}" if reached else "-",
            f"{median(row['steps'] for row in rows):.0f}", f"{np.mean([row['final'] for row in rows]):.3f}",
            f"{np.mean([row['held'] for row in rows]):.3f}",
        )  # fmt: skip
        sys.stdout.write("| " + " | ".join(cells_text) + " |\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["table"])
    parser.add_argument("--backend", default="aer")
    parser.add_argument("--arm", action="append", choices=TUNED, help="of `tune`; default all")
    parser.add_argument("--write", action="store_true", help="of `tune`: store the best settings in the package")
    parser.add_argument("--keep", type=Path, help="of `tune`: file of finished trials, from which a rerun goes on")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--target", type=float, default=0.5, help="training loss, nats")
    given = parser.parse_args(arguments)
    # The matrices are small: threads that wait for each other took four times the CPU time.
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        runtime = Runtime(Path(folder) / "ledger.db", given.backend)
        for what in given.what:
            if what == "tune":
                tune(given.arm or list(TUNED), Kept.at(given.keep), write=given.write)
            else:
                table(runtime, given.cells, given.target)


if __name__ == "__main__":
    main()

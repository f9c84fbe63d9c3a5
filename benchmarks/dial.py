"""The dial's choice against the best of 40 tuned trainings of equal compute: `python -m benchmarks.dial [--write]`.

A cell is a source of text and a seed, which draws the windows, the weights and their order. In each cell the dial
chooses once, without a look at the text, and Optuna's multivariate TPE searches 40 trainings over shape, batch,
learning rates, warm-up and weight decay, the first of them the defaults of the demo profile. All have the same FLOPs.
The search picks by validation text; both are compared on test text. The rules of the dial were fitted on documentation,
so `licences` is text that they have not seen. `--keep FILE` stores finished trainings, so that a rerun goes on;
`--write` puts the table into `docs/stages/architecture.md`. `--stored` compares with the best setting of the stored
tables instead, which takes seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import torch

from benchmarks.hpo import DOMAINS, texts
from benchmarks.kept import Kept
from benchmarks.page import write_part
from benchmarks.training import table
from tasks.architecture.config import Shape, build_model, shape_of_dial
from tasks.architecture.dial import Budget, best_depth, choose
from tasks.architecture.hyperparameters.bank import stored_runs
from tasks.architecture.hyperparameters.runs import HEAD_WIDTH, Real, small_shape
from tasks.model.recipe import Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training import loop
from tasks.model.training.loop import train

SHAPES = ((1, 32, 128), (1, 48, 128), (1, 64, 256), (2, 32, 128), (2, 48, 128))  # depth, width, feed-forward units
DEFAULTS = {"shape": 3, "batch": 8, "matrix_lr": Recipe.matrix_lr, "other_lr": Recipe.other_lr, "warmup": 0.05}
DEFAULTS["weight_decay"] = 0.0
TRIALS, CELLS, WINDOWS = 40, 3, 256
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "architecture.md"


def shape(number: int, real: Real) -> Shape:
    """Return a shape of the search."""
    depth, width, ffn = SHAPES[number]
    return Shape(depth, width, width // HEAD_WIDTH, ffn, real.vocab_size, real.training.context)


def trained(real: Real, made: Shape, recipe: Mapping[str, Any]) -> dict[str, float]:
    """Train once and return the loss on validation and test text and the CPU seconds; a failed run has the penalty."""
    net, began = build_model(made, 0, real.seed), time.process_time()
    try:
        train(net, real.training, Recipe(**recipe, seed=real.seed))
    except FloatingPointError:
        return {"validation": real.penalty, "test": real.penalty, "cpu_s": time.process_time() - began}
    spent = time.process_time() - began
    return {
        "validation": bits_per_byte(net, real.validation),
        "test": bits_per_byte(net, real.test),
        "cpu_s": spent,
    }


def cell(source: str, seed: int, kept: Kept) -> dict[str, dict[str, float]]:
    """Return the result of the dial, of the demo's defaults, and of the best trial, on a source and seed."""
    real = texts(source, seed, WINDOWS)
    flops = float(shape(DEFAULTS["shape"], real).training_flops_per_token * real.tokens)  # type: ignore[arg-type]
    unique = len(real.training) * real.training.context

    def run(values: Mapping[str, Any]) -> dict[str, float]:
        given = dict(values)
        made = shape(given.pop("shape"), real)
        return trained(real, made, {**given, "tokens": int(flops / made.training_flops_per_token)})

    sizes = real.vocab_size, real.training.context
    made = shape_of_dial(best_depth(Budget(flops=flops), *sizes, unique), *sizes)
    recipe = choose(Budget(flops=flops), made, unique).recipe
    chosen = f"{made.depth} blocks, {', '.join(f'{name} {value:.4g}' for name, value in recipe.items())}"
    found = {"dial": kept.cell(f"{source} {seed} dial: {chosen}", lambda: trained(real, made, recipe))}
    found["defaults"] = kept.cell(f"{source} {seed} 0", lambda: run(DEFAULTS))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=True, seed=seed))
    study.enqueue_trial(DEFAULTS)
    results = []
    for number in range(TRIALS):
        trial = study.ask()
        values = {
            "shape": trial.suggest_categorical("shape", range(len(SHAPES))),
            "batch": trial.suggest_categorical("batch", (2, 4, 8, 16)),
            "matrix_lr": trial.suggest_float("matrix_lr", 0.005, 0.3, log=True),
            "other_lr": trial.suggest_float("other_lr", 0.005, 0.5, log=True),
            "warmup": trial.suggest_float("warmup", 0.01, 0.2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 1.0),
        }
        result = kept.cell(f"{source} {seed} {number}", lambda values=values: {**run(values), "values": values})
        study.tell(trial, result["validation"])
        results.append(result)
    found["best"] = min(results, key=lambda result: float(result["validation"]))
    return found


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dial", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="file of finished trainings")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no training begins later")
    parser.add_argument("--source", action="append", choices=DOMAINS, help="default both; may be repeated")
    parser.add_argument("--cells", type=int, default=CELLS, help="seeds of each source")
    parser.add_argument("--stored", action="store_true", help="against the stored tables, in place of a search")
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/architecture.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loop.SAID_S = float("inf")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept = Kept.at(given.keep, given.minutes)
    if given.stored:
        made = stored()
        sys.stdout.write(made)
        if given.write:
            write_part(PAGE, "dial stored", made)
        return
    rows = []
    for source in given.source or DOMAINS:
        cells = [cell(source, seed, kept) for seed in range(1, given.cells + 1)]
        for seed, found in enumerate(cells, 1):
            rows.append((source, str(seed), *figures([found])))
        rows.append((f"{source}, mean", "", *figures(cells)))
    header = ("text", "seed", "dial", "demo's defaults", f"best of {TRIALS}", "dial / best", "CPU s of dial, of best")
    made = table(header, rows)
    sys.stdout.write(made)
    if given.write:
        write_part(PAGE, "dial", made)


def stored() -> str:
    """Return the dial on the texts of the stored tables, one training each, against the best of their 256 settings."""
    rows = []
    for source, runs in stored_runs().items():
        real = texts(source)
        flops = float(small_shape(2, real.vocab_size, real.training.context).training_flops_per_token * real.tokens)
        sizes, unique = (real.vocab_size, real.training.context), len(real.training) * real.training.context
        made = shape_of_dial(best_depth(Budget(flops=flops), *sizes, unique), *sizes)
        dial = trained(real, made, choose(Budget(flops=flops), made, unique).recipe)
        best = int(runs.validation[:, -1].argmin())
        pairs = (dial["validation"], float(runs.validation[best, -1])), (dial["test"], float(runs.test[best]))
        cells = (cell for mine, its in pairs for cell in (f"{mine:.3f}", f"{its:.3f}", f"{mine / its:.4f}"))
        rows.append((source, *cells))
    names = ("dial", "best of 256", "dial / best")
    header = ("text", *(f"{name}, {text}" for text in ("validation", "test") for name in names))
    return table(header, rows)


def figures(cells: list[dict[str, dict[str, float]]]) -> tuple[str, ...]:
    """Return the columns of some cells, means over them."""
    dial, defaults, best = (mean(found[name]["test"] for found in cells) for name in ("dial", "defaults", "best"))
    spent = [mean(found[name]["cpu_s"] for found in cells) for name in ("dial", "best")]
    return f"{dial:.3f}", f"{defaults:.3f}", f"{best:.3f}", f"{dial / best:.4f}", f"{spent[0]:.1f}, {spent[1]:.1f}"


if __name__ == "__main__":
    main()

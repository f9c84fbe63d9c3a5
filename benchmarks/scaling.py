"""Scaling rules of the dial, fitted on our own runs: `python -m benchmarks.scaling FILE [--seconds N] [--write]`.

Trains the runs that FILE does not have yet, then prints the fits with their residuals; `--write` stores them with the
runs as `tasks/model/scaling.yaml` and puts the tables into `docs/stages/architecture.md`. The text is the shipped
documentation in its demo form (4,096 tokens, windows of 128), the loss is measured on 256 held-out windows, one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.optimize import least_squares, minimize_scalar

from benchmarks.page import write_part
from benchmarks.training import CONTEXT, VOCABULARY, corpus
from benchmarks.training import table as rows_of
from tasks.architecture.config import Shape, build_model, shape_of_dial
from tasks.model.recipe import Recipe
from tasks.model.scaling import COMPUTE, STEPS, UNIT, Power, Rules, fresh_tokens, optimum
from tasks.model.score import bits_per_byte
from tasks.model.training import loop
from tasks.model.training.loop import train

DEPTHS, TOKENS = (1, 2, 3), (16_384, 51_200, 163_840)
RATES_AT = ((1, 51_200), (2, 51_200), (3, 51_200), (1, 163_840))
LONG = (2, 409_600)  # depth and tokens of a longer training, for the rates only
BATCHES_AT = ((1, 16_384), (1, 163_840))
SMALL_BATCH = (((1, 51_200), (1.0, 2.0, 4.0)), ((1, 163_840), (0.5, 1.0, 2.0)), ((1, 614_400), (0.3, 0.6, 1.2)))
REPEATED = ((20_480, 4), (20_480, 8), (51_200, 4), (51_200, 8), (102_400, 4))  # different tokens, readings
DECAYED = (20_480, 8)  # the weight decay is chosen here
PUBLISHED = 15.4  # Muennighoff et al. 2023, table 1


@dataclass(frozen=True)
class Trial:
    """A run: the depth sets the shape, `factor` multiplies the default learning rates, 0 `unique` = all of the text."""

    depth: int
    tokens: int
    factor: float = 1.0
    batch: int = 8
    weight_decay: float = 0.0
    unique: int = 0

    @property
    def shape(self) -> Shape:
        """The shape of the model."""
        return shape_of_dial(self.depth, VOCABULARY, CONTEXT)

    @property
    def steps(self) -> float:
        """Optimiser steps."""
        return self.tokens / (self.batch * CONTEXT)

    @property
    def flops(self) -> float:
        """Training FLOPs."""
        return float(self.shape.training_flops_per_token * self.tokens)


GRID = [Trial(depth, tokens) for depth in DEPTHS for tokens in TOKENS]
RATES = [Trial(*at, factor=factor) for at in RATES_AT for factor in (0.5, 2.0)]
BATCHES = [Trial(*at, batch=batch) for at in BATCHES_AT for batch in (4, 16)]
LONG_RATES = [Trial(*LONG, factor=factor) for factor in (0.5, 1.0, 2.0)]
SMALL_RATES = [Trial(*at, factor=factor, batch=4) for at, factors in SMALL_BATCH for factor in factors]
AGAIN = {
    (unique, readings): [
        Trial(1, unique * readings, weight_decay=decay, unique=unique)
        for decay in ((0.0, 0.5, 2.0) if (unique, readings) == DECAYED else (0.0, 0.5))
    ]
    for unique, readings in REPEATED
}
SAID: list[str] = []
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "architecture.md"
LOSS = [*GRID, Trial(*LONG), Trial(1, 614_400, factor=0.6, batch=4)]  # of the fit of the loss
RUNS = list(
    dict.fromkeys(
        [*GRID, *RATES, *BATCHES, *SMALL_RATES, *LONG_RATES, *(trial for tried in AGAIN.values() for trial in tried)]
    )
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Say a Markdown table."""
    say(f"\n{rows_of(header, rows)}\n")


def say(text: str) -> None:
    """Print a text and keep it for the page."""
    sys.stdout.write(text)
    SAID.append(text)


def measure(trial: Trial) -> dict[str, float]:
    """Train and return the held-out bits per byte and the CPU seconds of the training."""
    windows, held_out = corpus()
    if trial.unique:
        windows = windows.spread(trial.unique // CONTEXT)
    net = build_model(trial.shape, 0, 0)
    recipe = Recipe(
        tokens=trial.tokens,
        batch=trial.batch,
        matrix_lr=trial.factor * Recipe.matrix_lr,
        other_lr=trial.factor * Recipe.other_lr,
        weight_decay=trial.weight_decay,
        precision="auto",
    )
    began = time.process_time()
    train(net, windows, recipe)
    return {"cpu_s": time.process_time() - began, "bits_per_byte": bits_per_byte(net, held_out)}


def fit_loss(runs: dict[Trial, dict[str, float]], without: Trial | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return `floor, A, a, B, b` of the loss and the residuals at `LOSS`, by least squares of logarithms.

    Args:
        runs: what was measured.
        without: a run that the fit does not see; its residual is the error of a prediction.
    """
    sizes = np.array([trial.shape.parameters / UNIT for trial in LOSS])
    tokens = np.array([trial.tokens / UNIT for trial in LOSS])
    losses = np.array([runs[trial]["bits_per_byte"] for trial in LOSS])
    seen = np.array([trial != without for trial in LOSS])

    def predicted(p: np.ndarray) -> np.ndarray:
        return np.asarray(p[0] + p[1] * sizes ** -p[2] + p[3] * tokens ** -p[4])

    def errors(p: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(predicted(p)) - np.log(losses))[seen]

    found = least_squares(
        errors,
        x0=[1.0, 0.5, 0.3, 1.0, 0.3],
        bounds=([0.0, 0.0, 0.02, 0.0, 0.02], [losses.min(), 10.0, 2.0, 10.0, 2.0]),
    ).x
    return found, losses - predicted(found)


def fit_power(points: list[tuple[float, float]]) -> tuple[Power, np.ndarray]:
    """Return the power law through (compute, value) and its residuals in natural logarithms."""
    at, value = np.log([c / COMPUTE for c, _ in points]), np.log([v for _, v in points])
    exponent, level = np.polyfit(at, value, 1)
    return Power(float(np.exp(level)), float(exponent), COMPUTE), value - (level + exponent * at)


def fit_rates(points: list[tuple[Trial, float]]) -> tuple[Power, float, np.ndarray]:
    """Return the power law in steps, the exponent of the parameters, and the residuals in natural logarithms."""
    columns = [[1.0, log(t.steps / STEPS), log(t.shape.parameters / UNIT)] for t, _ in points]
    value = np.log([v for _, v in points])
    (level, steps, size), *_ = np.linalg.lstsq(np.array(columns), value, rcond=None)
    law = Power(float(np.exp(level)), float(steps), STEPS)
    return law, float(size), value - np.array(columns) @ [level, steps, size]


def fit_again(runs: dict[Trial, dict[str, float]], law: Sequence[float]) -> float:
    """Return after how many readings one more is worth 1/e of new text, and print what that says of each text."""
    floor, model, a, data, b = law
    measured = {at: min(runs[t]["bits_per_byte"] for t in tried) for at, tried in AGAIN.items()}

    def predicted(unique: int, readings: int, again: float) -> float:
        size = AGAIN[unique, readings][0].shape.parameters / UNIT
        read = fresh_tokens(unique * readings, unique, again) / UNIT
        return float(floor + model * size**-a + data * read**-b)

    def error(again: float) -> float:
        return sum((log(predicted(*at, again)) - log(value)) ** 2 for at, value in measured.items())

    found = float(minimize_scalar(error, bounds=(0.1, 50.0), method="bounded").x)
    rows = [
        (f"{at[0]:,}", f"{at[1]}", f"{value:.3f}", f"{predicted(*at, found):.3f}", f"{predicted(*at, PUBLISHED):.3f}")
        for at, value in measured.items()
    ]
    table(("different tokens", "readings", "bits per byte", "fitted", f"with {PUBLISHED} of Muennighoff et al."), rows)
    say(f"a text that is read again: one more reading is worth 1/e of new text after {found:.2f} readings\n\n")
    return found


def fit(runs: dict[Trial, dict[str, float]]) -> Rules:
    """Fit all rules and print them with their residuals."""
    (floor, model, a, data, b), residuals = fit_loss(runs)
    unseen = np.array([fit_loss(runs, without=t)[1][i] for i, t in enumerate(LOSS)])
    error = float(np.sqrt(np.mean(unseen**2)))
    rows = [
        (f"{t.depth}", f"{t.shape.parameters:,}", f"{t.tokens:,}", f"{t.flops:.2e}", f"{runs[t]['cpu_s']:.1f}",
         f"{runs[t]['bits_per_byte']:.3f}", f"{r:+.3f}", f"{u:+.3f}")
        for t, r, u in zip(LOSS, residuals, unseen, strict=True)
    ]  # fmt: skip
    table(("depth", "parameters", "tokens", "FLOPs", "CPU s", "bits per byte", "residual", "left out"), rows)
    best_rates, best_batches = [], []
    for at in [*(Trial(*at) for at in RATES_AT), *(Trial(*at, batch=4) for at, _ in SMALL_BATCH), Trial(*LONG)]:
        tried = [t for t in dict.fromkeys([*GRID, *RATES, *SMALL_RATES, *LONG_RATES]) if replace(t, factor=1.0) == at]
        best_rates.append((at, optimum([(t.factor, runs[t]["bits_per_byte"]) for t in tried])))
    for depth, tokens in BATCHES_AT:
        same = [t for t in [Trial(depth, tokens), *BATCHES] if (t.depth, t.tokens) == (depth, tokens)]
        best = optimum([(t.batch, runs[t]["bits_per_byte"]) for t in same])
        best_batches.append((Trial(depth, tokens).flops, best))
    rates, by_size, rate_errors = fit_rates(best_rates)
    batch, batch_errors = fit_power(best_batches)
    shown = [
        (f"{t.steps:.0f}", f"{t.shape.parameters:,}", f"{v:.2f}", f"{e:+.2f}")
        for (t, v), e in zip(best_rates, rate_errors, strict=True)
    ]
    table(("steps", "parameters", "best factor of the rates", "residual (ln)"), shown)
    say(f"rates: {rates.at:.3g} (steps / {STEPS:g})^{rates.exponent:.3f} (N/1e5)^{by_size:.3f}\n")
    shown = [(f"{c:.2e}", f"{v:.2f}", f"{e:+.2f}") for (c, v), e in zip(best_batches, batch_errors, strict=True)]
    table(("FLOPs", "best batch", "residual (ln)"), shown)
    say(f"batch: {batch.at:.3g} (C / {COMPUTE:.0e})^{batch.exponent:.3f}\n")
    decays = [(t.weight_decay, runs[t]["bits_per_byte"]) for t in AGAIN[DECAYED]]
    table(("weight decay", f"bits per byte, text read {DECAYED[1]} times"), [(f"{d:g}", f"{v:.3f}") for d, v in decays])
    decay = min(decays, key=lambda row: row[1])[0] / log(DECAYED[1])
    again = fit_again(runs, (floor, model, a, data, b))
    timed = [t for t in GRID if t.tokens > min(TOKENS)]
    columns = np.array([[t.tokens, t.flops] for t in timed])
    weights = 1 / np.array([runs[t]["cpu_s"] for t in timed])
    (seconds, per_flop), *_ = np.linalg.lstsq(columns * weights[:, None], np.ones(len(timed)), rcond=None)
    off = columns @ [seconds, per_flop] * weights - 1
    say(
        f"loss: {floor:.3f} + {model:.3f} (N/1e5)^-{a:.3f} + {data:.3f} (D/1e5)^-{b:.3f}, residual "
        f"{np.sqrt(np.mean(residuals**2)):.3f}, left out {error:.3f}\n"
        f"CPU s: {seconds:.3g} a token + {per_flop:.3g} a FLOP, "
        f"off by {100 * off.min():+.0f} to {100 * off.max():+.0f} %\n"
    )
    return Rules(
        floor, model, a, data, b, error, rates, by_size, batch, decay, again,
        max(t.flops for t in LOSS),
    )  # fmt: skip


def write(found: Rules, runs: dict[Trial, dict[str, float]]) -> None:
    """Store the rules and their runs in the package."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return float(f"{value:.6g}") if isinstance(value, float) else value

    stored = {
        "made_by": "python -m benchmarks.scaling --write",
        "text": f"shipped documentation, {VOCABULARY} tokens, windows of {CONTEXT}",
        "processor": platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        "rules": plain(asdict(found)),
        "runs": [plain({**asdict(trial), **runs[trial]}) for trial in runs],
    }
    path = Path(str(resources.files("tasks.model") / "scaling.yaml"))
    path.write_text(yaml.safe_dump(stored, sort_keys=False, default_flow_style=None, width=120), encoding="utf-8")
    write_part(PAGE, "scaling", "".join(SAID))


def main() -> None:
    """Train what is missing, fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="file of finished runs")
    parser.add_argument("--seconds", type=float, default=1e9, help="no run begins after this time")
    parser.add_argument("--write", action="store_true", help="store rules and runs in the package")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loop.SAID_S = float("inf")
    lines = given.file.read_text().splitlines() if given.file.exists() else []
    runs = {Trial(**row["trial"]): row["found"] for row in map(json.loads, lines)}
    began = time.monotonic()
    with given.file.open("a") as stream:
        for trial in RUNS:
            if trial not in runs and time.monotonic() - began < given.seconds:
                runs[trial] = measure(trial)
                stream.write(json.dumps({"trial": asdict(trial), "found": runs[trial]}) + "\n")
                stream.flush()
    missing = [trial for trial in RUNS if trial not in runs]
    if missing:
        raise SystemExit(f"{len(missing)} runs are missing; run the command again")
    found = fit(runs)
    if given.write:
        write(found, runs)


if __name__ == "__main__":
    main()

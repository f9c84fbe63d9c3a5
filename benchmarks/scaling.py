"""Fits the laws of the dial on trainings over a decade of compute and prints the fit with its residuals.

    python -m benchmarks.scaling FOLDER [--seconds 280]   # trains; call it until no run is left
    python -m benchmarks.scaling FOLDER --write           # prints the fit and writes tasks/architecture/scaling.yaml

Twelve runs: four budgets of training FLOPs, three depths each, on the shipped documentation with a vocabulary of 4,096
and windows of 128 tokens, with batch and learning rates as the dial sets them. Every tenth document is held out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.optimize import least_squares
from transformers import PreTrainedTokenizerFast

from tasks.architecture import dial
from tasks.architecture.config import build_model, shape_of_dial
from tasks.architecture.dial import Law
from tasks.model.score import bits_per_byte
from tasks.model.train import Recipe, train
from tasks.model.windows import Windows, token_bytes
from tasks.preprocessing.bpe import train_bpe
from tasks.text.samples import sample_documents

VOCAB, CONTEXT, HELD_OUT, TESTED = 4096, 128, 10, 96
FLOPS = (8e10, 1.7e11, 3.7e11, 8e11)
DEPTHS = (2, 3, 4)
ROUGH = Law(floor=1.0, a=1.0, alpha=0.5, b=1.0, beta=0.5, overhead_s=0.0, flops_per_s=1e10)  # for the batch rule only
BOUNDS = ((0.0, 0.0, 0.05, 0.0, 0.05), (2.0, 1e4, 1.0, 1e6, 1.0))  # floor, log-free a, alpha, b, beta
Row = dict[str, float]


def texts() -> tuple[Windows, Windows]:
    """Return the windows of the training and of the held-out documents."""
    documents = [text for _, text in sample_documents("base")]
    kept = [text for number, text in enumerate(documents) if number % HELD_OUT]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_bpe(iter(kept), VOCAB))
    held_out = documents[::HELD_OUT]
    return _windows(kept, tokenizer), _windows(held_out, tokenizer).spread(TESTED)


def _windows(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> Windows:
    text = "\n\n".join(documents)
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids, sizes = np.array(encoded.ids), token_bytes(text, [end for _, end in encoded.offsets])
    rows = (len(ids) - 1) // CONTEXT
    starts = np.arange(rows)[:, None] * CONTEXT
    tokens = ids[starts + np.arange(CONTEXT + 1)]
    n_bytes = sizes[starts + np.arange(1, CONTEXT + 1)].sum(axis=1)
    return Windows(tokens.astype(np.int64), n_bytes.astype(np.int64))


def planned() -> list[dial.Plan]:
    """Return the twelve trainings."""
    shapes = [shape_of_dial(depth, VOCAB, CONTEXT) for depth in DEPTHS]
    return [dial.plan_of(ROUGH, shape, flops / shape.training_flops_per_token) for flops in FLOPS for shape in shapes]


def measure(folder: Path, seconds: float) -> None:
    """Train what is not yet stored, the smallest first, until the time is over."""
    folder.mkdir(parents=True, exist_ok=True)
    path, began = folder / "runs.jsonl", time.monotonic()
    known = {(row["depth"], row["tokens"]) for row in stored(folder)}
    left = [plan for plan in planned() if (plan.shape.depth, plan.tokens) not in known]
    windows, held_out = texts()
    while left and time.monotonic() - began < seconds:
        plan = left.pop(0)
        model = build_model(plan.shape, 0, 0)
        recipe = Recipe(plan.tokens, plan.batch, plan.matrix_lr, plan.other_lr)
        started = time.process_time()
        trained = train(model, windows, recipe)
        row = {
            "depth": plan.shape.depth,
            "parameters": plan.shape.parameters,
            "flops_per_token": plan.shape.training_flops_per_token,
            "tokens": plan.tokens,
            "trained": trained.tokens,
            "epochs": trained.tokens / windows.n_predicted,
            "batch": plan.batch,
            "cpu_s": time.process_time() - started,
            "bits_per_byte": bits_per_byte(model, held_out),
        }
        with path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    sys.stdout.write(f"{len(left)} runs are left\n")


def stored(folder: Path) -> list[Row]:
    """Return the runs that are stored."""
    path = folder / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fit(rows: list[Row]) -> Law:
    """Return the laws with the least squares of relative errors."""
    n, d, flops, cpu_s, loss = (
        np.array([row[name] for row in rows])
        for name in ("parameters", "trained", "flops_per_token", "cpu_s", "bits_per_byte")
    )

    def errors(x: np.ndarray) -> np.ndarray:
        return np.log((x[0] + x[1] / (n / 1e6) ** x[2] + x[3] / (d / 1e5) ** x[4]) / loss)

    found = least_squares(errors, (1.0, 0.3, 0.4, 0.8, 0.4), bounds=BOUNDS, loss="soft_l1", f_scale=0.01).x
    # Relative errors of the seconds: a token costs an overhead and its FLOPs.
    weights = 1 / cpu_s
    seconds, *_ = np.linalg.lstsq(np.stack([d, d * flops], axis=1) * weights[:, None], np.ones(len(rows)))
    floor, a, alpha, b, beta = found.tolist()
    return Law(floor, a * 1e6**alpha, alpha, b * 1e5**beta, beta, float(max(seconds[0], 0.0)), float(1 / seconds[1]))


def report(rows: list[Row], law: Law) -> None:
    """Print every run with its residuals, the fit, and what leaving each budget out would have predicted."""
    write = sys.stdout.write
    write("| depth | weights | tokens | epochs | CPU s | fitted | bits per byte | fitted | residual |\n")
    write("|---|---|---|---|---|---|---|---|---|\n")
    residuals = []
    for row in sorted(rows, key=lambda row: (row["tokens"] * row["flops_per_token"], row["depth"])):
        seconds = row["trained"] * (law.overhead_s + row["flops_per_token"] / law.flops_per_s)
        loss = law.loss(row["parameters"], row["trained"])
        residuals.append(row["bits_per_byte"] / loss - 1)
        write(
            f"| {row['depth']:.0f} | {row['parameters']:,.0f} | {row['trained']:,.0f} | {row['epochs']:.2f} "
            f"| {row['cpu_s']:.1f} | {seconds:.1f} | {row['bits_per_byte']:.3f} | {loss:.3f} | {residuals[-1]:+.1%} |\n"
        )
    write(
        f"bits per byte = {law.floor:.3f} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}; "
        f"root mean square residual {np.sqrt(np.mean(np.square(residuals))):.2%}; "
        f"a token takes {1e6 * law.overhead_s:.1f} us + FLOPs / {law.flops_per_s:.3g} per s\n"
    )
    largest = max(row["tokens"] * row["flops_per_token"] for row in rows)
    smaller = [row for row in rows if row["tokens"] * row["flops_per_token"] < 0.9 * largest]
    without = fit(smaller)
    gaps = [
        row["bits_per_byte"] / without.loss(row["parameters"], row["trained"]) - 1 for row in rows if row not in smaller
    ]
    write(
        f"the largest budget, predicted from the {len(smaller)} smaller runs: {', '.join(f'{g:+.1%}' for g in gaps)}\n"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=280.0)
    parser.add_argument("--write", action="store_true", help="write the fit into the package")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not given.write:
        measure(given.folder, given.seconds)
        return
    rows = stored(given.folder)
    law = fit(rows)
    report(rows, law)
    about = "# Written by `python -m benchmarks.scaling FOLDER --write` from the runs below; see dial.py.\n"
    text = yaml.safe_dump({"law": asdict(law), "runs": rows}, sort_keys=False)
    (Path(dial.__file__).parent / "scaling.yaml").write_text(about + text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

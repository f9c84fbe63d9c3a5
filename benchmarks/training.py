"""The training loop against the `transformers` Trainer: `python -m benchmarks.training [speed|quality|memory]`.

`speed` times the same step of both in turns, `quality` trains both for the same CPU seconds at the size of the demo
profile on the shipped corpus, `memory` trains from shards of two sizes. All run with the malloc settings of a run's
workers and one thread; seconds are CPU seconds of the process. `quality` takes about a quarter of an hour; `--keep
FILE` stores finished trainings, so that a rerun goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import cross_entropy, linear_cross_entropy
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from infra.compute import DASK
from infra.lake import Lake
from tasks.architecture.config import build_model, shape_of_dial
from tasks.model import train as loop
from tasks.model.loss import ChunkedCrossEntropy
from tasks.model.recipe import Precision, Recipe
from tasks.model.score import bits_per_byte
from tasks.model.train import batch_rows, make_optimizers, train
from tasks.model.windows import Windows, store_windows, token_bytes
from tasks.preprocessing.bpe import train_bpe
from tasks.preprocessing.pack import Packer
from tasks.text.samples import sample_documents

CONTEXT, VOCABULARY, BATCH = 128, 4096, 8
RATES = (7e-4, 1.5e-3, 3e-3, 6e-3)  # of AdamW; the best is none of the outer ones
SEEDS = (0, 1, 2)
HELD_OUT = 10  # every tenth document
MIB = 2**20


@cache
def corpus() -> tuple[Windows, Windows]:
    """Return training and held-out windows of the shipped corpus in its demo form."""
    texts = [text for _, text in sample_documents("base")]
    tokenizer = train_bpe((text for i, text in enumerate(texts) if i % HELD_OUT), VOCABULARY)
    packers = [Packer(CONTEXT, 0, VOCABULARY) for _ in range(2)]
    for i, text in enumerate(texts):
        found = tokenizer.encode(text)
        packers[i % HELD_OUT == 0].add(found.ids, token_bytes(text, [end for _, end in found.offsets]))
    trained, held_out = (Windows(tokens.astype(np.int64), sizes) for tokens, sizes in (p.take() for p in packers))
    return trained, held_out.spread(256)


def model(seed: int) -> LlamaForCausalLM:
    """Return an untrained model of the demo profile."""
    return build_model(shape_of_dial(4, VOCABULARY, CONTEXT), 0, seed)


class Both(torch.optim.Optimizer):
    """Muon and AdamW of torch as one optimiser, as the Trainer wants it."""

    def __init__(self, net: torch.nn.Module) -> None:
        owners = make_optimizers(net, Recipe(tokens=1))
        matrices = [p for group in owners["muon"].param_groups for p in group["params"]]
        muon = torch.optim.Muon(matrices, lr=Recipe.matrix_lr, weight_decay=0.0)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, owners["adamw"])
        super().__init__([{"params": p["params"], "lr": p["lr"]} for part in self.parts for p in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step with the current learning rates."""
        del closure
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()


def trainer(net: LlamaForCausalLM, windows: Windows, steps: int, seed: int, rate: float | None, folder: str) -> Trainer:
    """Return the plain Trainer, with AdamW at a rate or with Muon (rate None)."""
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in windows.tokens]
    arguments = TrainingArguments(
        output_dir=folder, use_cpu=True, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=rate or 1.0,
        lr_scheduler_type="linear", warmup_steps=max(1, steps // 20), max_grad_norm=1.0, adam_beta2=0.95, seed=seed,
        logging_steps=10**9, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    given: dict[str, Any] = {}
    if rate is None:
        both = Both(net)

        def share(step: int) -> float:
            return min((step + 1) / max(1, steps // 20), max(0.0, (steps - step) / max(1, steps)))

        given["optimizers"] = (both, torch.optim.lr_scheduler.LambdaLR(both, share))
    return Trainer(model=net, args=arguments, train_dataset=rows, **given)  # type: ignore[arg-type]


def run_trainer(steps: int, seed: int, rate: float | None) -> tuple[LlamaForCausalLM, float]:
    """Train with the Trainer; return the model and the CPU seconds."""
    net, (windows, _) = model(seed), corpus()
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(net, windows, steps, seed, rate, folder)
        began = time.process_time()
        made.train()
    return net, time.process_time() - began


def speed() -> None:
    """Print tokens per CPU second of the Trainer, of the loop before, and of the loop now, in turns."""
    windows, _ = corpus()
    nets = {name: model(0) for name in ("before", "fp32", "auto")}
    owners = {name: make_optimizers(net, Recipe(tokens=1), bf16=name == "auto") for name, net in nets.items()}

    def before(steps: int) -> None:
        net, pair = nets["before"].train(), owners["before"]
        for step in range(steps):
            tokens = torch.from_numpy(windows.tokens[batch_rows(len(windows), BATCH, step, 0)])
            for optimizer in pair.values():
                optimizer.zero_grad(set_to_none=True)
            logits = net(input_ids=tokens[:, :-1], use_cache=False).logits
            cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            for optimizer in pair.values():
                optimizer.step()

    def ours(precision: Precision) -> Callable[[int], None]:
        recipe = Recipe(tokens=10**9, batch=BATCH, precision=precision)

        def run(steps: int) -> None:
            train(nets[precision], windows, Recipe(**{**vars(recipe), "steps": steps}))

        return run

    ways: dict[str, Callable[[int], object]] = {
        "Trainer, AdamW": lambda steps: run_trainer(steps, 0, RATES[1]),
        "Trainer, torch Muon": lambda steps: run_trainer(steps, 0, None),
        "loop before (whole logits, fp32)": before,
        "loop, fp32": ours("fp32"),
        "loop, auto": ours("auto"),
    }
    few, many = 2, 8
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(3):
        for name, way in ways.items():
            spent = []
            for steps in (few, many):  # the difference leaves out what a training costs once
                began = time.process_time()
                way(steps)
                spent.append(time.process_time() - began)
            if turn:
                rates[name].append((many - few) * BATCH * CONTEXT / (spent[1] - spent[0]))
    reference, earlier = median(rates["Trainer, AdamW"]), median(rates["loop before (whole logits, fp32)"])
    table(
        ("way", "tokens per CPU s", "of the Trainer", "of the loop before"),
        [
            (name, f"{median(found):.0f}", f"{median(found) / reference:.2f}", f"{median(found) / earlier:.2f}")
            for name, found in rates.items()
        ],
    )
    heads()


def heads() -> None:
    """Print the milliseconds of the output layer's loss and gradients in each form, in turns."""
    hidden = torch.randn(BATCH * CONTEXT, 128, requires_grad=True)
    weight = (0.05 * torch.randn(VOCABULARY, 128)).requires_grad_()
    wanted = torch.randint(0, VOCABULARY, (len(hidden),))
    options = torch.nn.LinearCrossEntropyOptions()
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "cross_entropy of all logits": lambda: cross_entropy(hidden @ weight.T, wanted),
        "torch linear_cross_entropy": lambda: linear_cross_entropy(hidden, weight, wanted, options=options),
        "chunked, fp32": lambda: ChunkedCrossEntropy.apply(hidden, weight, wanted, False),
        "chunked, bf16": lambda: ChunkedCrossEntropy.apply(hidden, weight, wanted, True),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(8):
        for name, way in ways.items():
            began = time.process_time()
            way().backward()  # type: ignore[no-untyped-call]
            spent[name].append(1000 * (time.process_time() - began))
    table(("output layer, 1,024 tokens", "ms"), [(name, f"{median(s[1:]):.1f}") for name, s in spent.items()])


def quality(seconds: float, keep: Path | None) -> None:
    """Print bits per byte after equal CPU seconds: the Trainer at its best rate against the loop."""
    known: dict[str, list[float]] = json.loads(keep.read_text()) if keep and keep.exists() else {}
    windows, held_out = corpus()

    def kept(key: str, make: Callable[[], tuple[torch.nn.Module, float, float]]) -> list[float]:
        if key not in known:
            net, spent, tokens = make()
            known[key] = [bits_per_byte(net, held_out), spent, tokens]
            if keep:
                keep.write_text(json.dumps(known))
        return known[key]

    def theirs(seed: int, rate: float | None) -> tuple[torch.nn.Module, float, float]:
        first, second = (run_trainer(steps, seed, rate)[1] for steps in (3, 13))
        steps = int(seconds / ((second - first) / 10))
        net, spent = run_trainer(steps, seed, rate)
        return net, spent, steps * BATCH * CONTEXT

    def ours(seed: int, precision: Precision) -> tuple[torch.nn.Module, float, float]:
        net, began = model(seed), time.process_time()
        recipe = Recipe(tokens=10**8, batch=BATCH, seed=seed, precision=precision, core_minutes=seconds / 60)
        run = train(net, windows, recipe)
        return net, time.process_time() - began, run.tokens

    label = f"{seconds:g} s"
    tuned = {rate: kept(f"{label} trainer {rate} 0", lambda rate=rate: theirs(0, rate)) for rate in RATES}  # type: ignore[misc]
    best = min(RATES, key=lambda rate: tuned[rate][0])
    table(
        ("AdamW rate", "bits per byte", "CPU s", "tokens"),
        [(f"{rate:g}", f"{v[0]:.3f}", f"{v[1]:.0f}", f"{v[2]:.0f}") for rate, v in tuned.items()],
    )
    ways: dict[str, Callable[[int], list[float]]] = {
        f"Trainer, AdamW {best:g}": lambda s: kept(f"{label} trainer {best} {s}", lambda: theirs(s, best)),
        "Trainer, torch Muon": lambda s: kept(f"{label} trainer muon {s}", lambda: theirs(s, None)),
        "loop, fp32": lambda s: kept(f"{label} fp32 {s}", lambda: ours(s, "fp32")),
        "loop, auto": lambda s: kept(f"{label} auto {s}", lambda: ours(s, "auto")),
    }
    found = {name: [way(seed) for seed in SEEDS] for name, way in ways.items()}
    reference = mean(v[0] for v in found[f"Trainer, AdamW {best:g}"])
    table(
        ("way", *(f"seed {seed}" for seed in SEEDS), "mean", "of the Trainer's", "CPU s", "tokens"),
        [
            (
                name,
                *(f"{v[0]:.3f}" for v in values),
                f"{mean(v[0] for v in values):.3f}",
                f"{mean(v[0] for v in values) / reference:.3f}",
                f"{mean(v[1] for v in values):.0f}",
                f"{mean(v[2] for v in values):.0f}",
            )
            for name, values in found.items()
        ],
    )


def memory() -> None:
    """Print the growth of the process' memory while it trains from shards of two sizes, each in its own process."""
    rows = []
    for windows in (20_000, 400_000):
        command = [sys.executable, "-m", "benchmarks.training", "one-size", "--windows", str(windows)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    names = ("windows", "corpus MiB", "model and optimiser MiB", "grown by MiB", "beyond both MiB")
    table(names, [tuple(f"{row[name]:.0f}" for name in names) for row in rows])


def one_size(count: int) -> None:
    """Train ten steps from shards of a size and print the memory as JSON."""
    net = model(0)
    size = sum(p.numel() for p in net.parameters()) * 4
    with tempfile.TemporaryDirectory() as folder:
        lake, rng = Lake(Path(folder)), np.random.default_rng(0)
        schema = {"domain": pa.string(), "split": pa.string(), "n_bytes": pa.int64()}

        def tables() -> Any:
            for _ in range(0, count, 10_000):
                tokens = pa.array(rng.integers(0, VOCABULARY, 10_000 * (CONTEXT + 1), dtype=np.uint16))
                yield pa.table(
                    {
                        "domain": ["base"] * 10_000,
                        "split": ["train"] * 10_000,
                        "tokens": pa.FixedSizeListArray.from_arrays(tokens, CONTEXT + 1),
                        "n_bytes": pa.array(np.full(10_000, CONTEXT), schema["n_bytes"]),
                    }
                )

        ref = lake.write("preprocessing/shards", tables())
        pa.default_memory_pool().release_unused()
        before = _rss_mib()
        stored = store_windows(lake, ref, "base", "train", Path(folder) / "windows")
        train(net, stored, Recipe(tokens=10 * BATCH * CONTEXT, batch=BATCH))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    own = 3 * size / MIB  # weights are there before; gradients and the states of Muon and AdamW come
    sys.stdout.write(
        json.dumps(
            {
                "windows": count,
                "corpus MiB": count * (CONTEXT + 1) * 2 / MIB,
                "model and optimiser MiB": own,
                "grown by MiB": grown,
                "beyond both MiB": grown - own,
            }
        )
    )


def _rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    sys.stdout.write("\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, in a process with the malloc settings of a run's workers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["speed", "quality", "memory"])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training of `quality`")
    parser.add_argument("--keep", type=Path, help="file of finished trainings of `quality`")
    parser.add_argument("--windows", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    prefix = "distributed.nanny.pre-spawn-environ."
    malloc = {name.removeprefix(prefix): str(value) for name, value in DASK.items() if name.startswith(prefix)}
    if not malloc.items() <= os.environ.items():
        os.environ |= {**malloc, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.training", *(sys.argv[1:] if arguments is None else arguments)]
        sys.exit(subprocess.run(command, check=False).returncode)
    torch.set_num_threads(1)
    loop.SAID_S = float("inf")
    for what in given.what:
        if what == "quality":
            quality(given.seconds, given.keep)
        elif what == "one-size":
            one_size(given.windows)
        else:
            {"speed": speed, "memory": memory}[what]()


if __name__ == "__main__":
    main()

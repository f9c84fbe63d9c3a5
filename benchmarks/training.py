"""The training loop against the `transformers` Trainer: `python -m benchmarks.training [WHAT ...] [--write]`.

`speed` times the same step of both in turns, `quality` trains both for the same CPU seconds at the size of the demo
profile on the shipped corpus, `memory` trains from shards of two sizes, `workers` trains on one and on two Dask
workers. All run with the malloc settings of a run's workers and one thread; seconds are CPU seconds of the process,
those of `workers` pass on the clock. `--write` puts the tables into `docs/stages/training.md`.

`quality` takes about twenty minutes. It makes as many steps as the CPU seconds cover at the rates that `speed`
measured, so that other work on the machine changes how long it takes and not what it finds; `--keep FILE` stores rates,
finished trainings, and checkpoints of the loop's beside it, so that a rerun goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import cross_entropy, linear_cross_entropy
from transformers import LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

from benchmarks.kept import Kept
from benchmarks.page import write_part
from infra.compute import DASK
from infra.lake import Lake
from tasks.architecture.config import build_model, shape_of_dial
from tasks.model.recipe import Precision, Recipe
from tasks.model.score import bits_per_byte
from tasks.model.training import loop
from tasks.model.training.checkpoint import Place
from tasks.model.training.loop import batch_rows, make_optimizers, train
from tasks.model.training.loss import ChunkedCrossEntropy
from tasks.model.training.peers import GlooPeers, open_store
from tasks.model.windows import Windows, store_windows, token_bytes
from tasks.preprocessing.bpe import train_bpe
from tasks.preprocessing.pack import Packer
from tasks.text.samples import sample_documents

CONTEXT, VOCABULARY, BATCH = 128, 4096, 8
RATES = (7e-4, 1.5e-3, 3e-3, 6e-3)  # of AdamW; the best should be none of the outer ones
SEEDS = (0, 1, 2)
HELD_OUT = 10  # every tenth document
MIB = 2**20
LARGE = (8, VOCABULARY)  # depth and vocabulary of a model whose step takes about a second
STEP = 4096  # its tokens
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "training.md"


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


@dataclass(frozen=True)
class Peer:
    """A way to use the Trainer: AdamW at a rate or Muon (rate None), in fp32 or with its own bf16 switch."""

    rate: float | None = RATES[1]
    bf16: bool = False


def trainer(net: LlamaForCausalLM, windows: Windows, steps: int, seed: int, peer: Peer, folder: str) -> Trainer:
    """Return the plain Trainer."""
    rows = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in windows.tokens]
    arguments = TrainingArguments(
        output_dir=folder, use_cpu=True, max_steps=steps, per_device_train_batch_size=BATCH,
        learning_rate=peer.rate or 1.0, bf16=peer.bf16, lr_scheduler_type="linear", warmup_steps=max(1, steps // 20),
        max_grad_norm=1.0, adam_beta2=0.95, seed=seed,
        logging_steps=10**9, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    given: dict[str, Any] = {}
    if peer.rate is None:
        both = Both(net)

        def share(step: int) -> float:
            return min((step + 1) / max(1, steps // 20), max(0.0, (steps - step) / max(1, steps)))

        given["optimizers"] = (both, torch.optim.lr_scheduler.LambdaLR(both, share))
    return Trainer(model=net, args=arguments, train_dataset=rows, **given)  # type: ignore[arg-type]


def run_trainer(steps: int, seed: int, peer: Peer) -> tuple[LlamaForCausalLM, float]:
    """Train with the Trainer; return the model and the CPU seconds."""
    net, (windows, _) = model(seed), corpus()
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(net, windows, steps, seed, peer, folder)
        made.remove_callback(PrinterCallback)
        began = time.process_time()
        made.train()
    return net, time.process_time() - began


PEERS = {"Trainer, AdamW": Peer(), "Trainer, torch Muon": Peer(None), "Trainer, AdamW, bf16": Peer(bf16=True)}
OURS: dict[str, Precision] = {"loop, fp32": "fp32", "loop, auto": "auto"}
BEFORE = "loop before (whole logits, fp32)"


def speed() -> tuple[str, dict[str, float]]:
    """Time the Trainer, the loop before, and the loop now, in turns.

    Returns:
        a table, and tokens per CPU second by way.
    """
    windows, _ = corpus()
    nets = {name: model(0) for name in (BEFORE, *OURS)}
    owners = make_optimizers(nets[BEFORE], Recipe(tokens=1))

    def before(steps: int) -> None:
        net = nets[BEFORE].train()
        for step in range(steps):
            tokens = torch.from_numpy(windows.tokens[batch_rows(len(windows), BATCH, step, 0)])
            for optimizer in owners.values():
                optimizer.zero_grad(set_to_none=True)
            logits = net(input_ids=tokens[:, :-1], use_cache=False).logits
            cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            for optimizer in owners.values():
                optimizer.step()

    ways: dict[str, Callable[[int], object]] = {
        **{name: partial(run_trainer, seed=0, peer=peer) for name, peer in PEERS.items()},
        BEFORE: before,
        **{
            name: lambda steps, name=name, precision=precision: train(  # type: ignore[misc]
                nets[name], windows, Recipe(tokens=10**9, steps=steps, batch=BATCH, precision=precision)
            )
            for name, precision in OURS.items()
        },
    }
    few, many = 2, 14
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(6):
        for name, way in ways.items():
            spent = []
            for steps in (few, many):  # the difference leaves out what a training costs once
                began = time.process_time()
                way(steps)
                spent.append(time.process_time() - began)
            if turn:
                rates[name].append((many - few) * BATCH * CONTEXT / (spent[1] - spent[0]))
    found = {name: median(values) for name, values in rates.items()}
    made = table(
        ("way", "tokens per CPU s", "least to most", "of the Trainer's", "of the loop before"),
        [
            (
                name,
                f"{found[name]:,.0f}",
                f"{min(values):,.0f} to {max(values):,.0f}",
                f"{found[name] / found['Trainer, AdamW']:.2f}",
                f"{found[name] / found[BEFORE]:.2f}",
            )
            for name, values in rates.items()
        ],
    )
    return f"{made}\n{heads()}", found


def heads() -> str:
    """Return the milliseconds of the output layer's loss and gradients in each form, in turns."""
    hidden = torch.randn(BATCH * CONTEXT, 128, requires_grad=True)
    weight = (0.05 * torch.randn(VOCABULARY, 128)).requires_grad_()
    wanted = torch.randint(0, VOCABULARY, (len(hidden),))
    options = torch.nn.LinearCrossEntropyOptions()
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "cross_entropy of all logits": lambda: cross_entropy(hidden @ weight.T, wanted),
        "torch linear_cross_entropy": lambda: linear_cross_entropy(hidden, weight, wanted, options=options),
        "chunked, fp32": lambda: ChunkedCrossEntropy.apply(hidden, weight, wanted, False, len(wanted)),
        "chunked, bf16": lambda: ChunkedCrossEntropy.apply(hidden, weight, wanted, True, len(wanted)),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(8):
        for name, way in ways.items():
            began = time.process_time()
            way().backward()  # type: ignore[no-untyped-call]
            spent[name].append(1000 * (time.process_time() - began))
    return table(("output layer, 1,024 tokens", "ms"), [(name, f"{median(s[1:]):.1f}") for name, s in spent.items()])


def quality(
    seconds: float, rates: dict[str, float], kept: Kept, only: Sequence[str], seeds: Sequence[int] = SEEDS
) -> str:
    """Return the bits per byte after equal CPU seconds: the Trainer at its best rate against the loop.

    Ways beside `only` and seeds beside `seeds` are not trained; what earlier calls have trained is in the table.
    """
    windows, held_out = corpus()

    def steps(way: str) -> int:
        return int(seconds * rates[way] / (BATCH * CONTEXT))

    def trained(way: str, seed: int, key: str, make: Callable[[], tuple[torch.nn.Module, float]]) -> list[float]:
        def measured() -> list[float]:
            net, spent = make()
            return [bits_per_byte(net, held_out), spent]

        name = f"{seconds:g} s {way} {key}"
        wanted = (not only or way in only) and seed in seeds
        if not wanted and name not in kept.found:
            return [math.nan, math.nan]
        found: list[float] = kept.cell(name, measured)
        return found

    def theirs(way: str, peer: Peer, seed: int) -> list[float]:
        return trained(way, seed, f"{peer.rate} {seed}", lambda: run_trainer(steps(way), seed, peer))

    def ours(way: str, precision: Precision, seed: int) -> list[float]:
        def make() -> tuple[torch.nn.Module, float]:
            net = model(seed)
            recipe = Recipe(
                tokens=10**9, steps=steps(way), batch=BATCH, seed=seed, precision=precision, checkpoint_every=40
            )
            place = kept.path and Place(Lake(kept.path.with_suffix(".lake")), f"benchmark/{precision}_{seed}")
            run = train(net, windows, recipe, checkpoint=place or None)
            if place:
                place.clear()
            return net, run.tokens / run.tokens_per_cpu_s

        return trained(way, seed, f"{seed}", make)

    plain = next(iter(PEERS))
    tuned = {rate: theirs(plain, Peer(rate), 0) for rate in RATES}
    best = min(RATES, key=lambda rate: tuned[rate][0])
    tuning = table(("AdamW rate", "bits per byte"), [(f"{rate:g}", figure(v[0])) for rate, v in tuned.items()])
    found = {
        **{
            way: [theirs(way, Peer(peer.rate and best, peer.bf16), seed) for seed in SEEDS]
            for way, peer in PEERS.items()
        },
        **{way: [ours(way, precision, seed) for seed in SEEDS] for way, precision in OURS.items()},
    }
    found = {way: values for way, values in found.items() if np.isfinite([v[0] for v in values]).any()}
    first = np.array([v[0] for v in found[plain]]) if plain in found else np.full(len(SEEDS), math.nan)
    rows = []
    for way, values in found.items():
        lost, spent = np.array(values).T
        both = np.isfinite(lost) & np.isfinite(first)
        rows.append(
            (
                way,
                f"{steps(way) * BATCH * CONTEXT:,}",
                *map(figure, lost),
                f"{np.nanmean(lost):.3f}",
                f"{lost[both].mean() / first[both].mean():.3f}" if both.any() else "-",
                f"{np.nanmean(spent):.0f}",
            )
        )
    header = ("way", "tokens", *(f"seed {s}" for s in SEEDS), "mean", "of the Trainer's", "CPU s of these trainings")
    return f"{tuning}\n{table(header, rows)}"


def figure(value: float) -> str:
    """Return bits per byte, or that they were not measured."""
    return f"{value:.3f}" if math.isfinite(value) else "not run"


def memory() -> str:
    """Return the growth of the process' memory while it trains from shards of two sizes, each in its own process."""
    rows = []
    for windows in (20_000, 400_000):
        command = [sys.executable, "-m", "benchmarks.training", "one-size", "--windows", str(windows)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    names = ("windows", "corpus MiB", "model and optimiser MiB", "grown by MiB", "beyond both MiB")
    return table(names, [tuple(f"{row[name]:,.0f}" for name in names) for row in rows])


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


def workers() -> str:
    """Return the tokens a second of one and of two Dask workers that train one model, in turns.

    Two trainings of their own at the same time say how much of a second core the machine has. CPU seconds a token
    depend less than the clock on other work on the machine.
    """
    import dask
    import distributed

    shape = shape_of_dial(*LARGE, CONTEXT)
    with (
        dask.config.set(DASK),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,  # type: ignore[no-untyped-call]
        distributed.Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        places = sorted(client.scheduler_info(n_workers=-1)["workers"])

        def at_once(count: int, together: bool) -> tuple[float, float]:
            """Return tokens a second and CPU seconds a token of a training, or of all where each has its own."""
            store = open_store("127.0.0.1", 60)
            world = count if together else 1
            futures = [
                client.submit(_share, store.port, rank, world, workers=[place], allow_other_workers=False, pure=False)
                for rank, place in enumerate(places[:count])
            ]
            speeds, costs = zip(*client.gather(futures), strict=True)
            return (min(speeds), sum(costs)) if together else (sum(speeds), mean(costs))

        ways = {
            "one worker": partial(at_once, 1, together=False),
            "two workers, one model": partial(at_once, 2, together=True),
            "two workers, a model each": partial(at_once, 2, together=False),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(4):
            for name, way in ways.items():
                measured = way()
                if turn:
                    found[name].append(measured)
    one = found["one worker"]

    def of_one(values: list[tuple[float, float]], column: int) -> str:
        ratios = [mine[column] / its[column] for mine, its in zip(values, one, strict=True)]
        return f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"

    return table(
        (
            f"{shape.parameters / 1e6:.1f} M weights, steps of {STEP:,} tokens",
            "tokens/s",
            "of one",
            "CPU s a token, of one",
        ),
        [
            (name, f"{median(v[0] for v in values):,.0f}", of_one(values, 0), of_one(values, 1))
            for name, values in found.items()
        ],
    )


def _share(port: int, rank: int, world: int) -> tuple[float, float]:
    """Train as one of some processes in a Dask worker.

    Returns:
        tokens a second of the whole training, and CPU seconds that this process takes for one of its tokens.
    """
    loop.SAID_S = float("inf")
    net = build_model(shape_of_dial(*LARGE, CONTEXT), 0, 0)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (STEP // CONTEXT, CONTEXT + 1))
    windows = Windows(tokens, np.full(len(tokens), CONTEXT))
    recipe = Recipe(tokens=3 * STEP, batch=len(tokens), parts=world, precision="auto")
    peers = GlooPeers(open_store("127.0.0.1", 60, port), rank, world) if world > 1 else None
    run = train(net, windows, recipe, peers=peers)
    return run.tokens_per_s, 1 / run.tokens_per_cpu_s


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_worker(module: str, arguments: Sequence[str] | None) -> None:
    """Go on with one thread and the malloc settings of a run's workers, in a new process unless this one has them."""
    prefix = "distributed.nanny.pre-spawn-environ."
    malloc = {name.removeprefix(prefix): str(value) for name, value in DASK.items() if name.startswith(prefix)}
    if not malloc.items() <= os.environ.items():
        os.environ |= {**malloc, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", module, *(sys.argv[1:] if arguments is None else arguments)]
        sys.exit(subprocess.run(command, check=False).returncode)
    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, in a process with the malloc settings of a run's workers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["speed", "quality", "memory", "workers"])
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training of `quality`")
    parser.add_argument("--keep", type=Path, help="file of rates and finished trainings")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no measurement that is kept begins later")
    parser.add_argument("--only", action="append", default=[], help="way that `quality` trains; may be repeated")
    parser.add_argument("--seed", action="append", type=int, default=[], help="the same by seed")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/stages/training.md")
    parser.add_argument("--windows", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    as_worker("benchmarks.training", arguments)
    loop.SAID_S = float("inf")
    if given.what == ["one-size"]:
        one_size(given.windows)
        return
    kept = Kept.at(given.keep, given.minutes)
    ways: dict[str, Callable[[], str]] = {
        "speed": lambda: str(kept.cell("speed", speed)[0]),
        "quality": lambda: quality(given.seconds, kept.cell("speed", speed)[1], kept, given.only, given.seed or SEEDS),
        "memory": memory,
        "workers": workers,
    }
    for what in given.what:
        made = ways[what]()
        sys.stdout.write(f"\n{made}")
        sys.stdout.flush()
        if given.write:
            write_part(PAGE, f"training {what}", made)


if __name__ == "__main__":
    main()

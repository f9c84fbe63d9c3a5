"""What each engine writes on this machine: `python -m benchmarks.engines MODEL [MODEL ...]`.

MODEL is a folder in the transformers format, a plain Llama, or `demo`: one of the size that `ketcycle run` trains by
default, with 1.3 million random weights, width 128, 4 blocks and a vocabulary of 4,096. Every engine continues the same
prompts of 32 tokens by 64 greedily, without end, on one thread and in a process of its own, `--rounds` times, the
engines in turns; reading the prompts counts, loading does not. An engine whose package is not installed is left out and
named. Joules are modelled from CPU time and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

PROMPT, TOKENS = 32, 64
STREAMS = (1, 16)
ENGINES = {
    "ours": "torch",
    "ours bf16": "torch",
    "ours int8": "torch",
    "transformers.generate": "transformers",
    "llama.cpp fp32": "xllamacpp",
    "ctranslate2 fp32": "ctranslate2",
    "ctranslate2 int8": "ctranslate2",
}
Run = Callable[[Sequence[Sequence[int]]], int]


def make_demo(folder: Path) -> Path:
    """Write a model of the size of the demo; its tokenizer is trained on this repository."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.model.causal import save_model
    from tasks.preprocessing.bpe import save_tokenizer, train_bpe

    torch.manual_seed(0)
    folder.mkdir()
    texts = [path.read_text() for path in sorted(Path(__file__).parents[1].joinpath("tasks").rglob("*.py"))]
    tokenizer = train_bpe(iter(texts), 4096)
    save_tokenizer(tokenizer, folder, 256)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.2,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    save_model(LlamaForCausalLM(config), folder)
    return folder


def ours(folder: Path, form: str, tokens: int) -> Run:
    from tasks.model.causal import load_model, load_tokenizer
    from tasks.model.generation.generate import Sampling, Texts

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = Texts(model, tokenizer, max(STREAMS), form=form)
    texts._ends = frozenset()

    def run(prompts: Sequence[Sequence[int]]) -> int:
        for prompt in prompts:
            texts.add(prompt, Sampling(max_tokens=tokens))
        written = 0
        while texts.open:
            written += len(texts.draw())
            texts.advance()
        return written

    return run


def transformers(folder: Path, tokens: int) -> Run:
    import torch

    from tasks.model.causal import load_model

    model = load_model(folder)

    def run(prompts: Sequence[Sequence[int]]) -> int:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor(prompts), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        return int((out.shape[1] - len(prompts[0])) * len(prompts))

    return run


def llama_cpp(folder: Path, scratch: Path, tokens: int) -> Run:
    import xllamacpp

    from tasks.serving.gateway.gguf_export import export

    file = export(folder, scratch / "model.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_parallel = max(STREAMS)
    params.n_ctx = 2 * (PROMPT + tokens) * max(STREAMS)
    server = xllamacpp.Server(params)

    def one(prompt: Sequence[int]) -> int:
        asked = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "ignore_eos": True}
        return int(server.handle_completions({**asked, "cache_prompt": False})["usage"]["completion_tokens"])

    def run(prompts: Sequence[Sequence[int]]) -> int:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(one, prompts))

    return run


def ctranslate2(folder: Path, scratch: Path, compute: str, tokens: int) -> Run:
    import ctranslate2 as engine

    from tasks.model.causal import load_tokenizer

    engine.converters.TransformersConverter(str(folder)).convert(str(scratch / "converted"), force=True)
    generator = engine.Generator(str(scratch / "converted"), compute_type=compute, inter_threads=1, intra_threads=1)
    tokenizer = load_tokenizer(folder)

    def run(prompts: Sequence[Sequence[int]]) -> int:
        given = [tokenizer.convert_ids_to_tokens(list(prompt)) for prompt in prompts]
        results = generator.generate_batch(
            given, max_length=tokens, min_length=tokens, include_prompt_in_result=False, max_batch_size=0
        )
        return sum(len(result.sequences_ids[0]) for result in results)

    return run


def serve(engine: str, folder: Path, scratch: Path, tokens: int) -> None:
    """Write what each of the asked runs took, one line of JSON for each line read: the number of streams."""
    import numpy as np
    import psutil
    import torch

    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an engine prints itself goes to the log
    torch.set_num_threads(1)
    name, _, form = engine.partition(" ")
    makers: dict[str, Callable[[], Run]] = {
        "ours": lambda: ours(folder, form or "fp32", tokens),
        "transformers.generate": lambda: transformers(folder, tokens),
        "llama.cpp": lambda: llama_cpp(folder, scratch, tokens),
        "ctranslate2": lambda: ctranslate2(folder, scratch, {"fp32": "float32", "int8": "int8"}[form], tokens),
    }
    run = makers[name]()
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(0).integers(3, size, (max(STREAMS), PROMPT)).tolist()
    process = psutil.Process()
    run(ids[:2])  # what is made at the first run does not count
    print("ready", file=results, flush=True)
    for line in sys.stdin:
        cpu, began = time.process_time(), time.perf_counter()
        written = run(ids[: int(line)])
        took = {"tokens": written, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        print(json.dumps({**took, "rss_gb": 1e-9 * process.memory_info().rss}), file=results, flush=True)


@contextmanager
def engine_process(name: str, folder: Path, tokens: int) -> Iterator[Callable[[int], dict[str, float]] | None]:
    """Start an engine; yield what measures a run of so many streams, None where it does not take the model."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engines", str(folder), "--engine", name, "--scratch", scratch,
                 "--tokens", str(tokens)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment,
            )  # fmt: skip
        said, out = process.stdin, process.stdout
        assert said is not None
        assert out is not None

        def measure(streams: int) -> dict[str, float]:
            said.write(f"{streams}\n")
            said.flush()
            found: dict[str, float] = json.loads(out.readline())
            return found

        try:
            started = out.readline()
            if not started:
                print(f"{name} does not take {folder.name}: {log.read_text().strip().splitlines()[-1]}")
            yield measure if started else None
        finally:
            said.close()
            process.wait(60)


def compare(folder: Path, engines: Sequence[str], rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Return the medians of each engine and number of streams; all engines stand ready and run in turns."""
    from infra.energy.model import Coefficients
    from infra.energy.usage import Usage

    coefficients, rows = Coefficients.load(), []
    with ExitStack() as stack:
        started = [(name, stack.enter_context(engine_process(name, folder, tokens))) for name in engines]
        ready = [(name, measure) for name, measure in started if measure]
        for streams in STREAMS:
            turns = [[measure(streams) for _, measure in ready] for _ in range(rounds)]
            for (name, _), runs in zip(ready, zip(*turns, strict=True), strict=True):
                middle = sorted(runs, key=lambda run: run["tokens"] / run["cpu_s"])[len(runs) // 2]
                usage = Usage(cpu_s=middle["cpu_s"], rss_gb_s=middle["rss_gb"] * middle["wall_s"])
                energy = coefficients.cpu_energy_j(usage.scaled(1000 / middle["tokens"]))
                rows.append(
                    {
                        "model": folder.name, "engine": name, "streams": streams,
                        "tokens_per_cpu_s": median(run["tokens"] / run["cpu_s"] for run in runs),
                        "tokens_per_s": median(run["tokens"] / run["wall_s"] for run in runs),
                        "joules_per_1000": energy.p50, "joules_p5": energy.p5, "joules_p95": energy.p95,
                        "rss_gb": middle["rss_gb"],
                    }
                )  # fmt: skip
                print(table(rows[-1:]), flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as lines of a Markdown table."""
    return "\n".join(
        f"| {row['model']} | {row['streams']} | {row['engine']} | {row['tokens_per_cpu_s']:,.0f} | "
        f"{row['tokens_per_s']:,.0f} | {row['joules_per_1000']:.1f} "
        f"[{row['joules_p5']:.1f}, {row['joules_p95']:.1f}] | {row['rss_gb']:.2f} |"
        for row in rows
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--engines", default=",".join(ENGINES), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="written by each stream")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve(options.engine, options.models[0].absolute(), options.scratch, options.tokens)
        return
    asked = options.engines.split(",")
    there = [name for name in asked if find_spec(ENGINES[name])]
    print("left out, not installed: " + (", ".join(name for name in asked if name not in there) or "none"))
    print("| model | streams | engine | tokens per CPU s | tokens per s | J per 1,000 tokens, modelled | GB |")
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            folder = make_demo(Path(scratch) / "demo") if str(model) == "demo" else model.absolute()
            compare(folder, there, options.rounds, options.tokens)


if __name__ == "__main__":
    main()

"""The completion server under load: batching against one prompt at a time, the log against none.

All ways are served by processes of their own, on the same prompts, in turns; the client is not metered.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import httpx
import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infra.energy.model import Coefficients
from infra.energy.usage import Usage
from tasks.model.causal import save_model
from tasks.preprocessing.bpe import save_tokenizer, train_bpe
from tasks.serving.client import complete, running_server
from tasks.text.samples import sample_documents

ROUNDS = 3
REQUESTS, CLIENTS, TOKENS, WORDS = 32, 16, 48, 48
SIZES = {
    "0.5 M weights": {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 3},
    "6 M weights": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 7, "num_attention_heads": 4},
}
WAYS = {"batched": [], "one at a time": ["--rows", "1"], "batched, no log": ["--no-log"]}


def main() -> None:
    """Print a table for each size of model."""
    texts = [text for _, text in sample_documents("base")]
    prompts = [" ".join(text.split()[:WORDS]) for text in texts if len(text.split()) >= WORDS][:REQUESTS]
    tokenizer = train_bpe(iter(texts), 1024)
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            save_tokenizer(tokenizer, model, 512)
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=1024, max_position_embeddings=512, num_key_value_heads=size["num_attention_heads"],
                tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, **size,
            )  # fmt: skip
            save_model(LlamaForCausalLM(config), model)
            _compare(name, model, Path(folder), prompts)


def _compare(name: str, model: Path, folder: Path, prompts: Sequence[str]) -> None:
    figures: dict[str, list[tuple[float, Usage, int]]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        urls = {
            way: stack.enter_context(running_server(model, folder / str(i), "load", options=options))
            for i, (way, options) in enumerate(WAYS.items())
        }
        for url in urls.values():
            _load(url, prompts[:8])  # what is made at the first request does not count
        for _ in range(ROUNDS):
            for way, url in urls.items():
                figures[way].append(_load(url, prompts))
    sys.stdout.write(
        f"{name}: {REQUESTS} requests of {WORDS} words, {TOKENS} tokens each, {CLIENTS} clients; median of {ROUNDS}\n"
        f"{'':16s} {'tokens/s':>9s} {'CPU-s / 1,000 tokens':>21s} {'J / 1,000 tokens, modelled [5 %, 95 %]':>40s}\n"
    )
    for way, rounds in figures.items():
        speed = median(tokens / seconds for seconds, _, tokens in rounds)
        usages = sorted((usage.scaled(1000 / tokens) for _, usage, tokens in rounds), key=lambda usage: usage.cpu_s)
        middle = usages[len(usages) // 2]
        energy = Coefficients.load().cpu_energy_j(middle)
        band = f"{energy.p50:.2f} [{energy.p5:.2f}, {energy.p95:.2f}]"
        sys.stdout.write(f"{way:16s} {speed:9.0f} {middle.cpu_s:21.3f} {band:>40s}\n")
    for way, against, what in (("batched", "one at a time", "batching"), ("batched", "batched, no log", "the log")):
        pairs = list(zip(figures[way], figures[against], strict=True))
        faster = [(a[2] / a[0]) / (b[2] / b[0]) for a, b in pairs]
        dearer = [(a[1].cpu_s / a[2]) / (b[1].cpu_s / b[2]) for a, b in pairs]
        sys.stdout.write(
            f"{what}: throughput x {median(faster):.2f} [{min(faster):.2f}, {max(faster):.2f}], "
            f"CPU-s a token x {median(dearer):.2f} [{min(dearer):.2f}, {max(dearer):.2f}]\n"
        )


def _load(url: str, prompts: Sequence[str]) -> tuple[float, Usage, int]:
    """Return seconds, what the server's process used until its log was written, and the tokens of the answers."""
    process = _process(url)
    cpu, began = _cpu_s(process), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda prompt: complete(url, prompt, max_tokens=TOKENS, temperature=1.0), prompts))
    seconds = time.monotonic() - began
    while "ketcycle_log_rows_pending 0.0" not in httpx.get(f"{url}/metrics", trust_env=False).text:
        time.sleep(0.1)
    used = Usage(cpu_s=_cpu_s(process) - cpu, rss_gb_s=1e-9 * process.memory_info().rss * seconds)
    return seconds, used, sum(answer["usage"]["completion_tokens"] for answer in answers)


def _process(url: str) -> psutil.Process:
    port = int(url.rsplit(":", 1)[1])
    for process in psutil.Process().children():
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections()):
            return process
    raise LookupError(f"nothing of ours listens on {port}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

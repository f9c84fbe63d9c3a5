"""Near-duplicate removal by the shape of the corpus, and whole commands: CPU seconds of one core and peak memory.

    python -m benchmarks.dedup_shapes giant [--documents 1000,10000,100000]
    python -m benchmarks.dedup_shapes skew [--documents 50000]
    python -m benchmarks.dedup_shapes whole [--documents 200,20000] [--peers rensa]

`giant`: all documents are near-identical, one word of 228 differs. `skew`: half of the documents are near duplicates,
in components of five or of sizes that follow a power law (exponent 2, the largest a twentieth of the corpus), the same
number of words in both. `whole`: processes from start to end, imports included: the command `ketcycle stage curation
--corpus FILE --rules none --out DIR` in a new home, and the peer's script.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.dedup import ONE_CORE, PAGE, in_turns, make_corpus, peer_environment
from benchmarks.page import write_part

WORDS, CHANGED, VOCABULARY = 228, 3, 20_000
COMPONENT, SHARE, EXPONENT, LARGEST = 5, 0.5, 2.0, 20


def write(path: Path, texts: Iterator[str]) -> None:
    """Write texts as a Parquet file with ids."""
    schema, made = pa.schema([("doc_id", pa.string()), ("text", pa.string())]), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := [text for _, text in zip(range(5000), texts, strict=False)]:
            ids = [f"d{made + k}" for k in range(len(some))]
            writer.write_table(pa.table([ids, some], schema=schema))
            made += len(some)


def near_identical(documents: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of which each differs from a common one in one word."""
    rng = np.random.default_rng(seed)
    words = [f"w{k}" for k in rng.integers(VOCABULARY, size=WORDS)]
    for k in range(documents):
        at = int(rng.integers(WORDS))
        yield " ".join([*words[:at], f"x{k}", *words[at + 1 :]])


def component_sizes(documents: int, skewed: bool, rng: np.random.Generator) -> list[int]:
    """Return the sizes of components that hold half of the documents."""
    wanted, sizes = int(SHARE * documents), []
    while sum(sizes) < wanted:
        size = COMPONENT if not skewed else int(min(1 + rng.zipf(EXPONENT), documents // LARGEST))
        sizes.append(min(size, max(2, wanted - sum(sizes))))
    return sizes


def with_components(documents: int, skewed: bool, seed: int = 0) -> Iterator[str]:
    """Yield shuffled texts, half of them in components of near duplicates."""
    rng = np.random.default_rng(seed)
    owners = np.concatenate([np.full(size, k) for k, size in enumerate(component_sizes(documents, skewed, rng))])
    owners = rng.permutation(np.concatenate([owners[:documents], np.full(max(0, documents - len(owners)), -1)]))
    for owner in owners.tolist():
        own = rng if owner < 0 else np.random.default_rng(1_000_000 + owner)
        words = [f"w{k}" for k in own.integers(VOCABULARY, size=WORDS)]
        for at in rng.integers(WORDS, size=CHANGED if owner >= 0 else 0):
            words[at] = f"x{rng.integers(10**9)}"
        yield " ".join(words)


def measured(source: Path, target: Path) -> dict[str, float]:
    """Run ours in a process of its own, compiled code loaded before the clock starts."""
    command = [sys.executable, "-m", "benchmarks.dedup", "--run-ours", str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_CORE}, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def whole_cpu_s(command: Sequence[str], home: Path) -> float:
    """Return the CPU seconds of a command and its children, from start to end."""
    environment = {**os.environ, **ONE_CORE, "KETCYCLE_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read() if process.stderr else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(said[-2000:])
    return used.ru_utime + used.ru_stime


def giant(numbers: Sequence[int], folder: Path) -> Iterator[str]:
    """Yield the table of near-identical documents."""
    yield "| near-identical documents | CPU s | peak MiB | removed | pairs compared |\n|---|---|---|---|---|"
    for documents in numbers:
        path = folder / f"giant-{documents}.parquet"
        write(path, near_identical(documents))
        found = measured(path, folder / f"out-{documents}")
        facts = f"{found['peak_mb']:.0f} | {found['removed']:,.0f} | {found['checked']:,.0f}"
        yield f"| {documents:,} | {found['cpu_s']:.2f} | {facts} |"


def skew(numbers: Sequence[int], folder: Path, rounds: int) -> Iterator[str]:
    """Yield the table of a corpus with components of a power law beside one with components of five, in turns."""
    head = ("documents", "components", "CPU s", "peak MiB", "removed", "pairs compared", "ratio")
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for documents in numbers:
        paths = {name: folder / f"{name}-{documents}.parquet" for name in ("uniform", "power law")}
        for name, path in paths.items():
            write(path, with_components(documents, name == "power law"))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
        for k in range(rounds):
            for name, path in paths.items():
                runs[name].append(measured(path, folder / f"out-{name}-{documents}-{k}"))
        for name, found in runs.items():
            ratios = [one["cpu_s"] / other["cpu_s"] for one, other in zip(found, runs["uniform"], strict=True)]
            cpu_s, peak = median(one["cpu_s"] for one in found), max(one["peak_mb"] for one in found)
            facts = f"{found[0]['removed']:,.0f} | {found[0]['checked']:,.0f} | {in_turns(ratios)}"
            yield f"| {documents:,} | {name} | {cpu_s:.2f} | {peak:.0f} | {facts} |"


def whole(numbers: Sequence[int], folder: Path, peers: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield the table of whole processes, the command and the peers in turns; the first round stores compiled code."""
    yield "| documents | whole process | CPU s | ketcycle's against it |\n|---|---|---|---|"
    python = peer_environment(list(peers)) if peers else None
    script = str(Path(__file__).with_name("dedup_peers.py"))
    for documents in numbers:
        corpus = folder / f"corpus-{documents}.parquet"
        make_corpus(corpus, documents)
        rows, seconds = pq.read_metadata(corpus).num_rows, {name: list[float]() for name in ("ketcycle", *peers)}
        for k in range(rounds + 1):
            ours = [sys.executable, "-m", "flows.cli", "stage", "curation", "--corpus", str(corpus), "--rules", "none"]
            home = folder / f"home-{documents}-{k}"
            took = {"ketcycle": whole_cpu_s([*ours, "--out", str(home / "out"), "--home", str(home)], home)}
            for name in peers:
                target = folder / f"{name}-{documents}-{k}.parquet"
                took[name] = whole_cpu_s([str(python), "-P", script, name, "0", str(corpus), str(target)], home)
            for name, value in took.items() if k else ():
                seconds[name].append(value)
        for name, found in seconds.items():
            ratios = [mine / peer for mine, peer in zip(seconds["ketcycle"], found, strict=True)]
            yield f"| {rows:,} | {name} | {median(found):.2f} | {in_turns(ratios)} |"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("giant", "skew", "whole"))
    parser.add_argument("--documents", default="", help="comma-separated numbers of documents")
    parser.add_argument("--peers", default="rensa")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/curation.md")
    arguments = parser.parse_args()
    usual = {"giant": "1000,10000,100000", "skew": "50000", "whole": "200,20000"}[arguments.table]
    numbers = [int(number) for number in (arguments.documents or usual).split(",")]
    with tempfile.TemporaryDirectory() as name:
        match arguments.table:
            case "giant":
                lines = giant(numbers, Path(name))
            case "skew":
                lines = skew(numbers, Path(name), arguments.rounds)
            case _:
                lines = whole(numbers, Path(name), [p for p in arguments.peers.split(",") if p], arguments.rounds)
        made = []
        for line in lines:
            print(line, flush=True)
            made.append(line)
    if arguments.write:
        write_part(PAGE, f"dedup {arguments.table}", "\n".join(made))


if __name__ == "__main__":
    main()

"""Near-duplicate removal side by side with its peers, Parquet in to filtered Parquet out, in CPU seconds on one core.

    python -m benchmarks.dedup [--documents 100000] [--peers rensa,datasketch] [--rounds 3]

The corpus is made here: passages of real files (sources and documentation of the installed Python packages), a tenth
of them with recorded edits. Every contender runs in a process of its own, in turns; the peers live in an environment
of their own and run as their documentation shows, and once more with their own verification switched on. What each
of them removed is scored against the exact all-pairs truth (prefix filter, Bayardo et al., WWW 2007): a removal is
right if the document has a near duplicate that is kept, and a pair of near duplicates that are both kept is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

THRESHOLD, WORDS, PERMUTATIONS = 0.7, 5, 128
SHARD_BYTES = 32 * 2**20
BYTES_PER_TOKEN, USD_PER_CORE_H = 4, 0.04
ENVIRONMENT = Path(".ketcycle-peers")
PEERS = {"rensa": ("rensa==0.5.0", "pyarrow"), "datasketch": ("datasketch==2.0.0", "pyarrow")}
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("doc_id", "source", "text", "parent", "edit")] + [("level", pa.float64())]
)
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS"), "1")


def passages(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield (source, passage): real files cut at line ends into pieces of log-normal length, in a fixed order."""
    root = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".rst", ".txt", ".md")):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        source, at = path.relative_to(root).parts[0], 0
        while at < len(text):
            end = min(len(text), at + int(np.clip(rng.lognormal(7.3, 0.6), 300, 20_000)))
            end = text.find("\n", end) + 1 or len(text)
            if len(text[at:end].split()) >= 40:
                yield source, text[at:end]
            at = end


def edited(text: str, rng: np.random.Generator) -> tuple[str, str, float]:
    """Return a copy of a passage with an edit, its name and its level."""
    words = text.split(" ")
    match int(rng.integers(4)):
        case 0:
            return text + " ", "exact", 0.0
        case 1:
            level = float(rng.uniform(0.005, 0.06))
            for at in np.flatnonzero(rng.random(len(words)) < level):
                words[at] = f"w{rng.integers(10_000)}"
            return " ".join(words), "words", level
        case 2:
            level = float(rng.uniform(0.05, 0.4))
            lines = [line for line in text.splitlines(keepends=True) if rng.random() > level]
            return "".join(lines), "lines dropped", level
        case _:
            level = float(rng.uniform(0.05, 0.6))
            boiler = " ".join(f"notice{k}" for k in range(int(level * len(words))))
            return f"{boiler} {text}", "boilerplate", level


def make_corpus(path: Path, documents: int, seed: int = 0) -> str:
    """Write the corpus, shuffled in blocks, and return its digest."""
    rng = np.random.default_rng(seed)
    found, digest = passages(rng), hashlib.sha256()
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        made, rows = 0, []
        while made < documents:
            source, text = next(found, ("", ""))
            if not text:
                break
            doc_id = f"d{made:07d}"
            rows.append((doc_id, source, text, "", "", 0.0))
            if rng.random() < 0.1:
                for copy in range(int(min(60, rng.zipf(2.0)))):
                    changed, name, level = edited(text, rng)
                    rows.append((f"{doc_id}-{copy}", source, changed, doc_id, name, level))
            made = int(rows[-1][0][1:8]) + 1
            if len(rows) >= 5000 or made >= documents:
                order = rng.permutation(len(rows))
                columns = list(zip(*(rows[k] for k in order), strict=True))
                table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
                digest.update("".join(columns[2]).encode())
                writer.write_table(table)
                rows = []
    return digest.hexdigest()[:16]


def ours(source: Path, target: Path) -> dict[str, float]:
    """Remove near duplicates: sketch, band join, exact Jaccard, weighted independent set, filtered copy."""
    from tasks.curation.corpus import Corpus
    from tasks.curation.near_duplicates import by_component, component_of
    from tasks.curation.removals import Plan
    from tasks.curation.search import find_edges
    from tasks.curation.shards import Index, Recipe, make_shard, plan_shards

    recipe, marks = Recipe(texts=False), [time.process_time()]
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        work, _ = plan_shards("base", [source], recipe, SHARD_BYTES)
        index = Index.open([make_shard(folder / "shards", item, recipe) for item in work], recipe)
        marks.append(time.process_time())
        found = find_edges(folder / "searches", index, recipe, THRESHOLD, folder, _one_after_another)
        marks.append(time.process_time())
        corpus, plan, edges = Corpus(index, found.first), Plan(0, 3), 0
        n_words = index.gather("n_words")
        for pairs, jaccard in by_component([found.path], component_of(index.size, [found.path]), folder):
            plan.decide(pairs, jaccard, n_words, corpus.name)
            edges += len(pairs)
        stays = np.ones(len(corpus.slots), bool)
        stays[corpus.copies()[0]] = False
        stays[corpus.documents[plan.removals()[0]]] = False
        marks.append(time.process_time())
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shuffled = index.size * recipe.bands * 16
    keep_and_write(source, target, stays)
    marks.append(time.process_time())
    parts = dict(zip(("sketch_s", "join_s", "decide_s", "write_s"), np.diff(marks).tolist(), strict=True))
    counts = {"removed": int((~stays).sum()), "edges": edges, "checked": found.checked, "shards": len(work)}
    return {**counts, **parts, "stored_bytes": stored, "shuffled_bytes": shuffled}


def _one_after_another(function: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
    return [function(item) for item in items]


def true_pairs(source: Path, folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the ids and all pairs of documents at or above the threshold, exactly.

    Two sets of similarity t share a shingle among the first n - ceil(t n) + 1 of each, in any common order; the
    rarest shingles come first.
    """
    import duckdb

    from tasks.curation.shingles import distinct, intersection_over_union, sketch

    ids: list[str] = []
    rows, values, ends = [], [], [np.zeros(1, np.int64)]
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["doc_id", "text"]):
            sketches = sketch(batch.column("text"))
            members, last = distinct(sketches.shingles, sketches.ends, np.arange(len(batch)))
            rows.append(np.repeat(np.arange(len(ids), len(ids) + len(batch)), np.diff(last, prepend=0)))
            values.append(members)
            ends.append(last + ends[-1][-1])
            ids += batch.column("doc_id").to_pylist()
    everything = np.concatenate(values)
    members = pa.table({"d": np.concatenate(rows), "s": everything})  # read by DuckDB
    with duckdb.connect(config={"threads": 1, "temp_directory": str(folder / "spill")}) as connection:
        query = f"""
            with f as (select s, count(*) c from members group by s),
            o as (select d, s, row_number() over (partition by d order by c, s) r, count(*) over (partition by d) n
                  from members join f using (s)),
            p as (select d, s from o where r <= n - ceil({THRESHOLD} * n) + 1)
            select distinct a.d i, b.d j from p a join p b on a.s = b.s and a.d < b.d"""  # noqa: S608
        found = connection.sql(query).to_arrow_table()
    pairs = np.column_stack([found.column(name).to_numpy() for name in "ij"]).astype(np.int64)
    return ids, pairs[intersection_over_union(everything, np.concatenate(ends)[1:], pairs, THRESHOLD) >= THRESHOLD]


def score(target: Path, ids: list[str], pairs: np.ndarray) -> dict[str, float]:
    """Return how right the removals are and how many near duplicates were left standing."""
    kept = set(pq.read_table(target, columns=["doc_id"]).column(0).to_pylist())
    stays = np.array([name in kept for name in ids])
    beside = np.zeros(len(ids), bool)  # has a near duplicate that is kept
    for a, b in ((0, 1), (1, 0)):
        np.logical_or.at(beside, pairs[:, a], stays[pairs[:, b]])
    gone = ~stays
    both = stays[pairs[:, 0]] & stays[pairs[:, 1]]
    precision = float((gone & beside).sum() / max(1, gone.sum()))
    return {"precision": precision, "recall": 1 - float(both.sum() / max(1, len(pairs)))}


def peak_mb() -> float:
    """Return the largest resident memory of this process; the kernel's other figure inherits the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def keep_and_write(source: Path, target: Path, stays: np.ndarray) -> None:
    """Copy the rows of a Parquet file that stay."""
    at = 0
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(batch_size=4096):
            writer.write_batch(batch.filter(pa.array(stays[at : at + len(batch)])))
            at += len(batch)


PEER = """
import json, re, sys, time
from collections import defaultdict
import pyarrow as pa, pyarrow.parquet as pq
kind, source, target, verify = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "1"
if kind == "rensa":
    from rensa import RMinHash, RMinHashLSH
else:
    from datasketch import MinHash, MinHashLSH
began = time.process_time()
ids, gone, word = [], set(), re.compile(r"\\w+")
def shingles(text):
    words = word.findall(text.lower())
    return {" ".join(words[k:k+5]) for k in range(max(1, len(words) - 4))}
if kind == "rensa":
    lsh = RMinHashLSH(threshold=.7, num_perm=128, num_bands=16)
else:
    lsh = MinHashLSH(params=(16, 8), num_perm=128)
kept = {}
with pq.ParquetFile(source) as file:
    for batch in file.iter_batches(batch_size=4096, columns=["doc_id", "text"]):
        for name, text in zip(batch.column("doc_id").to_pylist(), batch.column("text").to_pylist()):
            number = len(ids); ids.append(name)
            if kind == "rensa":
                sketch = RMinHash(num_perm=128, seed=42); sketch.update(list(shingles(text)))
            else:
                sketch = MinHash(num_perm=128); sketch.update_batch([s.encode() for s in shingles(text)])
            found = lsh.query(sketch)
            if verify:
                found = [k for k in found if kept[k].jaccard(sketch) >= .7]
            if found:
                gone.add(name)
            else:
                lsh.insert(number, sketch)
                kept[number] = sketch
    with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches(batch_size=4096):
            writer.write_batch(batch.filter(pa.array([n not in gone for n in batch.column("doc_id").to_pylist()])))
peak_mb = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
cpu_s = time.process_time() - began
print(json.dumps({"cpu_s": cpu_s, "peak_mb": peak_mb, "removed": len(gone)}))
"""


def peer_environment(names: list[str]) -> Path:
    """Return the interpreter of an environment that holds the peers, made once."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    wanted = [package for name in names for package in PEERS[name]]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    return python


def plan(documents: int, mb: float, run: dict[str, float], tokens: float = 1e12) -> str:
    """Project a larger corpus from what one run took per document; nothing of it is measured.

    The number of candidate pairs is taken to grow with the documents, as it does while the share of copies stays.
    """
    larger = tokens * BYTES_PER_TOKEN / (mb * 1e6)
    cpu_h = run["cpu_s"] * larger / 3600
    return (
        f"projected for {tokens:.0e} tokens of {BYTES_PER_TOKEN} bytes: {documents * larger:.1e} documents, "
        f"{tokens * BYTES_PER_TOKEN / SHARD_BYTES:,.0f} shards of {SHARD_BYTES // 2**20} MiB of text, stored index "
        f"{run['stored_bytes'] * larger / 1e12:.1f} TB, bands shuffled and spilled "
        f"{run['shuffled_bytes'] * larger / 1e12:.1f} TB, {cpu_h:,.0f} core hours, "
        f"{cpu_h * USD_PER_CORE_H:,.0f} USD at {USD_PER_CORE_H} USD each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--peers", default="rensa,datasketch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run-ours", nargs=2, metavar=("SOURCE", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_ours:
        source, target = map(Path, arguments.run_ours)
        with tempfile.TemporaryDirectory() as folder:  # what is compiled is loaded before the clock starts
            small = Path(folder) / "small.parquet"
            pq.write_table(pq.read_table(source).slice(0, 200), small)
            ours(small, Path(folder) / "out.parquet")
        began = time.process_time()
        found = ours(source, target)
        print(json.dumps({"cpu_s": time.process_time() - began, "peak_mb": peak_mb(), **found}))
        return
    names = [name for name in arguments.peers.split(",") if name]
    python = peer_environment(names)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.parquet"
        digest = make_corpus(corpus, arguments.documents)
        with pq.ParquetFile(corpus) as file:
            documents = file.metadata.num_rows
            mb = (
                sum(len(t.encode()) for b in file.iter_batches(columns=["text"]) for t in b.column(0).to_pylist()) / 1e6
            )
        print(f"{documents} documents, {mb:.0f} MB, corpus {digest}")
        contenders = {"ketcycle": [sys.executable, "-m", "benchmarks.dedup", "--run-ours", str(corpus), f"{folder}/o"]}
        for name in names:
            for verify in ("0", "1"):
                title = name + (" verified" if verify == "1" else "")
                contenders[title] = [str(python), "-c", PEER, name, str(corpus), f"{folder}/p", verify]
        ids, pairs = true_pairs(corpus, Path(folder))
        print(f"{len(pairs)} pairs at or above {THRESHOLD}")
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, command in contenders.items():
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env={**os.environ, **ONE_CORE}
                )
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                if len(runs[name]) == 1:
                    runs[name][0] |= score(Path(command[-1 if name == "ketcycle" else -2]), ids, pairs)
        for name, found in runs.items():
            ratios = [peer["cpu_s"] / mine["cpu_s"] for peer, mine in zip(found, runs["ketcycle"], strict=True)]
            cpu_s = median(run["cpu_s"] for run in found)
            one = found[0]
            print(
                f"{name:22s} {documents / cpu_s:8.0f} docs/s {mb / cpu_s:6.1f} MB/s {cpu_s:7.2f} CPU s, peak "
                f"{max(run['peak_mb'] for run in found):5.0f} MiB, removed {one['removed']:.0f}, "
                f"precision {one['precision']:.4f}, recall {one['recall']:.4f}, "
                f"ratio {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            )
        print(plan(documents, mb, runs["ketcycle"][0]))


if __name__ == "__main__":
    main()

"""Near-duplicate removal side by side with its peers, Parquet in to filtered Parquet out, in CPU seconds on one core.

    python -m benchmarks.dedup [--documents 100000] [--peers rensa,datasketch] [--rounds 3]
    python -m benchmarks.dedup --workers 1,2            # the same work on Dask workers
    python -m benchmarks.dedup --peers "" --rounds 1 --unscored --documents 900000

`--write` puts the table of peers, or that of workers, into `docs/stages/curation.md`.

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
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.page import write_part

THRESHOLD, WORDS, PERMUTATIONS = 0.7, 5, 128
SHARD_BYTES, LARGE_SHARD_BYTES = 16 * 2**20, 256 * 2**20
BYTES_PER_TOKEN, USD_PER_CORE_H = 4, 0.04
WORD = re.compile(r"\b[a-z]{5,}\b")
ENVIRONMENT = Path(".ketcycle-peers")
PEERS = {
    "rensa": ("rensa==0.5.0",),
    "datasketch": ("datasketch==2.0.0",),
    "text-dedup": ("text-dedup==0.4.0",),
    # what it imports without asking for it, and the last xxhash that takes text
    "datatrove": ("datatrove==0.10.1", "orjson", "nltk", "regex", "spacy", "tokenizers", "xxhash<4"),
}
HEAD = (
    "| | documents/s | MB/s | CPU s | precision | recall | removed | peak MiB | CPU time against ours |",
    "|---|---|---|---|---|---|---|---|---|",
)
WORKERS_HEAD = (
    "| workers | CPU s of the workers | ratio | s wall | ratio | CPU s of the client | peak MiB a worker "
    "| as many processes that each do all of it: CPU s each | ratio |",
    "|---|---|---|---|---|---|---|---|---|",
)
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "curation.md"
VERIFYING = ("rensa", "datasketch")  # the others have no step that verifies
Spread = Callable[[Callable[[Any], Path], Sequence[Any]], list[Path]]
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("doc_id", "source", "text", "parent", "edit")] + [("level", pa.float64())]
)
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS"), "1")


def passages(rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield (source, passage): real files cut at line ends into pieces of log-normal length, in a fixed order.

    When all files are cut they are cut again, at other places; from the second time on every longer word has a
    mark of the round, so that a passage is no copy of what it overlaps.
    """
    root = Path(sysconfig.get_paths()["purelib"])
    files = sorted(p for p in root.rglob("*") if p.suffix in (".py", ".rst", ".txt", ".md"))
    for turn in count():
        for path in files:
            try:
                text = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue
            source, at = path.relative_to(root).parts[0], 0
            while at < len(text):
                end = min(len(text), at + int(np.clip(rng.lognormal(7.3, 0.6), 300, 20_000)))
                end = text.find("\n", end) + 1 or len(text)
                if len(text[at:end].split()) >= 40:
                    yield source, marked(text[at:end], turn)
                at = end


def marked(text: str, turn: int) -> str:
    return text if turn == 0 else WORD.sub(rf"\g<0>{turn}", text)


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
            source, text = next(found)
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


def ours(source: Path, target: Path, spread: Spread) -> dict[str, float]:
    """Remove near duplicates: sketch, band join, exact Jaccard, weighted independent set, filtered copy."""
    from tasks.curation.index.corpus import Corpus
    from tasks.curation.index.near_duplicates import by_component, component_of
    from tasks.curation.index.search import find_edges
    from tasks.curation.index.shards import Index, Recipe, plan_shards
    from tasks.curation.removals import Plan

    recipe, marks = Recipe(texts=False), [time.process_time()]
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        work, _ = plan_shards("base", [source], recipe, SHARD_BYTES)
        index = Index.open(spread(Sketch(folder / "shards", recipe), work), recipe)
        marks.append(time.process_time())
        found = find_edges(folder / "searches", index, recipe, THRESHOLD, folder, spread)
        marks.append(time.process_time())
        corpus, plan, edges = Corpus(index, found.first), Plan(0, 3, found.witness), 0
        weights, parts = index.gather("weights"), [found.path, found.crowds]
        for pairs, jaccard in by_component(parts, component_of(index.size, parts), folder):
            plan.decide(pairs, jaccard, weights, corpus.name)
            edges += len(pairs)
        stays = np.ones(len(corpus.slots), bool)
        stays[corpus.copies()[0]] = False
        stays[corpus.documents[plan.removals()[0]]] = False
        marks.append(time.process_time())
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shuffled = index.size * recipe.bands * 16
        at, parts = 0, []
        target.mkdir()
        for number, (item, shard) in enumerate(zip(work, index.shards, strict=True)):
            rows = shard.facts["read"]
            groups = range(*(item.pieces[0].groups or (0, pq.read_metadata(source).num_row_groups)))
            parts.append((source, target / f"part-{number:05d}.parquet", list(groups), stays[at : at + rows]))
            at += rows
        spread(keep_and_write, parts)
    marks.append(time.process_time())
    took = dict(zip(("sketch_s", "join_s", "decide_s", "write_s"), np.diff(marks).tolist(), strict=True))
    counts = {"removed": int((~stays).sum()), "edges": edges, "checked": found.checked, "shards": len(work)}
    return {**counts, **took, "stored_bytes": stored, "shuffled_bytes": shuffled}


@dataclass(frozen=True)
class Sketch:
    """Makes a shard; picklable."""

    root: Path
    recipe: Any

    def __call__(self, work: Any) -> Path:
        from tasks.curation.index.shards import make_shard

        return make_shard(self.root, work, self.recipe)


def one_after_another(function: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
    return [function(item) for item in items]


def keep_and_write(part: tuple[Path, Path, list[int], np.ndarray]) -> Path:
    """Copy the rows of some row groups of a Parquet file that stay."""
    source, target, groups, stays = part
    at = 0
    with (
        pq.ParquetFile(source, pre_buffer=False) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(batch_size=4096, row_groups=groups):
            writer.write_batch(batch.filter(pa.array(stays[at : at + len(batch)])))
            at += len(batch)
    return target


def on_workers(source: Path, folder: Path, workers: int) -> dict[str, float]:
    """Do it on Dask workers, once to warm them up; return the CPU seconds of each worker and the wall time."""
    import dask
    import distributed

    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=40
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def spread(function: Callable[[Any], Path], items: Sequence[Any]) -> list[Path]:
            return list(client.gather(client.map(function, list(items), pure=False)))

        small = folder / "small.parquet"
        with pq.ParquetFile(source, pre_buffer=False) as file:
            pq.write_table(pa.Table.from_batches([next(file.iter_batches(200))]), small)
        for k in range(2 * workers):
            ours(small, folder / f"warm-{workers}-{k}", spread)
        client.run(reset_peak)
        before, began, mine = client.run(time.process_time), time.perf_counter(), time.process_time()
        ours(source, folder / f"out-{workers}", spread)
        wall_s, mine = time.perf_counter() - began, time.process_time() - mine
        after, peaks = client.run(time.process_time), client.run(peak_mb)
    cpu = [after[w] - before[w] for w in after]
    return {"wall_s": wall_s, "workers_s": sum(cpu), "own_s": mine, "peak_mb": max(peaks.values())}


def at_once(source: Path, folder: Path, number: int) -> float:
    """Do all of the work in several processes at once; return the mean of their CPU seconds."""
    command = [sys.executable, "-m", "benchmarks.dedup", "--run-ours", str(source)]
    environment = {**os.environ, **ONE_CORE}
    begun = [
        subprocess.Popen([*command, str(folder / f"copy-{k}")], stdout=subprocess.PIPE, text=True, env=environment)
        for k in range(number)
    ]
    return fmean(json.loads(process.communicate()[0].splitlines()[-1])["cpu_s"] for process in begun)


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def true_pairs(source: Path, folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the ids and all pairs of documents at or above the threshold, exactly.

    Two sets of similarity t share a shingle among the first n - ceil(t n) + 1 of each, in any common order; the
    rarest shingles come first.
    """
    import duckdb

    from tasks.curation.index.shingles import distinct, intersection_over_union, sketch

    ids: list[str] = []
    rows, values, ends = [], [], [np.zeros(1, np.int64)]
    with pq.ParquetFile(source, pre_buffer=False) as file:
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


def peer_environment(names: list[str]) -> Path:
    """Return the interpreter of an environment that holds the peers, made once."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    wanted = ["pyarrow", *(package for name in names for package in PEERS[name])]
    subprocess.run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted], check=True)
    return python


def plan(documents: int, mb: float, run: dict[str, float], tokens: float = 1e12) -> str:
    """Project a larger corpus from what one run took per document; nothing of it is measured.

    The number of candidate pairs is taken to grow with the documents, as it does while the share of copies stays.
    """
    larger = tokens * BYTES_PER_TOKEN / (mb * 1e6)
    cpu_h = run["cpu_s"] * larger / 3600
    return (
        f"projected for {tokens:.0e} tokens of {BYTES_PER_TOKEN} bytes: {documents * larger:.1e} documents, files of "
        f"{run['source_bytes'] * larger / 1e12:.1f} TB in {run['source_bytes'] * larger / LARGE_SHARD_BYTES:,.0f} "
        f"shards of {LARGE_SHARD_BYTES // 2**20} MiB, stored index {run['stored_bytes'] * larger / 1e12:.1f} TB, bands "
        f"shuffled and spilled {run['shuffled_bytes'] * larger / 1e12:.1f} TB, {cpu_h:,.0f} core hours, "
        f"{cpu_h * USD_PER_CORE_H:,.2f} USD at {USD_PER_CORE_H} USD each"
    )


def compare(
    corpus: Path, folder: Path, names: list[str], rounds: int, scored: bool
) -> dict[str, list[dict[str, float]]]:
    """Run every contender in turns, each in a process of its own; the first results are scored."""
    mine = [sys.executable, "-m", "benchmarks.dedup", "--run-ours", str(corpus)]
    contenders = {"ketcycle": mine}
    if names:
        python = peer_environment(names)
        peer = [str(python), "-P", str(Path(__file__).with_name("dedup_peers.py"))]
        for name in names:
            contenders[name] = [*peer, name, "0", str(corpus)]
            if name in VERIFYING:
                contenders[f"{name} verified"] = [*peer, name, "1", str(corpus)]
    truth = true_pairs(corpus, folder) if scored else None
    if truth:
        print(f"{len(truth[1])} pairs at or above {THRESHOLD}", flush=True)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, command in contenders.items():
            target = folder / f"{name.replace(' ', '-')}-{number}"
            done = subprocess.run(
                [*command, str(target)], capture_output=True, text=True, env={**os.environ, **ONE_CORE}, check=False
            )
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {name} {runs[name][-1]['cpu_s']:.2f} CPU s", flush=True)
            if number == 0 and truth:
                runs[name][0] |= score(target, *truth)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=20_000, help="originals; the copies come on top")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them, empty for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unscored", action="store_true", help="leave the exact truth of a large corpus out")
    parser.add_argument("--workers", default="", help="numbers of Dask workers to compare instead, such as 1,2")
    parser.add_argument("--run-ours", nargs=2, metavar=("SOURCE", "TARGET"), help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/curation.md")
    arguments = parser.parse_args()
    if arguments.run_ours:
        run_ours(*map(Path, arguments.run_ours))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus.parquet"
        digest = make_corpus(corpus, arguments.documents)
        with pq.ParquetFile(corpus, pre_buffer=False) as file:
            documents = file.metadata.num_rows
            mb = sum(pc.sum(pc.binary_length(b.column(0))).as_py() for b in file.iter_batches(columns=["text"])) / 1e6
        print(f"{documents} documents, {mb:.0f} MB, corpus {digest}", flush=True)
        if arguments.workers:
            made = on_dask(corpus, folder, [int(n) for n in arguments.workers.split(",")], arguments.rounds)
            made = f"{documents:,} documents, {mb:.0f} MB, {arguments.rounds} rounds:\n\n{made}"
            print(made)
            if arguments.write:
                write_part(PAGE, "dedup workers", made)
            return
        names = [name for name in arguments.peers.split(",") if name]
        runs = compare(corpus, folder, names, arguments.rounds, not arguments.unscored)
        lines = [f"{documents:,} documents, {mb:.0f} MB, {arguments.rounds} rounds, threshold {THRESHOLD}:", "", *HEAD]
        for name, found in runs.items():
            ratios = [peer["cpu_s"] / mine["cpu_s"] for peer, mine in zip(found, runs["ketcycle"], strict=True)]
            cpu_s, one = median(run["cpu_s"] for run in found), found[0]
            scores = [f"{one[score]:.4f}" if score in one else "" for score in ("precision", "recall")]
            peak, rate = f"{max(run['peak_mb'] for run in found):.0f}", f"{documents / cpu_s:,.0f}"
            cells = [name, rate, f"{mb / cpu_s:.1f}", f"{cpu_s:.2f}", *scores, f"{one['removed']:,.0f}", peak]
            lines.append(f"| {' | '.join([*cells, in_turns(ratios)])} |")
        made = "\n".join(lines)
        print(made)
        if arguments.write:
            write_part(PAGE, "dedup peers", made)
        first = runs["ketcycle"][0]
        parts = ", ".join(f"{part} {first[part + '_s']:.2f}" for part in ("sketch", "join", "decide", "write"))
        print(f"ketcycle: {first['shards']:.0f} shards; CPU s of {parts}")
        print(plan(documents, mb, first))


def run_ours(source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # what is compiled is loaded before the clock starts
        small = Path(folder) / "small.parquet"
        with pq.ParquetFile(source, pre_buffer=False) as file:
            pq.write_table(pa.Table.from_batches([next(file.iter_batches(200))]), small)
        ours(small, Path(folder) / "out", one_after_another)
    began = time.process_time()
    found = ours(source, target, one_after_another)
    took = {"cpu_s": time.process_time() - began, "peak_mb": peak_mb(), "source_bytes": source.stat().st_size}
    print(json.dumps({**took, **found}))


def on_dask(corpus: Path, folder: Path, numbers: list[int], rounds: int) -> str:
    """Compare numbers of workers, in turns, and beside them as many copies of the work at once; return the table."""
    runs: dict[int, list[dict[str, float]]] = {n: [] for n in numbers}
    copies: dict[int, list[float]] = {n: [] for n in numbers}
    for k in range(rounds):
        for n in numbers:
            (folder / f"{k}-{n}").mkdir()
            runs[n].append(on_workers(corpus, folder / f"{k}-{n}", n))
            copies[n].append(at_once(corpus, folder / f"{k}-{n}", n))
    lines = [*WORKERS_HEAD]
    for n, found in runs.items():
        cells = [str(n)]
        for what in ("workers_s", "wall_s"):
            ratios = [run[what] / one[what] for run, one in zip(found, runs[numbers[0]], strict=True)]
            cells += [f"{median(run[what] for run in found):.2f}", in_turns(ratios)]
        cells += [f"{median(run['own_s'] for run in found):.2f}", f"{max(run['peak_mb'] for run in found):.0f}"]
        ratios = [some / one for some, one in zip(copies[n], copies[numbers[0]], strict=True)]
        lines.append(f"| {' | '.join([*cells, f'{median(copies[n]):.2f}', in_turns(ratios)])} |")
    return "\n".join(lines)


def in_turns(ratios: Sequence[float]) -> str:
    """Return the median of some ratios, with the smallest and the largest where there are several."""
    both = f" [{min(ratios):.2f}, {max(ratios):.2f}]" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{both}"


if __name__ == "__main__":
    main()

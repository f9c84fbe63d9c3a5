"""The peers of `benchmarks.dedup`; runs in an environment of theirs, as their documentation shows.

    python dedup_peers.py NAME VERIFY SOURCE TARGET

Prints CPU seconds of the process and its children, peak memory and how many documents were removed. Reading, hashing,
clustering and writing Parquet count; importing and, for text-dedup, turning its Arrow output into Parquet do not.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

THRESHOLD, WORDS, PERMUTATIONS, BANDS, ROWS = 0.7, 5, 128, 16, 8
WORD = re.compile(r"\w+")
Stop = Callable[[], None]


def shingles(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    return {" ".join(words[k : k + WORDS]) for k in range(max(1, len(words) - WORDS + 1))}


def one_by_one(source: Path, target: Path, verify: bool, lsh: Any, sketch: Callable[[set[str]], Any]) -> None:
    """Keep a document if the index proposes none that is kept; with `verify`, none of estimated similarity enough."""
    kept: dict[int, Any] = {}
    stays: list[bool] = []
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["text"]):
            for text in batch.column("text").to_pylist():
                mine = sketch(shingles(text))
                found = lsh.query(mine)
                if verify:
                    found = [k for k in found if kept[k].jaccard(mine) >= THRESHOLD]
                if not found:
                    lsh.insert(len(stays), mine)
                    kept[len(stays)] = mine
                stays.append(not found)
        with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
            at = 0
            for batch in file.iter_batches(batch_size=4096):
                writer.write_batch(batch.filter(pa.array(stays[at : at + len(batch)])))
                at += len(batch)


def rensa(source: Path, target: Path, verify: bool, stop: Stop) -> None:
    from rensa import RMinHash, RMinHashLSH

    def sketch(found: set[str]) -> Any:
        made = RMinHash(num_perm=PERMUTATIONS, seed=42)
        made.update(list(found))
        return made

    stop()
    lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    one_by_one(source, target, verify, lsh, sketch)
    stop()


def datasketch(source: Path, target: Path, verify: bool, stop: Stop) -> None:
    from datasketch import MinHash, MinHashLSH

    def sketch(found: set[str]) -> Any:
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([s.encode() for s in found])
        return made

    stop()
    one_by_one(source, target, verify, MinHashLSH(params=(BANDS, ROWS), num_perm=PERMUTATIONS), sketch)
    stop()


def text_dedup(source: Path, target: Path, _: bool, stop: Stop) -> None:
    from datasets import load_from_disk
    from text_dedup.minhash import main

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options = {"path": "parquet", "data_files": source, "split": "train", "column": "text", "num_proc": 1}
        options |= {"cache_dir": f"{folder}/cache", "output": f"{folder}/out", "batch_size": 10_000}
        options |= {"ngram": WORDS, "min_length": 1, "num_perm": PERMUTATIONS, "threshold": THRESHOLD}
        options |= {"b": BANDS, "r": ROWS, "hash_func": "xxh3"}
        stop()
        main([word for name, value in options.items() for word in (f"--{name}", str(value))], standalone_mode=False)
        stop()
        load_from_disk(f"{folder}/out").to_parquet(str(target))


def datatrove(source: Path, target: Path, _: bool, stop: Stop) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.typeshelper import Languages

    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)

        def read() -> Any:
            return ParquetReader(str(source.parent), glob_pattern=source.name, id_key="doc_id", doc_progress=False)

        steps: list[list[Any]] = [
            [read(), MinhashDedupSignature(f"{name}/s", config=config, language=Languages.english)],
            [MinhashDedupBuckets(f"{name}/s", f"{name}/b", config=config)],
            [MinhashDedupCluster(f"{name}/b", f"{name}/c", config=config)],
            [read(), MinhashDedupFilter(f"{name}/c"), JsonlWriter(f"{name}/out", compression=None)],
        ]
        stop()
        for k, step in enumerate(steps):
            tasks = BANDS if k == 1 else 1
            LocalPipelineExecutor(step, tasks=tasks, workers=1, logging_dir=f"{name}/logs{k}").run()
        stop()
        rows = [json.loads(line)["id"] for path in sorted((folder / "out").glob("*")) for line in path.open()]
        pq.write_table(pa.table({"doc_id": rows}), target)


def used_s() -> float:
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def main() -> None:
    name, verify, source, target = sys.argv[1], sys.argv[2] == "1", Path(sys.argv[3]), Path(sys.argv[4])
    marks: list[float] = []
    peers = {"rensa": rensa, "datasketch": datasketch, "text-dedup": text_dedup, "datatrove": datatrove}
    peers[name](source, target, verify, lambda: marks.append(used_s()))
    peak_mb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    removed = pq.read_metadata(source).num_rows - pq.read_metadata(target).num_rows
    print(json.dumps({"cpu_s": marks[1] - marks[0], "peak_mb": peak_mb, "removed": removed}))


if __name__ == "__main__":
    main()

"""Filter and deduplicate a corpus in this process: no server, no Dask, no circuits."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from tasks.curation.direct import curate
from tasks.curation.options import Options
from tasks.curation.reading import closing_line


def main(folder: Path) -> None:
    """Write five documents, curate them, and print what became of each."""
    sentence = (
        "The queue writes every call into a ledger before the call leaves the machine and looks it up afterwards."
    )
    texts = {
        "a": " ".join(f"{sentence} This is paragraph {n}." for n in range(8)),
        "b": " ".join(f"{sentence} This is paragraph {n}." for n in range(9)),  # a near copy of a
        "c": "A model is judged on the text that it has never seen. " * 6,
        "d": "A model is judged on the text that it has never seen. " * 6,  # an exact copy of c
        "e": "too short",
    }
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    out = folder / "curated"
    out.mkdir()

    facts = curate(Options(corpus=(str(corpus),), alone=True, threshold=0.7), out, folder / "index")

    print(closing_line(facts))
    print("kept:", ", ".join(pq.read_table(out / "kept.parquet")["id"].to_pylist()))
    for row in pq.read_table(out / "dropped.parquet").to_pylist():
        print(f"dropped {row['id']}: {row['ketcycle_reason']} {row['ketcycle_detail']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))

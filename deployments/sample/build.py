"""Build the shipped corpus from the prepared source sets: `python -m deployments.sample.build SOURCE [TARGET]`.

SOURCE is a folder that holds `pydocs311/pydocs311.parquet` (doc, section, text) and
`licences_neardup/{licences,fulltext_pairs_j03}.parquet`; README.md beside this file says where they come from.
Everything is ordered by the SHA-256 of an identifier, so the same source gives the same files.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BASE_BYTES = 6_000_000
MANUAL_SECTIONS = ("tutorial", "howto", "faq", "using", "extending", "reference", "library")
PASSAGE_MIN, PASSAGE_MAX = 1_000, 6_000
THRESHOLD = 0.7
LARGEST_COMPONENT = 40
LONGEST_FILLER = 12_000
CLIQUES, PAIRS, SINGLES = 40, 90, 420
_UNDERLINE = re.compile(r"^[=\-~^\"*#+`']{4,}$")


def main() -> None:
    """Write `base.parquet`, `second.parquet`, `truth.parquet` and the licence files."""
    source = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent
    (target / "licences").mkdir(parents=True, exist_ok=True)
    _write(target / "base.parquet", documentation(source / "pydocs311" / "pydocs311.parquet"))
    chosen, truth = licence_texts(source / "licences_neardup")
    _write(target / "second.parquet", chosen)
    pq.write_table(truth, target / "truth.parquet", compression="zstd", compression_level=19)
    shutil.copyfile(source / "pydocs311" / "copyright", target / "licences" / "PSF-2.0.txt")
    for name, kept in {"cc-by-4.0.LICENSE": "CC-BY-4.0.txt", "NOTICE": "NOTICE", "AUTHORS.rst": "AUTHORS.rst"}.items():
        shutil.copyfile(source / "licences_neardup" / name, target / "licences" / kept)


def documentation(path: Path) -> list[dict[str, str]]:
    """Cut whole manual pages into passages of whole sections until the base domain is full."""
    pages = pq.read_table(path).to_pylist()
    order = {name: rank for rank, name in enumerate(MANUAL_SECTIONS)}
    pages = [page for page in pages if page["section"] in order]
    pages.sort(key=lambda page: (order[page["section"]], _sha(page["doc"])))
    rows: list[dict[str, str]] = []
    used = 0
    for page in pages:
        size = len(page["text"].encode())
        if used + size > BASE_BYTES:
            continue
        used += size
        for number, text in enumerate(_passages(page["text"])):
            rows.append(
                {
                    "doc_id": f"{page['doc']}#{number:03d}",
                    "domain": "base",
                    "source": f"python-3.11-docs/{page['section']}",
                    "label": page["doc"],
                    "text": text,
                }
            )
    return rows


def licence_texts(folder: Path) -> tuple[list[dict[str, str]], pa.Table]:
    """Choose licence texts whose near-duplicate structure at Jaccard .7 survives; return them and their true pairs."""
    table = pq.read_table(folder / "licences.parquet")
    english = pc.and_(table["is_full_text"], pc.equal(table["language"], "en"))
    full = table.filter(pc.and_(english, pc.greater_equal(table["n_words"], 50))).to_pylist()
    pairs = pq.read_table(folder / "fulltext_pairs_j03.parquet")
    # The source is in single precision, where 7/10 lies below .7.
    pairs = pairs.set_column(2, "jaccard", pc.round(pairs["jaccard5"].cast(pa.float64()), 7))
    index = {row["doc_id"]: number for number, row in enumerate(full)}
    strong = pairs.filter(pc.greater_equal(pairs["jaccard"], THRESHOLD))
    i = np.array([index[a] for a in strong["a"].to_pylist()])
    j = np.array([index[b] for b in strong["b"].to_pylist()])
    keep = _choose(full, i, j)
    rows = [
        {
            "doc_id": full[k]["doc_id"],
            "domain": "second",
            "source": "scancode-licensedb",
            "label": full[k]["license"],
            "text": full[k]["text"],
        }
        for k in sorted(keep, key=lambda k: _sha(full[k]["doc_id"]))
    ]
    names = pa.array([row["doc_id"] for row in rows])
    inside = pc.and_(pc.is_in(pairs["a"].cast(pa.string()), names), pc.is_in(pairs["b"].cast(pa.string()), names))
    truth = pairs.filter(pc.and_(inside, pc.greater_equal(pairs["jaccard"], 0.5)))
    return rows, pa.table(
        {
            "a": truth["a"].cast(pa.string()),
            "b": truth["b"].cast(pa.string()),
            "jaccard": truth["jaccard"],
        }
    ).sort_by([("a", "ascending"), ("b", "ascending")])


def _choose(full: list[dict[str, Any]], i: np.ndarray, j: np.ndarray) -> list[int]:
    """All non-clique components of 3 to 40 texts, and some cliques, pairs and single texts of moderate length."""
    n = len(full)
    _, label = connected_components(coo_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
    size = np.bincount(label)
    clique = np.bincount(label[i], minlength=len(size)) == size * (size - 1) // 2
    members: dict[int, list[int]] = {}
    for k, component in enumerate(label.tolist()):
        members.setdefault(component, []).append(k)
    chosen = [c for c in members if 3 <= size[c] <= LARGEST_COMPONENT and not clique[c]]
    for low, high, count in ((3, LARGEST_COMPONENT, CLIQUES), (2, 2, PAIRS), (1, 1, SINGLES)):
        fillers = [
            c
            for c in members
            if low <= size[c] <= high and clique[c] and max(len(full[k]["text"]) for k in members[c]) <= LONGEST_FILLER
        ]
        fillers.sort(key=lambda c: _sha(full[members[c][0]]["doc_id"]))
        chosen += fillers[:count]
    return [k for c in chosen for k in members[c]]


def _passages(text: str) -> Iterator[str]:
    """Join whole sections to passages of about 1 to 6 kB; a longer section is cut at a blank line."""
    pending = ""
    for section in _sections(text):
        for block in _blocks(section):
            if pending and len(pending) + len(block) > PASSAGE_MAX:
                yield pending.strip("\n")
                pending = ""
            pending += block
        if len(pending) >= PASSAGE_MIN:
            yield pending.strip("\n")
            pending = ""
    if pending.strip():
        yield pending.strip("\n")


def _sections(text: str) -> Iterator[str]:
    """Split reStructuredText before every underlined title."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for k in range(1, len(lines)):
        title = lines[k - 1].strip()
        is_text = title and not _UNDERLINE.match(title) and not title.startswith(("+", "="))
        if is_text and _UNDERLINE.match(lines[k].strip()):
            starts.append(k - 1)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if end > start:
            yield "".join(lines[start:end])


def _blocks(section: str) -> Iterator[str]:
    """Cut a section at blank lines into pieces that fit a passage."""
    if len(section) <= PASSAGE_MAX:
        yield section
        return
    pending = ""
    for paragraph in re.split(r"(?<=\n\n)", section):
        for start in range(0, len(paragraph), PASSAGE_MAX):
            piece = paragraph[start : start + PASSAGE_MAX]
            if pending and len(pending) + len(piece) > PASSAGE_MAX:
                yield pending
                pending = ""
            pending += piece
    if pending:
        yield pending


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("doc_id", "domain", "source", "label", "text")])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()

"""Source texts of instance banks, and the contents of each bank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import BadInput
from infra.settings import Settings
from tasks.contract import PILOTS, Material
from tasks.policy import may_replace, size_bucket, sizes_of, smallest_certifying
from tasks.registry import subtasks

CACHE = Path("studies") / "cache"  # below the home
DOMAINS = {"corpus": ("documentation", "base"), "second": ("licences", "second")}


def material_of(subtask: str, loaded: Settings, corpus: Sequence[str] = (), second: Sequence[str] = ()) -> Material:
    """Return the source texts of a decision's bank; a pilot has its own data and needs none."""
    if subtask.startswith(f"{PILOTS}/"):
        return Material({}, loaded.home / CACHE)
    return gather_material(loaded, corpus, second)


def gather_material(loaded: Settings, corpus: Sequence[str] = (), second: Sequence[str] = ()) -> Material:
    """Return the source texts of banks: two domains as a run reads them, and docstrings of libraries."""
    from tasks.text.docstrings import LIBRARIES, library_docstrings
    from tasks.text.samples import sample_documents

    found_in = {name: library_docstrings(name, loaded.home / CACHE) for name in LIBRARIES}
    texts: dict[str, Sequence[str]] = {name: tuple(found) for name, found in found_in.items()}
    works: dict[str, Sequence[str]] = {name: tuple(found.values()) for name, found in found_in.items()}
    for option, given in (("corpus", corpus), ("second", second)):
        name, domain = DOMAINS[option]
        found = _read(option, given) if given else sample_documents(domain)
        texts[option if given else name] = tuple(text for _, text in found)
        works[option if given else name] = tuple(label for label, _ in found)
    return Material(texts, loaded.home / CACHE, works)


def _read(domain: str, paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return (work, text) of each document; a document without a label is a work by itself."""
    from tasks.corpus.read import Reader

    reader = Reader(domain)
    documents = (d for batch in reader.read([Path(p).expanduser() for p in paths]) for d in batch)
    found = tuple((d.label or d.doc_id, d.text) for d in documents)
    if not found:
        raise BadInput(f"no document can be read from {', '.join(paths)}; give text files, JSON lines or Parquet")
    return found


def list_banks(loaded: Settings) -> list[dict[str, Any]]:
    """Return each decision's bank: instances by source and by size bucket, independent units, and how many are needed.

    The number needed is the smallest that certifies an arm without any loss among all arms that may be chosen.
    """
    material, rows = gather_material(loaded), []
    for key, subtask in subtasks().items():
        bank = list(subtask.bank(material, np.random.default_rng([0, 7])))
        buckets: dict[int, int] = {}
        for instance in bank:
            bucket = size_bucket(instance.size)
            buckets[bucket] = buckets.get(bucket, 0) + 1
        sources = {name: sum(i.source == name for i in bank) for name in sorted({i.source for i in bank})}
        rows.append(
            {
                "decision": key,
                "instances": len(bank),
                "units": len({i.unit or i.source for i in bank}),
                "needed": smallest_certifying(may_replace(subtask)),
                "sources": sources,
                "sizes": {sizes_of(b): buckets[b] for b in sorted(buckets)},
                "arms": [arm.name for arm in subtask.arms],
            }
        )
    return rows

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.architecture import stage as architecture
from tasks.preprocessing import stage as preprocessing
from tasks.stage import Context, State


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _documents() -> list[dict[str, Any]]:
    names = [f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te") for b in ("n", "sha", "vor", "pel")]
    rows = []
    for i in range(60):
        rng = np.random.default_rng(i)
        text = ". ".join(" ".join(rng.choice(names, 9)) for _ in range(12)) + ".\n"
        rows.append({"doc_id": f"d{i}", "domain": "base", "source": "t", "text": text, "n_bytes": len(text)})
    return rows


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run that stands before training: a tiny model and a small artificial language."""
    home: Path = tmp_path_factory.mktemp("home")
    first = Context("r", "preprocessing", home, 0, {"vocab_size": 320, "context": 16})
    refs = {"curation/kept": first.lake.write("curation/kept", pa.Table.from_pylist(_documents()))}
    refs |= preprocessing.prepare(Context("r", "preprocessing", home, 0, first.options, refs), State()).refs
    before = Context("r", "architecture", home, 0, {"depth": 1}, refs)
    refs |= architecture.make_model(before, architecture.choose_shape(before, State())).refs
    options = {"tokens": 30 * 8 * 16, "evaluate_every": 10, "checkpoint_every": 5, "evaluation_windows": 20}
    return Context("r", "training", home, 0, options, refs)

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.architecture import stage as architecture
from tasks.preprocessing import stage as preprocessing
from tasks.stage import Context, State
from tasks.training import stage as training


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _documents(domain: str, syllables: tuple[str, ...]) -> list[dict[str, Any]]:
    names = [f"{a}{b}" for a in syllables for b in ("n", "sha", "vor", "pel")]
    rows = []
    for i in range(60):
        rng = np.random.default_rng([len(domain), i])
        text = ". ".join(" ".join(rng.choice(names, 9)) for _ in range(12)) + ".\n"
        rows.append({"doc_id": f"{domain}{i}", "domain": domain, "source": "t", "text": text, "n_bytes": len(text)})
    return rows


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run that stands before fine-tuning: a tiny model that knows one of two artificial languages."""
    home = tmp_path_factory.mktemp("home")
    here = Context("r", "preprocessing", home, 0, {"vocab_size": 320, "context": 16})
    rows = _documents("base", ("ka", "lo", "mi", "ru", "te")) + _documents("second", ("zu", "ny", "ho", "pa", "de"))
    here = replace(here, inputs={"curation/kept": here.lake.write("curation/kept", pa.Table.from_pylist(rows))})
    here = replace(here, inputs={**here.inputs, **preprocessing.prepare(here, State()).refs})
    here = replace(here, stage="architecture", options={"depth": 1})
    here = replace(
        here, inputs={**here.inputs, **architecture.make_model(here, architecture.choose_shape(here, State())).refs}
    )
    here = replace(here, stage="training", options={"tokens": 40 * 8 * 16, "samples": 0, "checkpoint_every": 0})
    here = replace(here, inputs={**here.inputs, **training.train_model(here, training.measure(here, State())).refs})
    return replace(here, stage="finetuning", options={"tokens": 30 * 8 * 16, "checkpoint_every": 10})

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infra.lake import Lake
from tasks.architecture.hybrid_layer.options import Options
from tasks.architecture.hybrid_layer.problem import Predictions
from tasks.architecture.hybrid_layer.subtask import apply, pose
from tasks.contract import Budget
from tasks.stage import Context, State


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run whose windows of 48 tokens are more than the small models read."""
    home = tmp_path_factory.mktemp("home")
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6 * 49, dtype=np.uint16) % 60), 49)
    splits = ["train"] * 4 + ["validation"] * 2
    table = pa.table({"domain": ["base"] * 6, "split": splits, "tokens": tokens, "n_bytes": [96] * 6})
    shards = Lake(home / "lake").write("preprocessing/shards", table, {"context": 48, "vocab_size": 60})
    return Context("r", "architecture", home, 3, {}, {"preprocessing/shards": shards})


def test_a_run_compares_only_if_it_is_told_to(context: Context) -> None:
    assert pose(context, State(), Options()) is None
    pretrained = replace(context, options={"model": "folder"})
    assert pose(pretrained, State(), Options(tokens=64)) is None


def test_the_problem_has_the_text_of_the_run_in_windows_of_32_tokens(context: Context) -> None:
    problem = pose(context, State(), Options(tokens=64, windows=1, place="attention", cpu_s=5))
    assert problem is not None
    assert problem.training.tokens.shape == (2, 33)
    assert problem.test.tokens.shape == (1, 33)
    assert problem.test.n_bytes.tolist() == [64]
    assert (problem.vocab_size, problem.place, problem.seed, problem.budget) == (60, "attention", 3, Budget(cpu_s=5))


def test_what_was_chosen_is_recorded(context: Context) -> None:
    problem = pose(context, State(), Options(tokens=64, windows=1))
    assert problem is not None
    found = Predictions(np.full((1, 32), 3.0, np.float32), 1000, 42)
    facts = apply(context, State(), problem, found).facts["hybrid_layer"]
    assert facts == {"place": "feed-forward", "bits_per_byte": 1.5, "parameters": 1000, "layer_parameters": 42}

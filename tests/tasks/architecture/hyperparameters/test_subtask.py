from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from infra.lake import Lake
from tasks.architecture.hyperparameters.options import Options
from tasks.architecture.hyperparameters.problem import Found, Trial
from tasks.architecture.hyperparameters.runs import Real
from tasks.architecture.hyperparameters.space import values
from tasks.architecture.hyperparameters.subtask import apply, pose
from tasks.contract import Budget
from tasks.stage import Context, State


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run whose windows of 96 tokens are more than the small model reads."""
    home = tmp_path_factory.mktemp("home")
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8 * 97, dtype=np.uint16) % 60), 97)
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    table = pa.table({"domain": ["base"] * 8, "split": splits, "tokens": tokens, "n_bytes": [192] * 8})
    shards = Lake(home / "lake").write("preprocessing/shards", table, {"context": 96, "vocab_size": 60})
    return Context("r", "architecture", home, 3, {}, {"preprocessing/shards": shards})


def test_a_run_searches_only_if_it_is_told_to(context: Context) -> None:
    assert pose(context, State(), Options()) is None
    assert pose(replace(context, options={"model": "folder"}), State(), Options(trials=4)) is None


def test_the_search_has_the_text_of_the_run_in_windows_of_64_tokens(context: Context) -> None:
    problem = pose(context, State(), Options(trials=4, tokens=128, windows=1, cpu_s=5))
    assert problem is not None
    assert isinstance(problem.runs, Real)
    assert problem.runs.training.tokens.shape == (2, 65)
    assert problem.runs.test.n_bytes.tolist() == [128]
    assert (problem.trials, problem.start, problem.cell, problem.budget) == (4, 4, 3, Budget(cpu_s=5))


def test_the_best_complete_run_is_recorded(context: Context) -> None:
    problem = pose(context, State(), Options(trials=4, tokens=128, windows=1))
    assert problem is not None
    trials = (Trial(7, 3.0, 4, 3.1, 1.0), Trial(200, 2.0, 4, 2.2, 1.0), Trial(9, 1.9, 1, float("nan"), 0.3))
    found = apply(context, State(), problem, Found(trials)).facts["hyperparameters"]
    assert {name: found[name] for name in values(200)} == values(200)
    assert (found["runs"], found["stopped_early"], found["bits_per_byte"]) == (3, 1, 2.0)
    assert found["losses"] == [[1, 3.0], [2, 2.0], [3, 1.9]]

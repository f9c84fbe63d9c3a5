from dataclasses import replace

import numpy as np
import pytest

from tasks.finetuning import stage
from tasks.finetuning.adapter.options import Options
from tasks.finetuning.adapter.problem import Adapted, quality
from tasks.finetuning.adapter.subtask import ADAPTER
from tasks.model.causal import load_model
from tasks.stage import Context, State


@pytest.fixture(scope="module")
def adapted(context: Context) -> tuple[Context, State]:
    context = replace(context, run_id="site", options={"tokens": 3840, "beside": ()})
    return context, stage.adapt(context, stage.measure(context, State()))


def test_a_run_adapts_one_projection_further_where_that_helps(adapted: tuple[Context, State]) -> None:
    context, state = adapted
    problem = ADAPTER.pose(context, state, Options(positions=32, steps=2, batch=4))
    assert problem is not None
    assert len(problem.test) == 2
    name = f"model.{problem.site}.weight"
    weight = dict(load_model(problem.model).named_parameters())[name].detach().numpy()
    before = -quality(problem, Adapted({}, None, 0))[0]
    worse = ADAPTER.apply(context, state, problem, Adapted({name: 0 * weight}, None, weight.size))
    assert worse.refs["finetuning/model"] == state.refs["finetuning/model"]
    assert worse.facts["site"]["before"] == pytest.approx(before)
    rng = np.random.default_rng(0)
    tried = (Adapted({name: weight + 0.05 * rng.standard_normal(weight.shape).astype(np.float32)}, None, 1)
             for _ in range(40))  # fmt: skip
    better = next(one for one in tried if -quality(problem, one)[0] < before)
    after = ADAPTER.apply(context, state, problem, better)
    assert after.refs["finetuning/model"] != state.refs["finetuning/model"]
    saved = dict(load_model(context.lake.folder(after.refs["finetuning/model"])).named_parameters())[name]
    assert np.array_equal(saved.detach().numpy(), better.weights[name])


def test_it_is_left_out_where_it_is_switched_off_or_text_is_missing(adapted: tuple[Context, State]) -> None:
    context, state = adapted
    assert ADAPTER.pose(context, state, Options(steps=0)) is None
    assert ADAPTER.pose(context, state, Options(positions=100_000)) is None

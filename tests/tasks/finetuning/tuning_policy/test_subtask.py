from __future__ import annotations

from dataclasses import replace

from tasks.contract import Budget
from tasks.finetuning import stage
from tasks.finetuning.options import Options as StageOptions
from tasks.finetuning.tuning_policy.options import Options
from tasks.finetuning.tuning_policy.problem import Tuned
from tasks.finetuning.tuning_policy.runs import Episode, Real
from tasks.finetuning.tuning_policy.space import DEFAULT, values
from tasks.finetuning.tuning_policy.subtask import apply, pose
from tasks.stage import Context, State


def test_a_run_tries_settings_only_if_it_is_told_to(context: Context) -> None:
    assert pose(context, State(), Options()) is None
    dora = replace(context, options={**context.options, "method": "dora"})
    assert pose(dora, State(), Options(episodes=4)) is None


def test_the_campaign_has_the_model_and_the_texts_of_the_run(context: Context) -> None:
    problem = pose(context, State(), Options(episodes=4, tokens=160, windows=6, cpu_s=5))
    assert problem is not None
    assert isinstance(problem.runs, Real)
    assert [len(part) for part in (problem.runs.target.train, problem.runs.base.test)] == [10, 6]
    assert problem.budget == Budget(cpu_s=5)
    episode = problem.runs.run(DEFAULT, 0)
    assert -8 < episode.reward < 8


def test_the_fine_tuning_takes_the_recommended_setting_where_its_options_are_open(context: Context) -> None:
    problem = pose(context, State(), Options(episodes=2, tokens=160, windows=4))
    assert problem is not None
    chosen = 1 * 16 + 1 * 4 + 2
    tuned = Tuned((Episode(chosen, 0.4, 0.3, 1.0), Episode(0, 0.1, 0.1, 1.0)))
    state = apply(context, State(), problem, tuned)
    share, rank, rate = values(chosen)
    settled = stage._settled(StageOptions(), state)
    assert (settled.base_share, settled.rank, settled.adapter_lr) == (share, rank, rate)
    assert stage._settled(StageOptions(rank=2), state).rank == 2
    (section,) = (s for s in stage.sections({"lora": {}, **state.facts}) if s.title == "Settings of the fine-tuning")
    assert section.rows[1] == ("rank", rank)
    nothing = apply(context, State(), problem, Tuned((Episode(chosen, -0.4, 0.3, 1.0),)))
    assert stage._settled(StageOptions(), nothing) == StageOptions()


def test_a_fine_tuning_can_mix_text_of_the_base_domain(context: Context) -> None:
    options = {**context.options, "beside": (), "base_share": 0.5}
    here = replace(context, run_id="mixed", options=options)
    mixed = stage.adapt(here, stage.measure(here, State())).facts["lora"]
    plain_run = replace(context, run_id="plain", options={**options, "base_share": 0.0})
    plain = stage.adapt(plain_run, stage.measure(plain_run, State())).facts["lora"]
    assert mixed["tokens"] == plain["tokens"]
    assert mixed["forgetting"] < plain["forgetting"]
    assert mixed["gain"] < plain["gain"]

"""The decision `tuning_policy`: how a run poses the campaign, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tasks.budget import joules_per_cpu_s
from tasks.contract import CELLS, Budget, Subtask
from tasks.finetuning.options import Options as StageOptions
from tasks.finetuning.target import context_length, domain_windows, read_target
from tasks.finetuning.tuning_policy.arms import CHALLENGER, INCUMBENT, OTHERS
from tasks.finetuning.tuning_policy.bank import bank, best_elsewhere, example
from tasks.finetuning.tuning_policy.options import Options
from tasks.finetuning.tuning_policy.problem import Campaign, Tuned, measures, oracle, quality
from tasks.finetuning.tuning_policy.runs import Real, Split, losses
from tasks.finetuning.tuning_policy.space import values
from tasks.model.causal import load_model
from tasks.model.threads import torch_threads
from tasks.stage import Context, State
from tasks.terms import terms

log = logging.getLogger("ketcycle.finetuning")

TERMS = terms("finetuning/tuning_policy")


def pose(context: Context, _: State, options: Options) -> Campaign | None:
    """Return the campaign on the model and the texts of the run; None where the option is off or LoRA is not used."""
    stage = context.parsed(StageOptions)
    if not options.episodes or stage.method != "lora":
        return None
    reach = -(-options.tokens // context_length(context))
    given = read_target(context, stage)
    target = Split(*(text.spread(n) for text, n in ((given.train, reach), (given.validation, options.windows),
                                                   (given.test, options.windows))))  # fmt: skip
    base = Split(*(domain_windows(context, stage.base, split, n) for split, n in (
        ("train", reach), ("validation", options.windows), ("test", options.windows))))  # fmt: skip
    folder = context.lake.folder(context.require("training/model"))
    with torch_threads(stage.threads):
        before = losses(load_model(folder), target, base)
    return Campaign(
        runs=Real(
            model=folder,
            target=target,
            base=base,
            before=before,
            tokens=options.tokens,
            batch=stage.batch,
            alpha=stage.alpha,
            seed=context.seed,
            threads=stage.threads,
        ),
        episodes=options.episodes,
        parallel=options.parallel,
        elsewhere=best_elsewhere(),
        shots=options.shots,
        budget=Budget(cpu_s=options.cpu_s),
    )


def apply(context: Context, state: State, problem: Campaign, solution: Tuned) -> State:
    """Record the recommended setting; the fine-tuning takes it where its options are open."""
    del context, problem
    rewards = [[number, episode.reward] for number, episode in enumerate(solution.episodes, 1)]
    found = {"episodes": len(rewards), "rewards": rewards}
    setting = solution.recommended()
    if setting is None:
        log.info("no fine-tuning run gained more than it forgot")
        return state.add(tuning_policy=found)
    share, rank, rate = values(setting)
    log.info("fine-tuning with rank %d, rate %g, %.0f%% base text", rank, rate, 100 * share)
    return state.add(tuning_policy={**found, "base_share": share, "rank": rank, "adapter_lr": rate})


def with_joules(problem: Campaign, solution: Tuned) -> Mapping[str, tuple[float, ...]]:
    """Return the measures and the modelled joules of the stored runs that they count."""
    found = measures(problem, solution)
    named = found.get("training CPU s to 95 %", ())
    return {**found, **({"training J to 95 %, modelled": (named[0] * joules_per_cpu_s(),)} if named else {})}


TUNING_POLICY: Subtask[Campaign, Tuned] = Subtask(
    stage="finetuning",
    name="tuning_policy",
    incumbent=INCUMBENT,
    challenger=CHALLENGER,
    others=OTHERS,
    quality=quality,
    metric=TERMS.metric,
    size=lambda problem: problem.episodes,
    tolerance=TERMS.tolerance,
    predictions=TERMS.predictions,
    bank=bank,
    example=example,
    oracle=oracle,
    floor=0.5,
    design=CELLS,
    options=Options,
    pose=pose,
    apply=apply,
    measures=with_joules,
)

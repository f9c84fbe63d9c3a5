"""Which arm takes a decision, by the rules of `tasks.evaluation.rules` over stored evidence. Pure functions.

One looks at an arm when it has the smallest number of independent units at which an arm without any loss could pass
beside the other arms (`needed`), and at two and four times that number; the errors of the looks add up to 5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.contract import Decision, Kind, Subtask
from tasks.evaluation.rules import (
    EXCEEDED_SHARE,
    Pairs,
    Rule,
    Verdict,
    certified,
    enough,
    insufficient,
    probability_cheaper,
    quality_p,
    smallest_n,
)
from tasks.statistics import holm, lower_mean, share_above_p, unit_hits

LOOKS = ((1, 0.025), (2, 0.0125), (4, 0.0125))  # multiples of the smallest n that can certify, and their errors
REVERSE_SHADOW = 0.05
FUTILITY = 0.05
REFUTATION = 0.01
REFUTING_UNITS = 5


@dataclass(frozen=True)
class Trial:
    """One executed arm on one instance, as the policy sees it.

    Attributes:
        instance: what pairs the arms: problem, position within it, model seed.
        arm: name of the arm.
        arm_version: its version.
        backend: backend and calibration epoch that its circuits ran on, empty if it ran none.
        bucket: size bucket of the instance, see `size_bucket`.
        data: fingerprint of the data.
        quality: higher is better; NaN where the arm failed, which counts as a loss.
        unit: the unit of independence: trials of one unit (instances of one source, say) are clustered.
        cost: cost of one solve in the objective's unit, draw by draw where it is uncertain; the same position is
            the same draw in all trials.
        spent: what running the arm beside the chosen one really cost, repetitions included, in the objective's unit;
            0 where its solution was used.
    """

    instance: str
    arm: str
    arm_version: str
    backend: str
    bucket: int
    data: str
    quality: float
    unit: str
    cost: float | NDArray[np.float64]
    spent: float = 0.0


@dataclass(frozen=True)
class Setting:
    """The setting of a decision; evidence from another setting does not count.

    Attributes:
        backend: configured backend and its calibration epoch.
        bucket: size bucket of the problem.
        data: fingerprint of its data.
        objective: what the costs count: `energy`, `cost` or `time`.
        uses: decisions within which what shadow runs spent must be saved again.
    """

    backend: str
    bucket: int
    data: str
    objective: str = "energy"
    uses: int = 1000


def size_bucket(size: int) -> int:
    """Return the bucket of a size: sizes of one bucket differ by less than a factor of two."""
    return max(size, 0).bit_length()


def sizes_of(bucket: int) -> str:
    """Return the sizes of a bucket for people, e.g. `8-15`."""
    return f"{1 << max(bucket - 1, 0)}-{(1 << bucket) - 1}"


@dataclass(frozen=True)
class Choice:
    """The chosen arm, the arms worth running beside it this time, and the verdict on each arm."""

    decision: Decision
    explore: tuple[str, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


def choose(
    subtask: Subtask[Any, Any],
    setting: Setting,
    trials: Sequence[Trial],
    rng: Generator,
    rule: Callable[[int], Rule] = certified,
) -> Choice:
    """Choose the arm of one decision.

    The certified arm that costs least takes it, else the incumbent. The decision is a function of the evidence; `rng`
    only says when an incumbent that was replaced runs as a reverse shadow.

    Args:
        subtask: the decision: its arms, their versions and its tolerance.
        setting: what the decision is taken for.
        trials: the evidence in the order of collection.
        rng: draws the reverse shadow.
        rule: makes the rule of certification from the number of uses.
    """
    paired = {name: pair(subtask, setting, trials, name) for name in may_replace(subtask)}
    verdicts = judge(paired, rule(setting.uses))
    winners = [name for name, verdict in verdicts.items() if verdict.holds]
    if not winners:
        return Choice(_stay(subtask, paired, verdicts), _worth_trying(paired, verdicts), verdicts)
    chosen = min(winners, key=lambda name: _typical_cost(paired[name]))
    explore: tuple[str, ...] = ()
    if rng.random() < REVERSE_SHADOW:
        explore = (subtask.incumbent.name, *_worth_trying(paired, verdicts))
    return Choice(_switch(paired[chosen], verdicts[chosen]), explore, verdicts)


def pair(subtask: Subtask[Any, Any], setting: Setting, trials: Sequence[Trial], arm: str) -> Pairs:
    """Pair an arm with the incumbent on the instances of the setting that both solved.

    Only the first trial of an instance counts, so that the data of a look never change afterwards.
    """
    champion = subtask.incumbent.name
    mine, its = _first(subtask, setting, trials, arm), _first(subtask, setting, trials, champion)
    both = sorted(mine.keys() & its.keys(), key=lambda instance: max(mine[instance][0], its[instance][0]))
    pairs = [(mine[instance][1], its[instance][1]) for instance in both]
    draws = max([np.size(trial.cost) for two in pairs for trial in two], default=1)
    return Pairs(
        arm=arm,
        champion=champion,
        difference=np.array([a.quality - b.quality for a, b in pairs], dtype=np.float64),
        cost=np.array([np.broadcast_to(a.cost, draws) for a, _ in pairs]).reshape(len(pairs), draws),
        champion_cost=np.array([np.broadcast_to(b.cost, draws) for _, b in pairs]).reshape(len(pairs), draws),
        spent=sum(t.spent for t in trials if t.arm == arm and counts(t, subtask, setting)),
        tolerance=subtask.tolerance,
        units=tuple(a.unit for a, _ in pairs),
        objective=setting.objective,
    )


def may_replace(subtask: Subtask[Any, Any]) -> list[str]:
    """Return the arms that may be certified in place of the incumbent: all but it and controls that do something."""
    return [a.name for a in subtask.arms[1:] if a.kind is not Kind.CONTROL or a.does_nothing]


def needed(paired: Mapping[str, Pairs]) -> int:
    """Return the smallest number of independent units at which an arm can be certified beside those with evidence.

    Where no arm has evidence, all of them are expected to get some.
    """
    return smallest_certifying([name for name, pairs in paired.items() if pairs.n] or list(paired))


def smallest_certifying(arms: Sequence[str]) -> int:
    """Return the smallest number of independent units at which one of these arms, without any loss, is certified."""
    return smallest_n(LOOKS[0][1] / max(1, len(arms)))


def judge(paired: Mapping[str, Pairs], rule: Rule) -> dict[str, Verdict]:
    """Judge every arm at the looks it has reached, Holm over all arms that have evidence.

    An arm certified at one look stays certified until later pairs contradict it.
    """
    first, family = needed(paired), _family(paired)
    verdicts = {name: enough(first)(pairs) for name, pairs in paired.items()}
    certified_at: dict[str, int] = {}
    for multiple, alpha in LOOKS:
        n = multiple * first
        seen = {name: pairs.first(n) for name, pairs in paired.items() if pairs.n >= n}
        for name, level in holm({k: quality_p(v) for k, v in seen.items()}, alpha, family):
            if name in certified_at:
                continue
            verdict = rule(replace(seen[name], alpha=level))
            said = f"{verdict.reason} (n={n}, alpha={level:.2g})"
            verdicts[name] = replace(verdict, reason=said)
            if verdict.holds:
                certified_at[name] = n
    for name, n in certified_at.items():
        against = refutation(paired[name].after(n))
        if against is not None:
            verdicts[name] = Verdict(False, f"certified at n={n}, revoked: {against}", "revoked")
    return verdicts


def _family(paired: Mapping[str, Pairs]) -> int:
    return sum(pairs.n > 0 for pairs in paired.values())


def refutation(pairs: Pairs) -> str | None:
    """Return why pairs collected after its certification contradict a certified arm, or None."""
    losing = pairs.losing()
    if share_above_p(*unit_hits(losing, pairs.units), EXCEEDED_SHARE) < REFUTATION:
        return f"{np.count_nonzero(losing)} of {len(losing)} later instances lose more than {pairs.tolerance:g}"
    if pairs.n < REFUTING_UNITS:
        return None
    upper = -lower_mean(-pairs.difference, REFUTATION, pairs.units)
    if upper < -pairs.tolerance:
        return f"mean difference of {len(losing)} later instances is below {upper:+.4g}"
    if probability_cheaper(pairs) < FUTILITY:
        return f"costs more than {pairs.champion} on {len(losing)} later instances"
    return None


def _first(
    subtask: Subtask[Any, Any], setting: Setting, trials: Sequence[Trial], arm: str
) -> dict[str, tuple[int, Trial]]:
    found: dict[str, tuple[int, Trial]] = {}
    for i, trial in enumerate(trials):
        if trial.arm == arm and counts(trial, subtask, setting):
            found.setdefault(trial.instance, (i, trial))
    return found


def counts(trial: Trial, subtask: Subtask[Any, Any], setting: Setting) -> bool:
    """Return whether a trial is evidence for a setting: of this arm version, backend, size bucket and data."""
    return (
        trial.arm_version == subtask.arm(trial.arm).version
        and trial.backend in ("", setting.backend)
        and trial.bucket == setting.bucket
        and trial.data == setting.data
    )


def _typical_cost(pairs: Pairs) -> float:
    return float(np.median(pairs.cost.mean(axis=0))) if pairs.n else 0.0


def _worth_trying(paired: Mapping[str, Pairs], verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
    # More evidence cannot help after the last look, nor where the costs already speak clearly against the arm.
    first = needed(paired)
    last = LOOKS[-1][0] * first
    open_arms = [
        name
        for name, pairs in paired.items()
        if not verdicts[name].holds
        and pairs.n < last
        and (pairs.n < first or (probability_cheaper(pairs) > FUTILITY and refutation(pairs) is None))
    ]
    return tuple(sorted(open_arms, key=lambda name: _typical_cost(paired[name])))


def _stay(subtask: Subtask[Any, Any], paired: Mapping[str, Pairs], verdicts: Mapping[str, Verdict]) -> Decision:
    incumbent = subtask.incumbent.name
    if not paired:
        return Decision(incumbent, "no alternative", f"{incumbent} is the only arm that may be chosen")
    n, first = max(pairs.n for pairs in paired.values()), needed(paired)
    nearest = _contender(paired, min(n, first))
    difference, interval = nearest.mean()
    if n < first:
        reason = insufficient(n, first, max(len(pairs.units) for pairs in paired.values()))
        return Decision(incumbent, "insufficient evidence", reason, n, difference, interval)
    rule, why = verdicts[nearest.arm].rule, verdicts[nearest.arm].reason
    reason = f"{incumbent} stays; nearest {_described(nearest)}; {rule} fails: {why}"
    return Decision(incumbent, f"not certified: {rule}", reason, nearest.n, difference, interval)


def _switch(pairs: Pairs, verdict: Verdict) -> Decision:
    reason = f"{_described(pairs)}; certified: {verdict.reason}"
    return Decision(pairs.arm, "certified", reason, pairs.n, *pairs.mean())


def _contender(paired: Mapping[str, Pairs], n: int) -> Pairs:
    """Return the arm that came nearest: of those with at least `n` units and rather cheaper, the best in quality."""
    ready = [pairs for pairs in paired.values() if pairs.n >= n]
    return min(ready, key=_distance)


def _distance(pairs: Pairs) -> tuple[bool, float, float, str]:
    return probability_cheaper(pairs) < 0.5, quality_p(pairs), -float(np.sum(pairs.difference)), pairs.arm


def _described(pairs: Pairs) -> str:
    mean, interval = pairs.mean()
    if mean is None or interval is None:
        return f"{pairs.arm} (n={pairs.n}, an execution failed)"
    return f"{pairs.arm} (n={pairs.n}, difference {mean:+.4g} [{interval[0]:+.3g}, {interval[1]:+.3g}])"

"""Which arm takes a decision: the rule of PROTOCOL section 4 over stored evidence.

Pure functions of plain numbers. A rule is a small callable on the paired evidence of one arm against the champion;
rules combine with `&` and `|`, and each says in one sentence why it holds or does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.contract import Decision, Kind, Subtask
from tasks.statistics import holm, lower_mean, mean_p, share_above_p, share_p, upper_share

LOOKS = ((20, 0.025), (40, 0.0125), (80, 0.0125))
EXCEEDED_SHARE = 0.20
REVERSE_SHADOW = 0.05
FUTILITY = 0.05
REFUTATION = 0.01
REFUTING_PAIRS = 5
ROUNDING = 1e-12


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
    cost: float | NDArray[np.float64]
    spent: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What a decision is about to be taken for; evidence from another setting does not count.

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


@dataclass(frozen=True)
class Pairs:
    """An arm against the champion on the instances both solved, in the order of collection.

    Attributes:
        arm: name of the arm.
        champion: name of the champion.
        difference: quality of the arm minus that of the champion, shape (n,).
        cost: cost of the arm, shape (n, draws).
        champion_cost: cost of the champion, shape (n, draws).
        spent: what the arm's trials cost so far.
        tolerance: quality that may be lost.
        alpha: error that the quality tests may make at this look, after correction for the number of arms.
        objective: what the costs count.
    """

    arm: str
    champion: str
    difference: NDArray[np.float64]
    cost: NDArray[np.float64]
    champion_cost: NDArray[np.float64]
    spent: float
    tolerance: float
    alpha: float = 0.05
    objective: str = "energy"

    @property
    def n(self) -> int:
        """Number of paired instances."""
        return len(self.difference)

    def first(self, n: int) -> Pairs:
        """Return the first `n` pairs."""
        return self._cut(slice(0, n))

    def after(self, n: int) -> Pairs:
        """Return the pairs behind the first `n`."""
        return self._cut(slice(n, None))

    def _cut(self, part: slice) -> Pairs:
        return replace(
            self,
            difference=self.difference[part],
            cost=self.cost[part],
            champion_cost=self.champion_cost[part],
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds and why, in one sentence."""

    holds: bool
    reason: str
    rule: str = ""


@dataclass(frozen=True)
class Rule:
    """A named condition on paired evidence; `a & b` needs both, `a | b` one of them."""

    name: str
    test: Callable[[Pairs], Verdict]

    def __call__(self, pairs: Pairs) -> Verdict:
        """Apply the rule."""
        return self.test(pairs)

    def __and__(self, other: Rule) -> Rule:
        def both(pairs: Pairs) -> Verdict:
            first = self(pairs)
            if not first.holds:
                return first
            second = other(pairs)
            return Verdict(True, f"{first.reason}; {second.reason}", name) if second.holds else second

        name = f"{self.name} & {other.name}"
        return Rule(name, both)

    def __or__(self, other: Rule) -> Rule:
        def either(pairs: Pairs) -> Verdict:
            first = self(pairs)
            if first.holds:
                return first
            second = other(pairs)
            return second if second.holds else Verdict(False, f"{first.reason}; {second.reason}", name)

        name = f"{self.name} | {other.name}"
        return Rule(name, either)


def enough(n: int = LOOKS[0][0]) -> Rule:
    """Hold from `n` paired instances on."""

    def test(pairs: Pairs) -> Verdict:
        if pairs.n < n:
            return Verdict(False, f"insufficient evidence (n={pairs.n}, need {n})", "enough")
        return Verdict(True, f"n={pairs.n}", "enough")

    return Rule("enough", test)


def rarely_worse(share: float = EXCEEDED_SHARE) -> Rule:
    """Hold if the one-sided Clopper-Pearson bound on the share of instances beyond the tolerance is at most `share`."""

    def test(pairs: Pairs) -> Verdict:
        worse = _exceeded(pairs)
        bound = upper_share(worse, pairs.n, pairs.alpha)
        said = f"{worse} of {pairs.n} instances lose more than {pairs.tolerance:g}, bound {bound:.0%}"
        return Verdict(bound <= share, f"{said} {'<=' if bound <= share else '>'} {share:.0%}", "rarely_worse")

    return Rule("rarely_worse", test)


def no_mean_loss() -> Rule:
    """Hold if the lower bound of the mean paired difference (Student) exceeds minus the tolerance.

    Student is too sure where losses are rare and huge: with one instance in ten losing so much that the mean lies at
    the limit, 16 % of such arms pass instead of 5 %. Reverse shadow and `refutation` are there for them.
    """

    def test(pairs: Pairs) -> Verdict:
        bound = lower_mean(pairs.difference, pairs.alpha)
        holds = bound > -pairs.tolerance
        mean = float(pairs.difference.mean()) if pairs.n else math.nan
        said = f"mean difference {mean:+.4g}, lower bound {bound:+.4g}"
        return Verdict(holds, f"{said} {'>' if holds else '<='} -{pairs.tolerance:g}", "no_mean_loss")

    return Rule("no_mean_loss", test)


def within_quality(share: float = EXCEEDED_SHARE) -> Rule:
    """Hold if the arm rarely loses more than the tolerance and not so on the mean."""
    return rarely_worse(share) & no_mean_loss()


def cheaper(probability: float = 0.95, hysteresis: float = 0.10) -> Rule:
    """Hold if the arm costs less than the champion by `hysteresis` with at least that probability."""

    def test(pairs: Pairs) -> Verdict:
        found = probability_cheaper(pairs, hysteresis)
        holds = found >= probability
        said = f"P({pairs.objective} {hysteresis:.0%} below {pairs.champion}) = {found:.3f}"
        return Verdict(holds, f"{said} {'>=' if holds else '<'} {probability:g}", "cheaper")

    return Rule("cheaper", test)


def repaid(uses: int) -> Rule:
    """Hold if what the arm's trials spent is saved again within `uses` decisions, at the median saving."""

    def test(pairs: Pairs) -> Verdict:
        saving = float(np.median((pairs.champion_cost - pairs.cost).mean(axis=0)))
        needed = math.inf if saving <= 0 else pairs.spent / saving
        holds = needed <= uses
        said = f"trials repaid after {needed:.0f} uses" if math.isfinite(needed) else "trials never repaid"
        return Verdict(holds, f"{said}, {'within' if holds else 'allowed'} {uses}", "repaid")

    return Rule("repaid", test)


def certified(uses: int) -> Rule:
    """Return the rule by which an arm replaces the champion."""
    return within_quality() & cheaper() & repaid(uses)


def quality_p(pairs: Pairs, share: float = EXCEEDED_SHARE) -> float:
    """Return the p-value against "the arm loses quality": the larger one of the two quality tests.

    At most `alpha` exactly if `within_quality` holds at `alpha` (intersection-union test).
    """
    return max(
        share_p(_exceeded(pairs), pairs.n, share),
        mean_p(pairs.difference, -pairs.tolerance),
    )


def probability_cheaper(pairs: Pairs, hysteresis: float = 0.0) -> float:
    """Return P(mean cost of the arm < (1 - hysteresis) x mean cost of the champion).

    The coefficients' draws are shared by both; the instances are weighted anew in each draw (Bayesian bootstrap,
    Rubin, Ann. Statist. 9, 1981), so that few or unequal instances widen the answer.
    """
    n, draws = pairs.cost.shape
    if n == 0:
        return 0.0
    rng = np.random.default_rng(20)  # the answer is a function of the evidence alone
    weights = rng.dirichlet(np.ones(n), size=1000 if draws == 1 else draws).T
    gain = (1 - hysteresis) * pairs.champion_cost - pairs.cost
    return float(np.mean((weights * gain).sum(axis=0) > 0))


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
    eligible = [a for a in subtask.arms[1:] if a.kind is not Kind.CONTROL or a.does_nothing]
    paired = {arm.name: pair(subtask, setting, trials, arm.name) for arm in eligible}
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

    Only the first trial of an instance counts, so that what a look has seen never changes afterwards.
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
        spent=sum(t.spent for t in trials if t.arm == arm and _counts(t, subtask, setting)),
        tolerance=subtask.tolerance,
        objective=setting.objective,
    )


def judge(paired: Mapping[str, Pairs], rule: Rule) -> dict[str, Verdict]:
    """Judge every arm at the looks it has reached, Holm over all arms that have evidence.

    What one look certified stays so until later pairs speak against it.
    """
    verdicts = {name: enough()(pairs) for name, pairs in paired.items()}
    certified_at: dict[str, int] = {}
    family = sum(pairs.n > 0 for pairs in paired.values())
    for n, alpha in LOOKS:
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


def refutation(pairs: Pairs) -> str | None:
    """Say what speaks against a certified arm in the pairs collected after its certification, or None."""
    worse = _exceeded(pairs)
    if share_above_p(worse, pairs.n, EXCEEDED_SHARE) < REFUTATION:
        return f"{worse} of {pairs.n} later instances lose more than {pairs.tolerance:g}"
    if pairs.n < REFUTING_PAIRS:
        return None
    upper = -lower_mean(-pairs.difference, REFUTATION)
    if upper < -pairs.tolerance:
        return f"mean difference of {pairs.n} later instances is below {upper:+.4g}"
    if probability_cheaper(pairs) < FUTILITY:
        return f"costs more than {pairs.champion} on {pairs.n} later instances"
    return None


def _first(
    subtask: Subtask[Any, Any], setting: Setting, trials: Sequence[Trial], arm: str
) -> dict[str, tuple[int, Trial]]:
    found: dict[str, tuple[int, Trial]] = {}
    for i, trial in enumerate(trials):
        if trial.arm == arm and _counts(trial, subtask, setting):
            found.setdefault(trial.instance, (i, trial))
    return found


def _counts(trial: Trial, subtask: Subtask[Any, Any], setting: Setting) -> bool:
    return (
        trial.arm_version == subtask.arm(trial.arm).version
        and trial.backend in ("", setting.backend)
        and trial.bucket == setting.bucket
        and trial.data == setting.data
    )


def _exceeded(pairs: Pairs) -> int:
    return int(np.count_nonzero(~(pairs.difference >= -pairs.tolerance - ROUNDING)))


def _typical_cost(pairs: Pairs) -> float:
    return float(np.median(pairs.cost.mean(axis=0))) if pairs.n else 0.0


def _worth_trying(paired: Mapping[str, Pairs], verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
    # More evidence cannot help after the last look, nor where the costs already speak clearly against the arm.
    last = LOOKS[-1][0]
    open_arms = [
        name
        for name, pairs in paired.items()
        if not verdicts[name].holds
        and pairs.n < last
        and (pairs.n < LOOKS[0][0] or (probability_cheaper(pairs) > FUTILITY and refutation(pairs) is None))
    ]
    return tuple(sorted(open_arms, key=lambda name: _typical_cost(paired[name])))


def _stay(subtask: Subtask[Any, Any], paired: Mapping[str, Pairs], verdicts: Mapping[str, Verdict]) -> Decision:
    incumbent = subtask.incumbent.name
    if not paired:
        return Decision(incumbent, "no alternative", f"{incumbent} is the only arm that may be chosen")
    n = max(pairs.n for pairs in paired.values())
    told = _contender(paired, min(n, LOOKS[0][0]))
    if n < LOOKS[0][0]:
        reason = f"insufficient evidence (n={n}, need {LOOKS[0][0]})"
        return Decision(incumbent, "insufficient evidence", reason, n, *_difference(told))
    rule, why = verdicts[told.arm].rule, verdicts[told.arm].reason
    difference, interval = _difference(told)
    reason = f"{incumbent} stays; nearest {_said(told)}; {rule} fails: {why}"
    return Decision(incumbent, f"not certified: {rule}", reason, told.n, difference, interval)


def _switch(pairs: Pairs, verdict: Verdict) -> Decision:
    difference, interval = _difference(pairs)
    reason = f"{_said(pairs)}; certified: {verdict.reason}"
    return Decision(pairs.arm, "certified", reason, pairs.n, difference, interval)


def _contender(paired: Mapping[str, Pairs], n: int) -> Pairs:
    """Return the arm that came nearest: of those with at least `n` pairs and rather cheaper, the best in quality."""
    ready = [pairs for pairs in paired.values() if pairs.n >= n]
    return min(ready, key=_distance)


def _distance(pairs: Pairs) -> tuple[bool, float, float, str]:
    return probability_cheaper(pairs) < 0.5, quality_p(pairs), -float(np.sum(pairs.difference)), pairs.arm


def _difference(pairs: Pairs) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean paired difference and its two-sided 95 % Student interval, None where an execution failed."""
    low = lower_mean(pairs.difference, 0.025)
    if not math.isfinite(low):
        return None, None
    mean = float(pairs.difference.mean())
    return mean, (low, 2 * mean - low)


def _said(pairs: Pairs) -> str:
    mean, interval = _difference(pairs)
    if mean is None or interval is None:
        return f"{pairs.arm} (n={pairs.n}, an execution failed)"
    return f"{pairs.arm} (n={pairs.n}, difference {mean:+.4g} [{interval[0]:+.3g}, {interval[1]:+.3g}])"

"""The rules by which an arm replaces the incumbent (PROTOCOL section 4), on paired evidence.

A rule is a small callable on the pairs of one arm and the champion; rules combine with `&` and `|`, and each says in
one sentence why it holds or does not. Pure functions of plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.statistics import lower_mean, mean_interval, mean_p, share_p, unit_hits, upper_share

Array = NDArray[np.float64]

EXCEEDED_SHARE = 0.20  # of the instances may lose more than the tolerance
SEVERE = 10.0  # tolerances; a larger loss is a total failure
SEVERE_SHARE = 0.03  # an arm that fails totally so often must not pass, however good its mean
LEAST_UNITS = 8
ROUNDING = 1e-12


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
        units: the unit of independence of each pair; pairs of one unit are clustered.
        alpha: error that the quality tests may make at this look, after correction for the number of arms.
        objective: what the costs count.
    """

    arm: str
    champion: str
    difference: Array
    cost: Array
    champion_cost: Array
    spent: float
    tolerance: float
    units: tuple[str, ...]
    alpha: float = 0.05
    objective: str = "energy"

    @property
    def n(self) -> int:
        """Number of independent units."""
        return len(set(self.units))

    def first(self, n: int) -> Pairs:
        """Return the pairs up to the first one of the n-th unit: what a look at n units has seen never changes."""
        return self._cut(slice(0, self._position(n)))

    def after(self, n: int) -> Pairs:
        """Return the pairs behind those of `first(n)`."""
        return self._cut(slice(self._position(n), None))

    def _position(self, n: int) -> int:
        seen: set[str] = set()
        for position, unit in enumerate(self.units, 1):
            seen.add(unit)
            if len(seen) >= n:
                return position
        return len(self.units)

    def _cut(self, part: slice) -> Pairs:
        return replace(
            self,
            difference=self.difference[part],
            cost=self.cost[part],
            champion_cost=self.champion_cost[part],
            units=self.units[part],
        )

    def losing(self, tolerances: float = 1.0) -> NDArray[np.bool_]:
        """Return which pairs lose more than so many tolerances; a failed execution does."""
        return np.asarray(~(self.difference >= -tolerances * self.tolerance - ROUNDING))

    def mean(self) -> tuple[float | None, tuple[float, float] | None]:
        """Return the mean difference and its two-sided 95 % interval, None where an execution failed."""
        interval = mean_interval(self.difference, self.units)
        return (float(self.difference.mean()), interval) if interval else (None, None)


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


def smallest_n(alpha: float) -> int:
    """Return the number of independent units from which an arm without any loss passes the quality rules at `alpha`.

    No loss in n units bounds a share by 1 - alpha^(1/n); the smallest share that has to be excluded decides.
    """
    return max(LEAST_UNITS, math.ceil(math.log(alpha) / math.log1p(-min(SEVERE_SHARE, EXCEEDED_SHARE)) - 1e-9))


def enough(n: int = LEAST_UNITS) -> Rule:
    """Hold from `n` independent units on."""

    def test(pairs: Pairs) -> Verdict:
        if pairs.n < n:
            return Verdict(False, insufficient(pairs.n, n, len(pairs.units)), "enough")
        return Verdict(True, f"n={pairs.n}", "enough")

    return Rule("enough", test)


def insufficient(n: int, needed: int, pairs: int) -> str:
    """Say how much evidence there is and how much is needed."""
    of = f" independent units among {pairs} instances" if pairs != n else ""
    return f"insufficient evidence (n={n}{of}, need {needed})"


def rarely_worse(share: float = EXCEEDED_SHARE) -> Rule:
    """Hold if the one-sided Clopper-Pearson bound on the share of units beyond the tolerance is at most `share`."""
    return _bounded_share("rarely_worse", 1.0, share)


def rarely_ruinous(share: float = SEVERE_SHARE, tolerances: float = SEVERE) -> Rule:
    """Hold if the bound on the share of total failures, losses of many tolerances, is at most `share`."""
    return _bounded_share("rarely_ruinous", tolerances, share)


def _bounded_share(name: str, tolerances: float, share: float) -> Rule:
    def test(pairs: Pairs) -> Verdict:
        losing = pairs.losing(tolerances)
        bound = upper_share(*unit_hits(losing, pairs.units), pairs.alpha)
        lost = f"{np.count_nonzero(losing)} of {len(losing)} instances lose more than {tolerances * pairs.tolerance:g}"
        by = "" if pairs.n == len(losing) else f" ({pairs.n} independent units)"
        holds = bound <= share + 1e-12
        return Verdict(holds, f"{lost}{by}, bound {bound:.1%} {'<=' if holds else '>'} {share:.0%}", name)

    return Rule(name, test)


def no_mean_loss() -> Rule:
    """Hold if the lower bound of the mean paired difference (Student, clustered by unit) exceeds minus the tolerance.

    Student is too sure where losses are rare and huge; `rarely_ruinous` bounds those.
    """

    def test(pairs: Pairs) -> Verdict:
        bound = lower_mean(pairs.difference, pairs.alpha, pairs.units)
        holds = bound > -pairs.tolerance
        mean = float(pairs.difference.mean()) if len(pairs.difference) else math.nan
        said = f"mean difference {mean:+.4g}, lower bound {bound:+.4g}"
        return Verdict(holds, f"{said} {'>' if holds else '<='} -{pairs.tolerance:g}", "no_mean_loss")

    return Rule("no_mean_loss", test)


def within_quality() -> Rule:
    """Hold if the arm rarely exceeds the tolerance, hardly ever fails totally, and keeps the mean within it."""
    return rarely_worse() & rarely_ruinous() & no_mean_loss()


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


def quality_p(pairs: Pairs) -> float:
    """Return the p-value against "the arm loses quality": the largest one of the three quality tests.

    At most `alpha` exactly if `within_quality` holds at `alpha` (intersection-union test).
    """
    return max(
        share_p(*unit_hits(pairs.losing(), pairs.units), EXCEEDED_SHARE),
        share_p(*unit_hits(pairs.losing(SEVERE), pairs.units), SEVERE_SHARE),
        mean_p(pairs.difference, -pairs.tolerance, pairs.units),
    )


def probability_cheaper(pairs: Pairs, hysteresis: float = 0.0) -> float:
    """Return P(mean cost of the arm < (1 - hysteresis) x mean cost of the champion).

    The coefficients' draws are shared by both; the units are weighted anew in each draw (Bayesian bootstrap, Rubin,
    Ann. Statist. 9, 1981), so that few or unequal units widen the answer.
    """
    n, draws = pairs.cost.shape
    if n == 0:
        return 0.0
    gain = (1 - hysteresis) * pairs.champion_cost - pairs.cost
    labels = np.unique(np.asarray(pairs.units), return_inverse=True)[1]
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    by_unit = np.add.reduceat(gain[order], starts, axis=0)
    rng = np.random.default_rng(20)  # the answer is a function of the evidence alone
    weights = rng.dirichlet(np.ones(len(by_unit)), size=1000 if draws == 1 else draws).T
    return float(np.mean((weights * by_unit).sum(axis=0) > 0))

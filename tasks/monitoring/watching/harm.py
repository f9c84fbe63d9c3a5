"""Quality without labels: whether drift reduces the quality of the model. No side effects.

There are two proxies. The first is the mean log-likelihood of the prompts under the served model: if the model predicts
the prompts of a window as well as those of the reference, no retraining is needed. The second is the calibrated
performance estimate: if some past requests have a known outcome (feedback, a late label), isotonic regression maps the
model's confidence to the outcome, and the confidences of the window give the estimate (Guillory et al., ICCV 2021;
confidence-based estimation in Kivimaki et al., arXiv 2407.08649). It assumes that the relation between confidence and
outcome is unchanged, and cannot detect harm that does not change the confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Values = NDArray[np.floating[Any]]

MARGIN = 0.2  # nats per token; a loss of this size raises the perplexity by about a fifth
CONFIDENCE = 0.95


class Verdict(StrEnum):
    """Whether the quality is held, harmed, or unclear."""

    HELD = "held"
    HARMED = "harmed"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Harm:
    """Quality of a window against the reference.

    Attributes:
        difference: window minus reference, higher is better.
        low: lower end of the two-sided 95 % interval of the difference (Welch).
        high: upper end of that interval.
        p_value: one-sided p-value of the hypothesis that the loss is at most the margin.
        verdict: held, harmed or unclear.
    """

    difference: float
    low: float
    high: float
    p_value: float
    verdict: Verdict


def compare_quality(reference: Values, window: Values, margin: float = MARGIN) -> Harm | None:
    """Compare one quality per request of two samples; None if either has fewer than two finite values.

    Args:
        reference: quality of each reference request, e.g. the mean log-likelihood per token in nats.
        window: quality of each request of the window.
        margin: largest loss that counts as no harm.

    Raises:
        ValueError: the margin is negative.
    """
    if margin < 0:
        raise ValueError(f"the margin is a loss of at least 0, not {margin}")
    a, b = (np.asarray(x, np.float64)[np.isfinite(x)] for x in (reference, window))
    if min(len(a), len(b)) < 2:
        return None
    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = float(np.sqrt(sum(parts)))
    difference = float(b.mean() - a.mean())
    if not error:
        verdict = Verdict.HELD if difference > -margin else Verdict.HARMED
        return Harm(difference, difference, difference, float(verdict is Verdict.HELD), verdict)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = float(special.stdtr(freedom, (difference + margin) / error))
    low, high = difference - half, difference + half
    verdict = Verdict.HELD if low > -margin else Verdict.HARMED if high < -margin else Verdict.UNCLEAR
    return Harm(difference, low, high, p, verdict)


def estimate_performance(
    confidence: Values, outcome: Values, current: Values, rng: np.random.Generator, resamples: int = 200
) -> tuple[float, float, float]:
    """Estimate the mean outcome of requests without labels: (estimate, low, high), a 95 % bootstrap interval.

    Args:
        confidence: the model's confidence on past requests whose outcome is known.
        outcome: known outcomes, e.g. the share of right tokens, or 0 and 1.
        current: confidence on the requests without labels.
        rng: random generator of the resamples of past and current requests.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: there are fewer than ten known outcomes or no current request, or the lengths differ.
    """
    from sklearn.isotonic import IsotonicRegression

    if len(confidence) != len(outcome):
        raise ValueError(f"{len(confidence)} confidences should be as many as the outcomes ({len(outcome)})")
    if len(outcome) < 10 or not len(current):
        raise ValueError(
            f"at least 10 known outcomes and 1 current request are needed, not {len(outcome)}, {len(current)}"
        )

    def estimate(past: NDArray[np.intp], now: Values) -> float:
        fitted = IsotonicRegression(out_of_bounds="clip").fit(confidence[past], outcome[past])
        return float(fitted.predict(now).mean())

    everything = np.arange(len(outcome))
    draws = [
        estimate(rng.choice(everything, len(everything)), rng.choice(current, len(current))) for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return estimate(everything, current), float(low), float(high)

"""Ratio of billed to estimated QPU seconds, learned from the finished jobs of each backend.

A bill is modelled as the estimate times a factor that scatters like a log-normal: the factor is the exponent of the
mean log ratio, its interval that mean's Student t interval. Before a backend has `MIN_JOBS` jobs the factor of recorded
jobs stands in (`qpu.bill_factor` of the coefficients), with the range that was seen there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from infra.runtime.ledger.ledger import DONE, Ledger
from infra.runtime.ledger.schema import batches

MIN_JOBS = 3
CONFIDENCE = 0.95
RECENT = 200  # jobs that count; a device's overhead changes over the months


@dataclass(frozen=True)
class Correction:
    """What an estimate is to be multiplied with.

    Attributes:
        factor: seconds billed for each second estimated.
        low: lower end of its interval.
        high: upper end of its interval.
        n: jobs that it rests on; 0 = recorded jobs of others.
        scatter: factor by which a single bill is off, one standard deviation; None where it is not known.
    """

    factor: float
    low: float
    high: float
    n: int
    scatter: float | None = None


def correction(ledger: Ledger, backend: str) -> Correction:
    """Return the correction of a backend's estimates from its finished jobs, else that of recorded jobs."""
    pairs = _pairs(ledger, backend)
    return fit(pairs) if len(pairs) >= MIN_JOBS else recorded()


def fit(pairs: Sequence[tuple[float, float]]) -> Correction:
    """Return the correction from pairs of (estimate, bill), both above 0.

    Raises:
        ValueError: fewer than two pairs.
    """
    if len(pairs) < 2:
        raise ValueError(f"an interval needs two jobs, there are {len(pairs)}")
    from scipy.special import stdtrit

    logs = [math.log(billed / estimate) for estimate, billed in pairs]
    n, mean = len(logs), math.fsum(logs) / len(logs)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * deviation / math.sqrt(n)
    return Correction(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n, math.exp(deviation))


@lru_cache(maxsize=1)
def recorded() -> Correction:
    """Return the factor of recorded jobs, with the range that was seen."""
    from infra.energy.model import Coefficients

    coefficients = Coefficients.load()
    seen = coefficients.draws("qpu.bill_factor")
    return Correction(float(coefficients.value("qpu.bill_factor")), float(seen.min()), float(seen.max()), 0)


def calibration_table(ledger: Ledger) -> list[dict[str, Any]]:
    """Return a row for each backend that was billed: seconds estimated and billed, and the correction in use."""
    with ledger.database.read() as connection:
        lanes = connection.scalars(sa.select(batches.c.lane).where(*_BILLED).distinct()).all()
    table = []
    for backend in sorted(lanes):
        pairs, found = _pairs(ledger, backend), correction(ledger, backend)
        table.append(
            {
                "backend": backend,
                "jobs": len(pairs),
                "estimated_s": math.fsum(estimate for estimate, _ in pairs),
                "billed_s": math.fsum(billed for _, billed in pairs),
                "factor": found.factor,
                "low": found.low,
                "high": found.high,
                "scatter": found.scatter,
                "source": f"its {found.n} last jobs" if found.n else "recorded jobs",
            }
        )
    return table


_BILLED = (batches.c.state == DONE, batches.c.estimate_s > 0, batches.c.billed_s > 0)


def _pairs(ledger: Ledger, backend: str) -> list[tuple[float, float]]:
    """Return (estimate, bill) of the latest finished jobs; failed and cancelled ones were billed for part of theirs."""
    query = (
        sa.select(batches.c.estimate_s, batches.c.billed_s)
        .where(batches.c.lane == backend, *_BILLED)
        .order_by(batches.c.updated.desc())
        .limit(RECENT)
    )
    with ledger.database.read() as connection:
        return [(float(estimate), float(billed)) for estimate, billed in connection.execute(query)]

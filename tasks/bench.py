"""A bench without runtime queue and cluster: to try an arm by hand, in tests and in benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qiskit.primitives import BaseSamplerV2, StatevectorEstimator, StatevectorSampler

from tasks.contract import Bench


def make_bench(seed: int = 1, scratch: Path = Path(), sampler: BaseSamplerV2 | None = None) -> Bench:
    """Return a bench with Qiskit's own primitives; everything runs in this process, and nothing is metered.

    Args:
        seed: of the random numbers, of the estimator, and of the sampler unless one is given.
        scratch: folder for the files and the checkpoints of the arm.
        sampler: runs the circuits; by default an exact statevector.
    """
    cache: dict[str, Any] = {}

    def once(key: str, make: Callable[[], Any], /) -> Any:
        if key not in cache:
            cache[key] = make()
        return cache[key]

    return Bench(
        rng=np.random.default_rng(seed),
        sampler=sampler or StatevectorSampler(seed=seed),
        estimator=StatevectorEstimator(seed=seed),
        map=lambda function, items: [function(item) for item in items],
        once=once,
        scratch=scratch,
        resume=lambda: scratch,
    )

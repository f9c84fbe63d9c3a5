"""Ask whether two tables come from one distribution, by a permutation test and by a quantum kernel beside it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra import settings
from tasks.monitoring.compare import Question
from tasks.monitoring.two_tables import compare_tables


def table(rng: np.random.Generator, n: int, slow: float) -> pa.Table:
    """Return n requests to a service; `slow` is added to each latency in seconds."""
    return pa.table(
        {
            "latency_s": rng.gamma(2.0, 0.2, n) + slow,
            "tokens": rng.poisson(120, n),
            "route": rng.choice(["chat", "search", "code"], n, p=[0.6, 0.3, 0.1]),
        }
    )


def main(folder: Path) -> None:
    """Compare last week with a week that is like it and with one in which answers became slower."""
    rng = np.random.default_rng(0)
    loaded = settings.load(home=folder)
    reference = table(rng, 200, slow=0.0)
    question = Question(rows=40, permutations=99, shots=64)
    for name, current in (("a week like it", table(rng, 200, 0.0)), ("a slower week", table(rng, 200, 0.3))):
        found, details = compare_tables(loaded, reference, current, question, arms=("kernel-pool",))
        print(f"{name}: {found.verdict}; columns that moved: {', '.join(found.drifted_columns) or 'none'}")
        for arm, said in details["arms"].items():
            print(f"  {arm}: {said['verdict']}, p = {said['p_value']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))

"""Run two arms of a decision on many instances, compare them pair by pair, and derive their energy."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from infra import settings
from infra.energy.model import Coefficients
from tasks.combinatorial.independent_set import Graph
from tasks.contract import Method
from tasks.curation.representatives.problem import Components
from tasks.curation.representatives.subtask import REPRESENTATIVES
from tasks.settle import run_arms
from tasks.statistics import mean_interval
from tasks.workbench import Workbench


def component(rng: np.random.Generator, nodes: int = 9) -> Graph:
    """Return a random component of near-duplicate documents: node weights and pairs that are alike."""
    pairs = [(i, j) for i in range(nodes) for j in range(i + 1, nodes) if rng.random() < 0.35]
    return Graph.of(rng.uniform(5.0, 25.0, nodes), np.array(pairs))


def main(folder: Path) -> None:
    """Which documents stay: the greedy choice against a branch-and-bound that proves its optimum."""
    rng = np.random.default_rng(0)
    loaded = settings.load(home=folder)
    bench = Workbench("example", loaded.home, loaded.ledger, method=Method.SHADOW, minimum_s=0.0, blocks=1)
    arms = ("greedy", "exact")
    for instance in range(10):
        problem = Components((component(rng),), (tuple(f"{instance}-{k}" for k in range(9)),))
        run_arms(REPRESENTATIVES, problem, arms, bench)

    rows = {arm: {row.problem: row for row in bench.evidence.read(run_id="example") if row.arm == arm} for arm in arms}
    difference = np.array([rows["exact"][p].qualities[0] - rows["greedy"][p].qualities[0] for p in rows["greedy"]])
    low, high = mean_interval(difference, [str(k) for k in range(len(difference))]) or (np.nan, np.nan)
    print(f"exact minus greedy, share of the best weight: {difference.mean():.4f}, 95 % [{low:.4f}, {high:.4f}]")
    coefficients = Coefficients.load()
    for arm in arms:
        spent = [coefficients.cpu_energy_j(row.usage, source=row.energy_source).p50 for row in rows[arm].values()]
        sources = ", ".join({row.energy_source for row in rows[arm].values()})
        print(f"{arm}: {1000 * np.mean(spent):.3g} mJ for each component ({sources})")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))

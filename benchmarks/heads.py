"""The circuit head against logistic regression on the same components, with many labels of each class.

    python -m benchmarks.heads [--labels 100] [--instances 16] [--write]

The first instances of the bank with so many labels of each class. The limit: the circuit head, its test texts read by
shots on Aer, within 1.5 points of logistic regression on the same 8 components. Differences are paired; no two
instances share a passage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from qiskit_aer.primitives import SamplerV2

from benchmarks.page import write_part
from benchmarks.training import table
from flows.study.bank import gather_material
from infra import settings
from tasks.bench import make_bench
from tasks.finetuning.head.bank import bank
from tasks.finetuning.head.problem import FewShot, quality
from tasks.finetuning.head.subtask import HEAD
from tasks.statistics import mean_interval

LIMIT = 0.015
ARMS = ("circuit", "logistic")  # against the incumbent
PAGE = Path(__file__).parents[1] / "docs" / "stages" / "finetuning.md"


def problems(labels: int, instances: int) -> Iterator[tuple[str, FewShot]]:
    """Yield source and problem of the first instances with so many labels of each class."""
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
        found = (i for i in bank(material, np.random.default_rng([0, 7])) if i.size == 2 * labels)
        for instance in islice(found, instances):
            yield instance.source, instance.pose()


def accuracy(arm: str, problem: FewShot, seed: int) -> float:
    """Return the share of texts that an arm labels rightly."""
    bench = make_bench(seed, Path(tempfile.gettempdir()), SamplerV2(seed=seed))
    return quality(problem, HEAD.arm(arm).solve(problem, bench))[0]


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it into the page of the stage if told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100, help="of each class; one of the numbers of the bank")
    parser.add_argument("--instances", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="put the table into docs/stages/finetuning.md")
    given = parser.parse_args(arguments)
    sources, found = [], []
    for seed, (source, problem) in enumerate(problems(given.labels, given.instances)):
        sources.append(source)
        found.append([accuracy(name, problem, seed) for name in (HEAD.incumbent.name, *ARMS)])
    if not found:
        parser.error(f"the bank has no instance with {given.labels} labels of each class")
    values = np.array(found)
    rows = [(HEAD.incumbent.name, f"{values[:, 0].mean():.4f}", "-", "-")]
    for column, name in enumerate(ARMS, 1):
        differences = values[:, column] - values[:, 0]
        mean, (low, high) = float(differences.mean()), mean_interval(differences) or (-np.inf, np.inf)
        met = "met" if mean >= -LIMIT else "missed"
        rows.append((name, f"{values[:, column].mean():.4f}", f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", met))
    header = (
        f"head, {given.labels} labels a class, {len(values)} instances of {len(set(sources))} sources",
        "share of right labels",
        f"difference to {HEAD.incumbent.name} [95 %]",
        f"within {LIMIT:g}, by the mean",
    )
    made = table(header, rows)
    sys.stdout.write(made)
    if given.write:
        write_part(PAGE, "heads", made)


if __name__ == "__main__":
    main()

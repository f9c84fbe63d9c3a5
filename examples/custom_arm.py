"""A decision of your own with three arms: a classical one, a quantum one and a control, metered side by side."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from qiskit import QuantumCircuit

from infra import settings
from tasks.contract import Arm, Bench, Instance, Kind, Material, Subtask
from tasks.settle import run_arms
from tasks.workbench import Workbench


@dataclass(frozen=True)
class Split:
    """Sizes of some shards, to be divided between two workers."""

    sizes: tuple[int, ...]


Sides = tuple[int, ...]  # 0 or 1 for each shard


def quality(problem: Split, sides: Sides) -> tuple[float, ...]:
    """Return the smaller half over half of all; 1 is a perfect division."""
    total, first = sum(problem.sizes), sum(s for s, side in zip(problem.sizes, sides, strict=True) if side)
    return (2 * min(first, total - first) / total,)


def largest_first(problem: Split, _: Bench) -> Sides:
    """Give the next largest shard to the worker that has less (LPT; Graham, SIAM J. Appl. Math. 17 (1969))."""
    loads, sides = [0, 0], [0] * len(problem.sizes)
    for k in np.argsort(problem.sizes)[::-1]:
        sides[k] = int(loads[1] < loads[0])
        loads[sides[k]] += problem.sizes[k]
    return tuple(sides)


def coins(problem: Split, bench: Bench) -> Sides:
    """Measure a superposition of all divisions and take the best that was seen."""
    circuit = QuantumCircuit(len(problem.sizes))
    circuit.h(range(len(problem.sizes)))
    circuit.measure_all()
    counts = bench.sampler.run([circuit], shots=32).result()[0].data.meas.get_counts()
    return max((tuple(map(int, bits)) for bits in counts), key=lambda sides: quality(problem, sides))


def chance(problem: Split, bench: Bench) -> Sides:
    """Take the best of as many random divisions: the control of a sampler."""
    drawn = bench.rng.integers(0, 2, (32, len(problem.sizes)))
    return max((tuple(map(int, row)) for row in drawn), key=lambda sides: quality(problem, sides))


def example(rng: np.random.Generator) -> Split:
    """Return ten shards."""
    return Split(tuple(int(n) for n in rng.integers(10, 100, 10)))


def bank(_: Material, rng: np.random.Generator) -> Iterator[Instance[Split]]:
    """Yield independent instances, which a study would run."""
    for k in range(20):
        problem = example(rng)
        yield Instance("random", str(k), len(problem.sizes), partial(Split, problem.sizes))


SPLIT: Subtask[Split, Sides] = Subtask(
    stage="preprocessing",
    name="split",
    incumbent=Arm("largest-first", Kind.CLASSICAL, largest_first),
    challenger=Arm("coins", Kind.QUANTUM, coins),
    others=(Arm("chance", Kind.CONTROL, chance),),
    quality=quality,
    metric="smaller half over half of all",
    size=lambda problem: len(problem.sizes),
    tolerance=0.01,
    bank=bank,
    example=example,
)


def main(folder: Path) -> None:
    """Run all arms on one problem and print what each found and used."""
    loaded = settings.load(home=folder)
    bench = Workbench("custom", loaded.home, loaded.ledger, minimum_s=0.0, blocks=1)
    problem = example(np.random.default_rng(0))
    run_arms(SPLIT, problem, [arm.name for arm in SPLIT.arms], bench)
    for row in bench.evidence.read(run_id="custom"):
        print(f"{row.arm}: quality {row.qualities[0]:.4f}, {row.usage.cpu_s:.2g} CPU s, {row.usage.circuits} circuits")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))

"""Solvers of quadratic problems: time and memory of the exact one, hits of annealing that keeps the cardinality.

    python -m benchmarks.qubo [--instances 100]

Instances look like those of `pruning`: positive linear terms, pairs a fifth as large with both signs, dense, k ones
wanted. The limits are .05 s at 20 dense variables, 1 s and 400 MB at 24, and the optimum in at least 99 % of the
instances up to 20 variables, of which half go. Time is CPU time; memory is by how much
the peak of a process rises, libraries loaded before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from functools import partial
from statistics import median

import numpy as np

from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise, minimise_cardinality
from tasks.combinatorial.qubo import Qubo
from tasks.inference.pruning.arms import READS, SWEEPS

LIMITS = {20: (0.05, None), 24: (1.0, 400.0)}  # seconds, MB
SIZES = (12, 16, 20)
REPEATS = 5


def instance(n: int, seed: int) -> Qubo:
    """Return a dense problem of n units."""
    rng = np.random.default_rng([n, seed])
    pairs = np.triu(rng.normal(0, 0.2, (n, n)), 1)
    return Qubo(rng.gamma(2.0, 0.5, n), pairs + pairs.T)


def solve(n: int, k: int | None) -> tuple[float, float]:
    """Return CPU seconds (median of five) and by how many MB they raise the peak of the process.

    Args:
        n: number of variables.
        k: number of ones, None = any.
    """
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(REPEATS):
        qubo = instance(n, seed)
        began = time.process_time()
        _ = minimise(qubo) if k is None else minimise_cardinality(qubo, k)
        seconds.append(time.process_time() - began)
    return median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def hits(n: int, instances: int) -> int:
    """Return in how many instances annealing finds the proven optimum."""
    found = 0
    for seed in range(instances):
        qubo, k = instance(n, seed), n // 2
        best = qubo.energies(minimise_cardinality(qubo, k)[None]).min()
        samples = cardinality_annealing(qubo, k, READS, SWEEPS, np.random.default_rng([n, seed, 1]))
        found += bool(qubo.energies(samples).min() <= best + 1e-9)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=100)
    given = parser.parse_args(arguments)
    print("| exact, dense | CPU s | MB | limit |\n|---|---|---|---|")
    for n, (limit_s, limit_mb) in LIMITS.items():
        for k in (None, n // 2):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(partial(solve, n, k))
            limit = f"{limit_s:g} s" + (f", {limit_mb:g} MB" if limit_mb else "")
            met = seconds <= limit_s and (limit_mb is None or peak <= limit_mb)
            which = "any number of ones" if k is None else f"{k} ones"
            print(f"| {n} variables, {which} | {seconds:.4f} | {peak:.0f} | {limit}: {'met' if met else 'missed'} |")
    print("\n| annealing by swaps, half of the units go | optimum found | limit 99 % |\n|---|---|---|")
    for n in SIZES:
        count = hits(n, given.instances)
        met = count >= 0.99 * given.instances
        print(f"| {n} units | {count} of {given.instances} | {'met' if met else 'missed'} |")


if __name__ == "__main__":
    main()

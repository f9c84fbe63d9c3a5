"""Settings of the arms of `batch_selection`: `python -m benchmarks.selection`.

Sixteen angle pairs of QAOA and sixteen settings of the annealer are compared by the energy that they reach on the
blocks of a pool of shipped licence notices, cut where no instance of the bank is, and four weights of diversity by the
model that the exact solution of the blocks trains.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from tasks.bench import make_bench
from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.model.windows import Windows
from tasks.quantum.qaoa import linear_ramp
from tasks.quantum.statevector import dicke_qaoa_probabilities, draw
from tasks.text.samples import sample_documents
from tasks.training.batch_selection.arms import LAYERS, block_qubos
from tasks.training.batch_selection.bank import BLOCK, CONTEXT, HELD_OUT, KEEP, POOL, STEPS
from tasks.training.batch_selection.problem import Pool, quality

OFFSET = 17  # bytes by which the pool is shifted against those of the bank
SHOTS = 64
ROUNDS = 12  # one round of the annealer cannot tell two reads from four


def tuning_pool() -> Pool:
    """Return a pool of the form of the bank's."""
    text = "\n\n".join(text for _, text in sample_documents("second")).encode()[OFFSET:]
    windows = np.frombuffer(text, np.uint8, (POOL + HELD_OUT) * (CONTEXT + 1)).reshape(-1, CONTEXT + 1)
    held_out = Windows(windows[POOL:].astype(np.int64), np.full(HELD_OUT, CONTEXT, np.int64))
    return Pool(windows[:POOL].astype(np.uint16), 256, KEEP, BLOCK, SHOTS, held_out, STEPS, 5)


def main(_: Sequence[str] | None = None) -> None:
    """Print every setting, the best of each kind last."""
    problem, bench = tuning_pool(), make_bench(5)
    qubos = block_qubos(problem, bench)
    best = np.array([qubo.energies(minimise_cardinality(qubo, KEEP))[0] for qubo in qubos])

    def excess(found: Sequence[Any]) -> float:
        """Return the mean energy of the best sample of each block above the optimum, in standard deviations."""
        energies = [qubo.energies(bits).min() for qubo, bits in zip(qubos, found, strict=True)]
        return float((np.array(energies) - best).mean() / best.std())

    angles = {}
    for gamma, beta in product((0.4, 0.7, 1.0, 1.4), (0.6, 0.9, 1.2, 1.5)):
        means = []
        for qubo, optimum in zip(qubos, best, strict=True):
            subsets, probabilities = dicke_qaoa_probabilities(qubo, KEEP, *linear_ramp(LAYERS, gamma, beta))
            means.append(probabilities @ qubo.energies((subsets[:, None] >> np.arange(BLOCK)) & 1) - optimum)
        angles[gamma, beta] = float(np.mean(means) / best.std())
    report("QAOA (gamma, beta): mean energy of a sample above the optimum", angles)
    uniform = [draw(np.full(45, 1 / 45), BLOCK, SHOTS, bench.rng, subsets) for _ in qubos]
    sys.stdout.write(f"best of {SHOTS} uniform subsets above the optimum: {excess(uniform):.4f}\n")
    anneals = {}
    for reads, sweeps in product((2, 4, 8, 16), (5, 10, 20, 40)):
        began = time.process_time()
        rounds = [
            excess([cardinality_annealing(qubo, KEEP, reads, sweeps, bench.rng) for qubo in qubos])
            for _ in range(ROUNDS)
        ]
        anneals[reads, sweeps] = float(np.mean(rounds)) + 1e-3 * (time.process_time() - began) / ROUNDS
    title = f"annealing (reads, sweeps), mean of {ROUNDS} rounds: best energy above the optimum, and .001 a CPU second"
    report(title, anneals)
    weights = {}
    for diversity in (0.0, 0.5, 1.0, 2.0):
        rows = [
            number * BLOCK + row
            for number, qubo in enumerate(block_qubos(problem, bench, diversity))
            for row in np.flatnonzero(minimise_cardinality(qubo, KEEP)).tolist()
        ]
        weights[diversity] = -quality(problem, tuple(rows))[0]
    report("weight of diversity: bits per byte", weights)


def report(title: str, found: dict[Any, float]) -> None:
    """Print settings with their figure, the lowest last."""
    sys.stdout.write(f"{title}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    sys.stdout.write(f"; lowest {min(found, key=found.__getitem__)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

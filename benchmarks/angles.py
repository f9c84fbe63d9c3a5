"""Tunes the ramps of QAOA arms, and their opponents' temperatures with as many trials, on problems no study has.

`python -m benchmarks.angles STAGE/DECISION [--write]`; `--write` stores the result in `angles.yaml` beside the arms.

`curation/representatives`: connected parts of the components that its bank leaves out. The ramp is the one of a grid
with the largest geometric mean of P(optimal) of the raw outcome; with a warm start the lowest conditional value at
risk, the mean energy of the best tenth (Barkoutsos et al., Quantum 4, 256 (2020), arXiv 1907.04769).
`inference/pruning`: the surrogates of models that its bank leaves out, P(optimal) among the subsets; its opponent, the
annealing by swaps, by P(optimal) of a read of 10 sweeps, for with the 100 of the arm nearly every read is optimal. The
annealing is best at the cold edge of any grid, where it is a descent.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import dimod
import numpy as np
import yaml
from dwave.samplers import SimulatedAnnealingSampler

from flows.study.bank import gather_material
from infra import settings
from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.independent_set import Graph, greedy, independent_set_qubo
from tasks.combinatorial.qubo import Bits, Floats, Qubo
from tasks.curation.representatives.bank import tuning_graphs
from tasks.curation.representatives.samplers import KEPT_SHARE, warm_bits
from tasks.inference.pruning.bank import tuning_problems
from tasks.inference.pruning.problem import children, pairwise_qubo
from tasks.quantum.qaoa import linear_ramp
from tasks.quantum.statevector import dicke_qaoa_probabilities, energies_of_all, qaoa_probabilities

LAYERS, ANNEALING_LAYERS = 3, 6
GAMMAS = (0.7, 1.0, 1.4, 2.0, 2.5, 3.0, 3.6, 4.3)
BETAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
HOT = (0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.4, 3.2)  # inverse temperatures; weights have mean 1
COLD = (0.8, 1.6, 3.0, 6.0, 12.0, 24.0)
DICKE_BETAS = (0.3, 0.5, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2)  # of the complete-graph mixer, whose angles are divided by n
FIRST = (5e-4, 2e-3, 6e-3, 0.0125, 0.025, 0.05, 0.1, 0.4)  # temperatures of annealing by swaps, in units of a change
LAST = (2e-6, 2e-5, 2e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05)
SIZES, PER_SIZE, READS, SWEEPS = (8, 10), 20, 512, (1, 3, 10)
EQUAL = 1e-9
TUNING_PROBLEMS = 8

Score = Callable[[float, float], float]


def connected_part(graph: Graph, size: int, rng: np.random.Generator) -> Graph | None:
    """Grow a connected part of a component from a random node; None where it is a clique, which is no problem."""
    nodes = [int(rng.integers(graph.size))]
    while len(nodes) < size:
        reach = [v for v in range(graph.size) if v not in nodes and any(graph.neighbours[v] >> u & 1 for u in nodes)]
        nodes.append(reach[int(rng.integers(len(reach)))])
    part = graph.subgraph(sorted(nodes))
    return None if part.is_clique else part


def parts_of(graphs: Sequence[Graph], size: int, count: int, rng: np.random.Generator) -> list[Graph]:
    """Return connected parts of random components."""
    large, found = [graph for graph in graphs if graph.size >= size], list[Graph]()
    while len(found) < count:
        part = connected_part(large[int(rng.integers(len(large)))], size, rng)
        found += [part] if part is not None else []
    return found


def anneal(qubo: Qubo, sweeps: int, inverse: tuple[float, float] | None, reads: int, seed: int) -> Bits:
    """Return (reads, n) states after so many sweeps between two inverse temperatures; None = the sampler's own."""
    model = dimod.BinaryQuadraticModel(qubo.linear, qubo.quadratic / 2, qubo.offset, dimod.BINARY)
    sampler: Any = SimulatedAnnealingSampler()  # type: ignore[no-untyped-call]
    found = sampler.sample(model, num_reads=reads, num_sweeps=sweeps, beta_range=inverse, seed=seed)
    bits: Bits = found.record.sample[:, np.argsort(np.asarray(found.variables))].astype(np.uint8)
    return bits


def hit_rate(qubo: Qubo, bits: Bits, lowest: float) -> float:
    """Return the share of rows with the lowest energy, half a row at least."""
    return max(float((qubo.energies(bits) <= lowest + EQUAL).sum()), 0.5) / len(bits)


def best_of(name: str, grid: Sequence[tuple[float, float]], score: Score) -> tuple[float, float]:
    """Return the point of a grid with the highest score; print it with the quartiles, and whether it is at an edge."""
    values = [score(*point) for point in grid]
    best = int(np.argmax(values))
    low, high = np.quantile(values, (0.25, 0.75))
    edge = any(value in (min(axis), max(axis)) for value, axis in zip(grid[best], zip(*grid, strict=True), strict=True))
    sys.stdout.write(
        f"{name}: best of {len(grid)} trials {grid[best]}, score {values[best]:.3f} (quartiles {low:.3f}, {high:.3f})"
        f"{', at the edge of the grid' if edge else ''}\n"
    )
    sys.stdout.flush()
    return grid[best]


def log_mean(values: Sequence[float]) -> float:
    """Return the mean of the binary logarithms."""
    return float(np.mean(np.log2(values)))


def tune_representatives(rng: np.random.Generator) -> dict[str, Any]:
    """Return the ramps, their source, and the opponents' temperatures."""
    with tempfile.TemporaryDirectory() as folder:
        graphs = tuning_graphs(gather_material(settings.load(home=Path(folder))))
    parts = [part for size in SIZES for part in parts_of(graphs, size, PER_SIZE, rng)]
    problems = [(g, q, energies_of_all(q)) for g in parts for q in (independent_set_qubo(g),)]
    ramps, inverse = list(product(GAMMAS, BETAS)), [(h, c) for h, c in product(HOT, COLD) if h <= c]

    def chance(gamma: float, beta: float) -> float:
        return log_mean([
            float(qaoa_probabilities(q, *linear_ramp(LAYERS, gamma, beta), None, e)[e <= e.min() + EQUAL].sum())
            for _, q, e in problems
        ])  # fmt: skip

    def at_risk(gamma: float, beta: float) -> float:
        return float(np.mean([
            -value_at_risk(qaoa_probabilities(q, *linear_ramp(LAYERS, gamma, beta), warm_bits(g, greedy(g)), e), e)
            / -e.min()
            for g, q, e in problems
        ]))  # fmt: skip

    def annealed(sweeps: int) -> Score:
        return lambda hot, cold: log_mean(
            [hit_rate(q, anneal(q, sweeps, (hot, cold), READS, 0), float(e.min())) for _, q, e in problems]
        )

    found = {name: best_of(name, ramps, score) for name, score in (("qaoa", chance), ("warm-start", at_risk))}
    opponents = {sweeps: list(best_of(f"annealing, sweeps {sweeps}", inverse, annealed(sweeps))) for sweeps in SWEEPS}
    return {
        "source": f"python -m benchmarks.angles curation/representatives: {len(parts)} connected parts of {SIZES} "
        f"nodes of {len(graphs)} components that the bank leaves out, seed 0, {len(ramps)} trials for each ramp",
        "ramps": {name: {"layers": LAYERS, "gamma": g, "beta": b} for name, (g, b) in found.items()},
        "annealing": opponents,
    }


def tune_pruning(rng: np.random.Generator) -> dict[str, Any]:
    """Return the ramps over k-subsets, their source, and the temperatures of the annealing by swaps."""
    with tempfile.TemporaryDirectory() as folder:
        problems = tuning_problems(gather_material(settings.load(home=Path(folder))), rng, TUNING_PROBLEMS)
        qubos = []
        for problem in problems:
            qubos.append((pairwise_qubo(problem, children(problem, (), range(len(problem.units)))), problem.k))
            sys.stdout.write(f"surrogate {len(qubos)} of {len(problems)}\n")
            sys.stdout.flush()
    ramps, temperatures = list(product(GAMMAS, DICKE_BETAS)), list(product(FIRST, LAST))

    def annealed(first: float, last: float) -> float:
        def of(qubo: Qubo, k: int) -> float:
            bits = cardinality_annealing(qubo, k, READS, SWEEPS[-1], np.random.default_rng(0), (first, last))
            return hit_rate(qubo, bits, float(qubo.energies(minimise_cardinality(qubo, k)[None])[0]))

        return log_mean([of(qubo, k) for qubo, k in qubos])

    def chance(layers: int) -> Score:
        return lambda gamma, beta: log_mean([_at_best(qubo, k, layers, gamma, beta) for qubo, k in qubos])

    found = {
        name: (layers, *best_of(name, ramps, chance(layers)))
        for name, layers in (("qaoa", LAYERS), ("trotterised-annealing", ANNEALING_LAYERS))
    }
    return {
        "source": f"python -m benchmarks.angles inference/pruning: surrogates of {len(qubos)} problems of models "
        f"that the bank leaves out, seed 0, {len(ramps)} trials for each ramp and for the temperatures",
        "ramps": {name: {"layers": p, "gamma": g, "beta": b} for name, (p, g, b) in found.items()},
        "annealing": {"swap-annealing": list(best_of("annealing by swaps", temperatures, annealed))},
    }


def _at_best(qubo: Qubo, k: int, layers: int, gamma: float, beta: float) -> float:
    subsets, probabilities = dicke_qaoa_probabilities(qubo, k, *linear_ramp(layers, gamma, beta))
    energies = qubo.energies((subsets[:, None] >> np.arange(qubo.size)) & 1)
    return float(probabilities[energies <= energies.min() + EQUAL].sum())


TUNERS = {"curation/representatives": tune_representatives, "inference/pruning": tune_pruning}


def value_at_risk(probabilities: Floats, energies: Floats) -> float:
    """Return the mean energy of the best share of the outcomes."""
    order = np.argsort(energies)
    before = np.cumsum(probabilities[order]) - probabilities[order]
    share = np.clip(KEPT_SHARE - before, 0, probabilities[order])
    return float(share @ energies[order] / KEPT_SHARE)


def main() -> None:
    """Tune the ramps of a decision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("decision", choices=tuple(TUNERS))
    parser.add_argument("--write", action="store_true", help="store the result beside the arms")
    chosen = parser.parse_args()
    found = TUNERS[chosen.decision](np.random.default_rng(0))
    text = "# Written by `python -m benchmarks.angles`; read by tasks/quantum/angles.py.\n" + yaml.safe_dump(
        found, sort_keys=False, width=110
    )
    sys.stdout.write(text)
    if chosen.write:
        (Path(__file__).parents[1] / "tasks" / chosen.decision / "angles.yaml").write_text(text)


if __name__ == "__main__":
    main()

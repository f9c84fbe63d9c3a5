"""QAOA on real near-duplicate components, beside what needs no quantum computer: `python -m benchmarks qaoa`.

What exact reductions leave of the components; the raw outcome of the circuit that `curation/representatives` runs
(angles tuned on other components, `python -m benchmarks.angles`) against the product of its marginals; how the chance
of an optimal outcome falls with size, against annealing with 1, 3 and 10 sweeps, at the sampler's own temperatures and
at tuned ones, random-order greedy and untuned ramps; and from which size on sampled bits, repaired, separate from
uniform bits with the same repair. Circuits are simulated without noise through the diagonal of their Hamiltonian
(checked against the circuit). Instances of a size are connected parts of components of the bank, without reductions.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from benchmarks.angles import EQUAL, anneal, hit_rate, parts_of
from flows.study.bank import gather_material
from infra import settings
from tasks.combinatorial.independent_set import Graph, independent_set_qubo, repair
from tasks.combinatorial.kernel import kernelise
from tasks.combinatorial.qubo import Bits, Floats
from tasks.contract import Instance
from tasks.curation.representatives.bank import THRESHOLDS, bank
from tasks.curation.representatives.problem import best_known
from tasks.curation.representatives.samplers import KEY
from tasks.quantum.angles import tuned_ramp
from tasks.quantum.qaoa import linear_ramp, qaoa_circuit, sample_qaoa
from tasks.quantum.statevector import draw, energies_of_all, qaoa_probabilities

SIZES, PER_SIZE, JUDGED = (8, 10, 12, 14, 16, 18), 20, (8, 10, 12)
SHOTS, READS, DRAWS = 256, 2048, 2000
UNTUNED = (1, 2, 3, 5, 10)
SWEEPS = (1, 3, 10)

Way = dict[str, float]


@cache
def tuned_temperatures(sweeps: int) -> tuple[float, float]:
    """Return the inverse temperatures that annealing was tuned to, with as many trials as the ramp."""
    path = resources.files("tasks") / "curation" / "representatives" / "angles.yaml"
    hot, cold = yaml.safe_load(path.read_text(encoding="utf-8"))["annealing"][sweeps]
    return hot, cold


def marginals_of(found: Floats, n: int) -> Floats:
    """Return the probability of a one in each place."""
    return np.array([found.reshape(-1, 2, 1 << i)[:, 1].sum() for i in range(n)])


def random_greedy(graph: Graph, reads: int, rng: np.random.Generator) -> Bits:
    """Return (reads, n) maximal independent sets: nodes in random order, each chosen if no neighbour is."""
    n = graph.size
    adjacency = np.array([[mask >> j & 1 for j in range(n)] for mask in graph.neighbours], bool)
    order = rng.permuted(np.tile(np.arange(n), (reads, 1)), axis=1)
    chosen, blocked, rows = np.zeros((reads, n), np.uint8), np.zeros((reads, n), bool), np.arange(reads)
    for nodes in order.T:
        free = ~blocked[rows, nodes]
        chosen[rows[free], nodes[free]] = 1
        blocked[free] |= adjacency[nodes[free]]
    return chosen


def chances(graph: Graph, rng: np.random.Generator) -> Way:
    """Return the probability of an optimal raw outcome, by way."""
    qubo, n = independent_set_qubo(graph), graph.size
    diagonal = energies_of_all(qubo)
    lowest = float(diagonal.min())
    best = np.flatnonzero(diagonal <= lowest + EQUAL)
    ramp = tuned_ramp(KEY, "qaoa")
    found = qaoa_probabilities(qubo, *ramp.angles(), None, diagonal)
    marginals, optimal = marginals_of(found, n), ((best[:, None] >> np.arange(n)) & 1).astype(np.uint8)
    ways = {
        f"QAOA tuned, p = {ramp.layers}": float(found[best].sum()),
        "product of its marginals": float(np.prod(np.where(optimal, marginals, 1 - marginals), axis=1).sum()),
        "QAOA tuned, p = 10": float(qaoa_probabilities(qubo, *ramp.angles(10), None, diagonal)[best].sum()),
    }
    for layers in UNTUNED:
        probabilities = qaoa_probabilities(qubo, *linear_ramp(layers), None, diagonal)
        ways[f"QAOA untuned, p = {layers}"] = float(probabilities[best].sum())
    for sweeps in SWEEPS:
        seed = int(rng.integers(2**31))
        ways[f"annealing, sweeps {sweeps}"] = hit_rate(qubo, anneal(qubo, sweeps, None, READS, seed), lowest)
        tuned = anneal(qubo, sweeps, tuned_temperatures(sweeps), READS, seed)
        ways[f"annealing tuned, sweeps {sweeps}"] = hit_rate(qubo, tuned, lowest)
    ways["random-order greedy"] = hit_rate(qubo, random_greedy(graph, READS, rng), lowest)
    ways["uniform bits"] = len(best) / 2.0**n
    return ways


def resampled(rows: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return positions of instances drawn anew within each size."""
    return np.concatenate([rng.choice(row, len(row)) for row in rows])


def slope(sizes: Sequence[int], values: Sequence[float], rng: np.random.Generator) -> str:
    """Return alpha of 2^(-alpha n) with its 95 % interval, instances drawn anew within each size."""
    n, y = np.asarray(sizes, float), np.log2(values)
    rows = [np.flatnonzero(n == size) for size in np.unique(n)]
    fits = [-np.polyfit(n[chosen], y[chosen], 1)[0] for chosen in (resampled(rows, rng) for _ in range(DRAWS))]
    low, high = np.quantile(fits, (0.025, 0.975))
    return f"{-np.polyfit(n, y, 1)[0]:.3f} [{low:.3f}, {high:.3f}]"


def median_interval(values: Sequence[float], rng: np.random.Generator) -> str:
    """Return the median with its 95 % bootstrap interval."""
    found = np.median(rng.choice(np.asarray(values), (DRAWS, len(values))), axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return f"{np.median(values):.2f} [{low:.2f}, {high:.2f}]"


def kernels(instances: Sequence[Instance[Any]]) -> None:
    """Print what reductions leave of the components, by threshold."""
    for threshold in THRESHOLDS:
        graphs = [i.pose().graphs[0] for i in instances if f" at {threshold:g}," in i.name]
        left = [kernelise(graph).size for graph in graphs]
        sys.stdout.write(
            f"Jaccard {threshold:g}: {len(graphs)} components of {min(g.size for g in graphs)} to "
            f"{max(g.size for g in graphs)} nodes; reductions solve {sum(k == 0 for k in left)}, kernels of the others "
            f"{', '.join(map(str, sorted(k for k in left if k))) or 'none'}\n"
        )


def scaling(graphs: Sequence[Graph], rng: np.random.Generator) -> None:
    """Print P(optimal) by size, the ratio to the product of the marginals, and the fitted exponents."""
    write = sys.stdout.write
    sizes, rows = list[int](), list[Way]()
    for size in SIZES:
        now = [chances(part, rng) for part in parts_of(graphs, size, PER_SIZE, rng)]
        sizes, rows = sizes + [size] * len(now), rows + now
        means = ", ".join(f"{name} {np.exp2(np.mean([np.log2(row[name]) for row in now])):.2e}" for name in now[0])
        write(f"n = {size}, {len(now)} parts: {means}\n")
        first, second = list(now[0])[:2]
        ratios = [row[first] / row[second] for row in now]
        low, high = np.quantile(ratios, (0.1, 0.9))
        write(
            f"n = {size}: raw P(optimal) / product of its marginals: median {median_interval(ratios, rng)}, tenth to "
            f"ninetieth percentile {low:.2f} to {high:.2f}, at least 2 in {np.mean(np.array(ratios) >= 2):.0%}"
            f"{', the bar' if size in JUDGED else ''}\n"
        )
        sys.stdout.flush()
    for name in rows[0]:
        write(f"alpha of {name}: {slope(sizes, [row[name] for row in rows], rng)}\n")


def separation(graphs: Sequence[Graph], rng: np.random.Generator) -> None:
    """Print by size how often 256 shots, repaired, hold an optimum: circuit against uniform bits, paired."""
    for size in SIZES:
        parts = parts_of(graphs, size, PER_SIZE, rng)
        solved = np.array([[_solved(part, bits) for bits in _sampled(part, rng)] for part in parts])
        differences = solved[:, 0] - solved[:, 1]
        drawn = rng.choice(differences, (DRAWS, len(parts))).mean(axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        said = "separated" if low > 0 or high < 0 else "not separated"
        sys.stdout.write(
            f"n = {size}: an optimum among {SHOTS} repaired shots: QAOA {solved[:, 0].mean():.4f}, uniform bits "
            f"{solved[:, 1].mean():.4f}, difference {differences.mean():+.4f} [{low:+.4f}, {high:+.4f}], {said}\n"
        )
        sys.stdout.flush()


def _sampled(graph: Graph, rng: np.random.Generator) -> tuple[Bits, Bits]:
    qubo = independent_set_qubo(graph)
    found = qaoa_probabilities(qubo, *tuned_ramp(KEY, "qaoa").angles())
    return draw(found, graph.size, READS, rng), rng.integers(0, 2, (READS, graph.size), dtype=np.uint8)


def _solved(graph: Graph, bits: Bits) -> float:
    """Return the probability that 256 shots hold an optimum after repair, from the share of the drawn ones."""
    best = best_known(graph).weight
    rows, counts = np.unique(bits, axis=0, return_counts=True)
    hits = [graph.weight(repair(graph, np.flatnonzero(row).tolist())) >= best - EQUAL for row in rows]
    return float(1 - (1 - counts[hits].sum() / len(bits)) ** SHOTS)


class Counting(StatevectorSampler):  # type: ignore[misc]  # the library is not typed
    """Counts its jobs."""

    jobs = 0

    def run(self, pubs: Any, *, shots: int | None = None) -> Any:
        """Count and run."""
        self.jobs += 1
        return super().run(pubs, shots=shots)


def main() -> None:
    """Print kernels, scaling, separation and jobs."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
        instances = list(bank(material, np.random.default_rng([0, 7])))
    kernels(instances)
    graphs = [i.pose().graphs[0] for i in instances if i.source in material.texts]
    ramp = tuned_ramp(KEY, "qaoa")
    sys.stdout.write(f"ramp: p = {ramp.layers}, gamma {ramp.gamma}, beta {ramp.beta}; {ramp.source}\n")
    qubo = independent_set_qubo(next(graph for graph in graphs if graph.size == SIZES[0]))
    circuit = qaoa_circuit(qubo, *ramp.angles()).remove_final_measurements(inplace=False)
    away = np.abs(Statevector(circuit).probabilities() - qaoa_probabilities(qubo, *ramp.angles())).max()
    sampler = Counting(seed=0)
    small = [independent_set_qubo(graph) for graph in graphs if graph.size <= SIZES[0]]
    sample_qaoa(small, sampler, 16, ramp.angles())
    sys.stdout.write(
        f"largest difference of a probability to the circuit's: {away:.1e}; {len(small)} components of at most "
        f"{SIZES[0]} nodes took {sampler.jobs} job\n"
    )
    separation(graphs, rng)
    scaling(graphs, rng)

"""QAOA on near-duplicate components of 3 to 20 nodes, beside what needs no quantum computer.

`python -m benchmarks qaoa`. The circuit is the one that `curation/representatives` runs, with its fixed angles,
simulated without noise through the diagonal of its Hamiltonian (checked against the circuit). Probabilities are exact,
of the raw outcome, before any repair. The scaling is fitted on connected parts of real components, the kept weight on
whole components.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit.primitives import StatevectorSampler
from qiskit.quantum_info import Statevector

from flows.study.bank import gather_material
from infra import settings
from tasks.combinatorial.annealing import simulated_annealing
from tasks.combinatorial.independent_set import Graph, best_repaired, greedy, independent_set_qubo, repair
from tasks.combinatorial.qubo import Bits, Floats, Qubo
from tasks.curation.representatives.bank import bank
from tasks.curation.representatives.problem import best_known
from tasks.quantum.qaoa import linear_ramp, qaoa_circuit, sample_qaoa, scale

SIZES, PER_SIZE = range(8, 21), 20
LAYERS, SHOTS, READS = 3, 256, 2048
BUCKETS = ((3, 4), (5, 8), (9, 12), (13, 20))
DEEPER_SIZE, DEEPER = 12, (1, 3, 6, 12)
DRAWS = 2000
EQUAL = 1e-9


def energies(qubo: Qubo) -> Floats:
    """Return the energy of every bit string, bit i of the index being variable i."""
    found = np.full(1, qubo.offset)
    fields = [np.zeros(1) for _ in range(qubo.size)]
    for i in range(qubo.size):
        added = found + qubo.linear[i] + fields[i]
        found = np.concatenate([found, added])
        for j in range(i + 1, qubo.size):
            fields[j] = np.concatenate([fields[j], fields[j] + qubo.quadratic[i, j]])
    return found


def probabilities(qubo: Qubo, diagonal: Floats, layers: int = LAYERS) -> Floats:
    """Return the outcome probabilities of the circuit."""
    n = qubo.size
    state = np.full(1 << n, 2.0 ** (-n / 2), np.complex128)
    for gamma, beta in zip(*linear_ramp(layers), strict=True):
        state *= np.exp(-1j * gamma * np.sqrt(n) / (2 * scale(qubo)) * diagonal)
        c, s = np.cos(beta), 1j * np.sin(beta)
        for qubit in range(n):
            halves = state.reshape(-1, 2, 1 << qubit)
            state = np.stack([c * halves[:, 0] + s * halves[:, 1], s * halves[:, 0] + c * halves[:, 1]], axis=1).ravel()
    return np.abs(state) ** 2


def bit_table(indices: NDArray[np.int64], n: int) -> Bits:
    """Return the bits (m, n) of some indices."""
    return ((indices[:, None] >> np.arange(n)) & 1).astype(np.uint8)


def chances(graph: Graph, rng: np.random.Generator, layers: int = LAYERS) -> dict[str, float]:
    """Return the probability of an optimal raw outcome, by way."""
    qubo = independent_set_qubo(graph)
    diagonal, n = energies(qubo), graph.size
    found = probabilities(qubo, diagonal, layers)
    best = np.flatnonzero(diagonal <= diagonal.min() + EQUAL)
    marginals = marginals_of(found, n)
    optimal = bit_table(best, n)
    product = float(np.prod(np.where(optimal, marginals, 1 - marginals), axis=1).sum())
    annealed = qubo.energies(simulated_annealing(qubo, READS, 1, rng))
    hits = int((annealed <= diagonal.min() + EQUAL).sum())
    return {
        "QAOA": float(found[best].sum()),
        "product of its marginals": product,
        "annealing, one sweep": max(hits, 0.5) / READS,
        "uniform bits": len(best) / 2.0**n,
    }


def marginals_of(found: Floats, n: int) -> Floats:
    """Return the probability of a one in each place."""
    return np.array([found.reshape(-1, 2, 1 << i)[:, 1].sum() for i in range(n)])


def connected_part(graph: Graph, size: int, rng: np.random.Generator) -> Graph | None:
    """Grow a connected part of a component from a random node; None where it is a clique, which is no problem."""
    nodes = [int(rng.integers(graph.size))]
    while len(nodes) < size:
        reach = [v for v in range(graph.size) if v not in nodes and any(graph.neighbours[v] >> u & 1 for u in nodes)]
        nodes.append(reach[int(rng.integers(len(reach)))])
    part = graph.subgraph(sorted(nodes))
    return None if part.is_clique else part


def slope(sizes: Sequence[int], values: Sequence[float], rng: np.random.Generator) -> str:
    """Return alpha of 2^(-alpha n) with its 95 % interval, instances drawn anew within each size."""
    n, y = np.asarray(sizes, float), np.log2(values)
    rows = [np.flatnonzero(n == size) for size in np.unique(n)]
    fits = []
    for draw in range(DRAWS):
        chosen = np.concatenate([row if draw == 0 else rng.choice(row, len(row)) for row in rows])
        fits.append(-np.polyfit(n[chosen], y[chosen], 1)[0])
    low, high = np.quantile(fits[1:], (0.025, 0.975))
    return f"{fits[0]:.3f} [{low:.3f}, {high:.3f}]"


def scaling(graphs: Sequence[Graph], rng: np.random.Generator) -> None:
    """Print P(optimal) by size and the fitted exponents."""
    write = sys.stdout.write
    names: list[str] = []
    sizes: list[int] = []
    values: dict[str, list[float]] = {}
    for size in SIZES:
        large = [graph for graph in graphs if graph.size >= size]
        rows: list[dict[str, float]] = []
        while len(rows) < PER_SIZE:
            part = connected_part(large[int(rng.integers(len(large)))], size, rng)
            if part is not None:
                rows.append(chances(part, rng))
        names = list(rows[0])
        sizes += [size] * len(rows)
        for name in names:
            values.setdefault(name, []).extend(row[name] for row in rows)
        means = ", ".join(f"{name} {np.exp2(np.mean([np.log2(row[name]) for row in rows])):.2e}" for name in names)
        ratio = np.median([row["QAOA"] / row["product of its marginals"] for row in rows])
        write(f"n = {size}, {len(rows)} parts of {len(large)} components: {means}; QAOA / product {ratio:.2f}\n")
        sys.stdout.flush()
    for name in names:
        write(f"alpha of {name}: {slope(sizes, values[name], rng)}\n")
    ratios = np.divide(values["QAOA"], values["product of its marginals"])
    write(
        f"QAOA / product of its marginals: median {np.median(ratios):.2f}, tenth {np.quantile(ratios, 0.1):.2f}, at "
        f"least 2 in {(ratios >= 2).mean():.0%} of {len(ratios)}\n"
    )


def kept(graphs: Sequence[Graph], rng: np.random.Generator) -> None:
    """Print the kept weight over the optimum of whole components by size."""
    write = sys.stdout.write
    for low, high in BUCKETS:
        chosen = [graph for graph in graphs if low <= graph.size <= high]
        if not chosen:
            write(f"{low}-{high} nodes: no component\n")
            continue
        rows: dict[str, list[float]] = {}
        raw, solved = [], 0
        for graph in chosen:
            qubo, best = independent_set_qubo(graph), best_known(graph).weight
            found = probabilities(qubo, energies(qubo))
            marginals = marginals_of(found, graph.size)
            sampled = {
                "QAOA": bit_table(rng.choice(len(found), SHOTS, p=found / found.sum()), graph.size),
                "its marginals": (rng.random((SHOTS, graph.size)) < marginals).astype(np.uint8),
                "uniform": rng.integers(0, 2, (SHOTS, graph.size), dtype=np.uint8),
            }
            taken = greedy(graph)
            solved += graph.weight(taken) >= best - EQUAL
            rows.setdefault("greedy", []).append(graph.weight(taken) / best)
            rows.setdefault("empty repair", []).append(graph.weight(repair(graph, ())) / best)
            for name, bits in sampled.items():
                rows.setdefault(name, []).append(graph.weight(best_repaired(graph, bits)) / best)
            raw.append(chances(graph, rng))
        ratio = np.median([row["QAOA"] / row["product of its marginals"] for row in raw])
        means = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in rows.items())
        found_raw = np.mean([row["QAOA"] for row in raw])
        write(
            f"{low}-{high} nodes, {len(chosen)} components: kept / optimum {means}; greedy solves "
            f"{solved / len(chosen):.0%}; raw P(optimal) {found_raw:.3f}, {ratio:.2f} times the product of its "
            f"marginals\n"
        )
        sys.stdout.flush()


def deeper(graphs: Sequence[Graph], rng: np.random.Generator) -> None:
    """Print what more layers of the same ramp give at one size."""
    parts: list[Graph] = []
    large = [graph for graph in graphs if graph.size >= DEEPER_SIZE]
    while len(parts) < PER_SIZE:
        part = connected_part(large[int(rng.integers(len(large)))], DEEPER_SIZE, rng)
        parts += [part] if part is not None else []
    for layers in DEEPER:
        rows = [chances(part, rng, layers) for part in parts]
        found = np.exp2(np.mean([np.log2(row["QAOA"]) for row in rows]))
        ratio = np.median([row["QAOA"] / row["product of its marginals"] for row in rows])
        sys.stdout.write(f"n = {DEEPER_SIZE}, {layers} layers: QAOA {found:.2e}, QAOA / product {ratio:.2f}\n")


class Counting(StatevectorSampler):  # type: ignore[misc]  # the library is not typed
    """Counts its jobs."""

    jobs = 0

    def run(self, pubs: Any, *, shots: int | None = None) -> Any:
        """Count and run."""
        self.jobs += 1
        return super().run(pubs, shots=shots)


def main() -> None:
    """Print scaling, kept weights and jobs."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        material = gather_material(settings.load(home=Path(folder)))
        graphs = [instance.pose().graphs[0] for instance in bank(material, np.random.default_rng([0, 7]))]
    sizes = [graph.size for graph in graphs]
    sys.stdout.write(f"{len(graphs)} components of {min(sizes)} to {max(sizes)} nodes\n")
    checked = next(graph for graph in graphs if graph.size == SIZES[0])
    qubo = independent_set_qubo(checked)
    circuit = qaoa_circuit(qubo, *linear_ramp(LAYERS)).remove_final_measurements(inplace=False)
    away = np.abs(Statevector(circuit).probabilities() - probabilities(qubo, energies(qubo))).max()
    sampler = Counting(seed=0)
    small = [independent_set_qubo(graph) for graph in graphs if graph.size <= SIZES[0]]
    sample_qaoa(small, sampler, 16, LAYERS)
    sys.stdout.write(
        f"largest difference of a probability to the circuit's: {away:.1e}; {len(small)} components of at most "
        f"{SIZES[0]} nodes took {sampler.jobs} job\n"
    )
    kept([graph for graph in graphs if graph.size <= SIZES[-1]], rng)
    scaling(graphs, rng)
    deeper(graphs, np.random.default_rng(1))

"""Arms of the decision `batch_selection`: they return the windows that a model is trained on.

The pool is cut into blocks of consecutive windows, and `keep` windows are chosen from each. The QUBO of a block rewards
the loss of each window under a trigram model (informativeness) and charges the similarity of each chosen pair
(diversity); `exact-on-blocks` solves it by enumeration. Circuits of all blocks are one job. `k-means` and
`facility-location` see the whole pool at once.

Angles and the annealer's reads and sweeps were chosen among sixteen settings each, on a pool that is in no bank; the
weight of diversity, which all arms with a QUBO share, among three (`python -m benchmarks.selection`; a weight of 0 was
better still, but leaves no interaction: `highest-loss`). Over twelve rounds four reads come nearer to the optimum than
the two that one round chose, by .001 standard deviations at the same cost; the setting is that of the published study.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from scipy.cluster.vq import kmeans2

from tasks.combinatorial.annealing import cardinality_annealing
from tasks.combinatorial.exact import minimise_cardinality
from tasks.combinatorial.qubo import Bits, Qubo
from tasks.combinatorial.repair import marginal_bits, project, uniform_subsets
from tasks.contract import Arm, Bench, Kind
from tasks.quantum.dicke import prepare_dicke
from tasks.quantum.qaoa import linear_ramp, round_robin, sector_scale
from tasks.quantum.statevector import dicke_qaoa_probabilities, draw
from tasks.training.batch_selection.problem import Pool, Rows
from tasks.training.reference import KneserNey

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKETS = 512  # of the hashed token pairs that describe a window
DIVERSITY = 0.5
LAYERS, GAMMA, BETA = 2, 1.0, 1.2
READS, SWEEPS = 2, 5
MEANS_ROUNDS = 5


def features(problem: Pool, bench: Bench) -> NDArray[np.float32]:
    """Return a unit vector for each window: hashed pairs of tokens, weighted by how rare they are; (n, 512)."""

    def make() -> NDArray[np.float32]:
        tokens = np.asarray(problem.tokens, np.int64)
        pairs = (tokens[:, :-1] * 31 + tokens[:, 1:] * 17) % BUCKETS
        counts = np.zeros((len(tokens), BUCKETS), np.float32)
        np.add.at(counts, (np.arange(len(tokens))[:, None], pairs), 1)
        counts *= np.log(len(tokens) / np.maximum(1, (counts > 0).sum(0)))
        lengths = np.linalg.norm(counts, axis=1, keepdims=True)
        return np.asarray(counts / np.maximum(lengths, 1e-9), np.float32)

    return bench.once("features", make)


def losses(problem: Pool, bench: Bench) -> NDArray[np.float64]:
    """Return the mean loss of each window under a trigram model of the other half of the pool, in bits; (n,)."""

    def make() -> NDArray[np.float64]:
        tokens = np.asarray(problem.tokens, np.int64)
        found = np.zeros(len(tokens))
        for half in (0, 1):
            model = KneserNey(tokens[1 - half :: 2], problem.vocabulary)
            found[half::2] = -np.log2(model.probability(tokens[half::2], 3)).mean(axis=1)
        return found

    return bench.once("losses", make)


def block_qubos(problem: Pool, bench: Bench, diversity: float = DIVERSITY) -> list[Qubo]:
    """Return the QUBO of each block."""

    def make() -> list[Qubo]:
        vectors, values = features(problem, bench), losses(problem, bench)
        informative = (values - values.mean()) / max(1e-9, values.std())
        qubos = []
        for start in range(0, len(vectors), problem.block):
            here = slice(start, start + problem.block)
            alike = np.asarray(vectors[here] @ vectors[here].T, np.float64)
            alike = (alike + alike.T) / 2
            np.fill_diagonal(alike, 0.0)
            qubos.append(Qubo(-informative[here] / problem.keep, diversity * alike))
        return qubos

    return bench.once(f"block problems {diversity:g}", make)


def template(n: int, k: int, betas: NDArray[np.float64]) -> QuantumCircuit:
    """Return the circuit of `tasks.quantum.qaoa.dicke_qaoa_circuit` with parameters for the angles of its phases.

    All blocks have the same circuit with other angles, so it is transpiled once for all of them.
    """
    pairs = round_robin(n)
    angles = ParameterVector("phase", len(betas) * (n + len(pairs)))
    values = iter(angles)
    circuit = prepare_dicke(n, k)
    for beta in betas:
        for qubit in range(n):
            circuit.rz(next(values), qubit)
        for pair in pairs:
            circuit.rzz(next(values), *pair)
        for pair in pairs:
            circuit.rxx(-2 * float(beta) / n, *pair)
            circuit.ryy(-2 * float(beta) / n, *pair)
    circuit.measure_all()
    return circuit


def phases(qubo: Qubo, k: int, gammas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the parameters of `template` for the problem of a block."""
    fields, couplings, _ = qubo.ising()
    deviation = sector_scale(qubo, k)
    factor = np.sqrt(qubo.size) / (2 * deviation) if deviation > 0 else 0.0
    layer = np.concatenate([fields, [couplings[i, j] for i, j in round_robin(qubo.size)]])
    return np.concatenate([2 * factor * gamma * layer for gamma in gammas])


def read_all(problem: Pool, _: Bench) -> Rows:
    """Choose the whole pool, read in random order."""
    return tuple(range(len(problem.tokens)))


def choose_random(problem: Pool, bench: Bench) -> Rows:
    """Choose windows at random, as many as every other selection."""
    return _sorted(bench.rng.permutation(len(problem.tokens))[: problem.chosen])


def choose_highest_loss(problem: Pool, bench: Bench) -> Rows:
    """Choose the windows with the highest loss: the QUBO without its interactions, over the whole pool."""
    return _sorted(np.argsort(-losses(problem, bench), kind="stable")[: problem.chosen])


def choose_near_means(problem: Pool, bench: Bench) -> Rows:
    """Cover the pool by k-means: from each cluster the windows nearest to its centre, in proportion to its size."""
    vectors = features(problem, bench).astype(np.float64)
    clusters = max(2, problem.chosen // 8)
    centres, labels = kmeans2(vectors, clusters, MEANS_ROUNDS, minit="points", seed=bench.rng, missing="warn")
    distances = np.linalg.norm(vectors - centres[labels], axis=1)
    order = np.lexsort((distances, labels))
    sizes = np.bincount(labels, minlength=clusters)
    rank = np.concatenate([np.arange(size) for size in sizes])
    # The share of its cluster that lies nearer: the smallest shares are the same part of every cluster.
    share = (rank + 0.5) / np.repeat(sizes, sizes)
    return _sorted(order[np.argsort(share, kind="stable")[: problem.chosen]])


def choose_facilities(problem: Pool, bench: Bench) -> Rows:
    """Maximise the sum over the pool of the similarity to the nearest chosen window, greedily.

    Lazy evaluation (Minoux 1978): gains only fall, so a window whose old gain is lower than a new one's is not
    evaluated. The result is at least 1 - 1/e of the optimum (Nemhauser, Wolsey, Fisher 1978).
    """
    vectors = features(problem, bench)
    alike = np.maximum(vectors @ vectors.T, 0.0)
    covered = np.zeros(len(vectors), np.float32)
    queue = [(-float(gain), row) for row, gain in enumerate(alike.sum(axis=1))]
    heapq.heapify(queue)
    chosen: list[int] = []
    while len(chosen) < problem.chosen:
        _, row = heapq.heappop(queue)
        gain = float(np.maximum(alike[row] - covered, 0.0).sum())
        if queue and -queue[0][0] > gain + 1e-6:
            heapq.heappush(queue, (-gain, row))
            continue
        chosen.append(row)
        covered = np.maximum(covered, alike[row])
    return _sorted(np.array(chosen))


def _by_block(sample: Callable[[Pool, Bench, list[Qubo]], list[Bits]]) -> Callable[[Pool, Bench], Rows]:
    """Return the arm that takes the best sample of each block, its number of ones repaired where noise changed it."""

    def arm(problem: Pool, bench: Bench) -> Rows:
        qubos = block_qubos(problem, bench)
        rows: list[int] = []
        for number, (qubo, bits) in enumerate(zip(qubos, sample(problem, bench, qubos), strict=True)):
            inside = project(qubo, np.unique(bits, axis=0), problem.keep)  # noise changes the number of ones
            best = inside[int(np.argmin(qubo.energies(inside)))]
            rows += (number * problem.block + np.flatnonzero(best)).tolist()
        return tuple(rows)

    return arm


def _exact(problem: Pool, _: Bench, qubos: list[Qubo]) -> list[Bits]:
    return [minimise_cardinality(qubo, problem.keep)[None] for qubo in qubos]


def _anneal(problem: Pool, bench: Bench, qubos: list[Qubo]) -> list[Bits]:
    return [cardinality_annealing(qubo, problem.keep, READS, SWEEPS, bench.rng) for qubo in qubos]


def _qaoa(problem: Pool, bench: Bench, qubos: list[Qubo]) -> list[Bits]:
    def make() -> list[Bits]:
        ramp = linear_ramp(LAYERS, GAMMA, BETA)
        circuit = template(problem.block, problem.keep, ramp[1])
        angles = np.stack([phases(qubo, problem.keep, ramp[0]) for qubo in qubos])
        [result] = bench.sampler.run([(circuit, angles)], shots=problem.shots).result()
        return list(result.data.meas.to_bool_array(order="little").astype(np.uint8))

    return bench.once("qaoa samples", make)


def _qaoa_exact(problem: Pool, bench: Bench, qubos: list[Qubo]) -> list[Bits]:
    ramp = linear_ramp(LAYERS, GAMMA, BETA)
    found = []
    for qubo in qubos:
        subsets, probabilities = dicke_qaoa_probabilities(qubo, problem.keep, *ramp)
        found.append(draw(probabilities, qubo.size, problem.shots, bench.rng, subsets))
    return found


def _uniform(problem: Pool, bench: Bench, qubos: list[Qubo]) -> list[Bits]:
    return [uniform_subsets(qubo.size, problem.keep, problem.shots, bench.rng) for qubo in qubos]


def _marginals(problem: Pool, bench: Bench, qubos: list[Qubo]) -> list[Bits]:
    """Draw every bit by its frequency in the circuit's samples: the samples without their correlations."""
    return [marginal_bits(bits, problem.shots, bench.rng) for bits in _qaoa(problem, bench, qubos)]


def _sorted(rows: NDArray[np.int64]) -> Rows:
    return tuple(sorted(int(row) for row in rows))


INCUMBENT: Arm[Pool, Rows] = Arm("all", Kind.CLASSICAL, read_all)
CHALLENGER: Arm[Pool, Rows] = Arm("qaoa", Kind.QUANTUM, _by_block(_qaoa), twin="qaoa-exact")
OTHERS: tuple[Arm[Pool, Rows], ...] = (
    Arm("random", Kind.CONTROL, choose_random),
    Arm("uniform-best", Kind.CONTROL, _by_block(_uniform)),
    Arm("marginals-best", Kind.CONTROL, _by_block(_marginals)),
    Arm("highest-loss", Kind.CLASSICAL, choose_highest_loss),
    Arm("k-means", Kind.CLASSICAL, choose_near_means),
    Arm("facility-location", Kind.CLASSICAL, choose_facilities),
    Arm("exact-on-blocks", Kind.CLASSICAL, _by_block(_exact)),
    Arm("swap-annealing", Kind.CLASSICAL, _by_block(_anneal)),
    Arm("qaoa-exact", Kind.TWIN, _by_block(_qaoa_exact)),
)

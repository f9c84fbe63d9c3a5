"""Arms of the decision `anomaly`: they score how much each request differs from those of the reference window.

The vectors are embeddings; only the order of the scores matters. The quantum one-class support vector machine uses
fidelities of amplitude-encoded vectors, the squared cosines. The vectors are not centred: after centring the AUROC was
.52, because directions from the centre are random for normal requests too. The quantum autoencoder uses sixteen
amplitudes: the coordinates on the fifteen leading axes of the reference and the norm of the residual, so that no weight
of a vector is lost.

All arms get vectors of unit length, which worked best for the classical arms. The settings were chosen on 18 windows of
questions and film reviews, which are in no bank: one-class machine, Gaussian at .25, .5, 1, 2 of the median distance
AUROC .962, .982, .985, .985; nearest neighbours by 1, 3, 5, 10 .947, .950, .952, .958; isolation forest .942. The
Gaussian and the projected kernel were tuned again, nine trials each, on texts of works that no bank uses
(`benchmarks.kernels`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

from tasks.contract import Arm, Bench, Kind
from tasks.monitoring.anomaly.problem import Anomaly, Scores
from tasks.monitoring.components import standard_components
from tasks.monitoring.two_sample import FloatArray, median_distance, rbf, squared_distances
from tasks.quantum.autoencoder import best_loss, exact_trash_rates, train_autoencoder, trash_rates
from tasks.quantum.iqp import estimate_bloch, exact_bloch, iqp_phases
from tasks.quantum.kernels import estimate_pairs, exact_fidelities
from tasks.text.embeddings import normalised

NU = 0.1
NEIGHBOURS = 10
TREES = 200
QUBITS, TRASH, LAYERS = 4, 2, 2
BANDWIDTH, GAMMA = 0.2, 1.0  # of the projected kernel; tuned by `python -m benchmarks.kernels`, nine trials
RBF_FACTOR = 0.5  # of the median distance; tuned likewise
STEPS, BATCH = 60, 16


def _scores(values: NDArray[np.floating[Any]]) -> Scores:
    return Scores(tuple(float(v) for v in values))


def unit_vectors(problem: Anomaly) -> tuple[FloatArray, FloatArray]:
    """Return reference and requests at unit length; a text without a token stays zero."""
    return np.asarray(normalised(problem.reference), np.float64), np.asarray(normalised(problem.requests), np.float64)


def solve_isolation_forest(problem: Anomaly, bench: Bench) -> Scores:
    """Isolation forest (Liu, Ting, Zhou, ICDM 2008)."""
    reference, requests = unit_vectors(problem)
    forest = IsolationForest(n_estimators=TREES, random_state=int(bench.rng.integers(2**31)))
    return _scores(-forest.fit(reference).score_samples(requests))


def solve_nearest_neighbours(problem: Anomaly, _: Bench) -> Scores:
    """Mean distance to the nearest neighbours in the reference (Ramaswamy, Rastogi, Shim, SIGMOD 2000)."""
    reference, requests = unit_vectors(problem)
    distances = np.sort(squared_distances(requests, reference), axis=1)
    return _scores(distances[:, :NEIGHBOURS].mean(axis=1))


def solve_one_class_svm(problem: Anomaly, _: Bench) -> Scores:
    """One-class support vector machine (Scholkopf et al., Neural Computation 13 (2001)) on a tuned Gaussian."""
    return gaussian_machine(problem, RBF_FACTOR)


def gaussian_machine(problem: Anomaly, factor: float) -> Scores:
    """Score by a one-class machine on a Gaussian kernel at a multiple of the median distance of the reference."""
    reference, requests = unit_vectors(problem)
    bandwidth = factor * median_distance(reference)
    within = rbf(squared_distances(reference), bandwidth)
    return _one_class(within, rbf(squared_distances(requests, reference), bandwidth))


def _one_class(within: FloatArray, across: FloatArray) -> Scores:
    """Fit on the kernel matrix of the reference (r, r) and score the requests by their kernel values with it (m, r)."""
    machine = OneClassSVM(kernel="precomputed", nu=NU).fit(within)
    return _scores(-machine.decision_function(across))


def kernel_states(problem: Anomaly) -> FloatArray:
    """Return the states whose fidelity is the quantum kernel, the reference first; a text without a token is |0>."""
    rows = np.vstack(unit_vectors(problem))
    rows[~rows.any(axis=1), 0] = 1.0
    return rows


def solve_quantum_svm(problem: Anomaly, bench: Bench) -> Scores:
    """One-class support vector machine on fidelities by compute-uncompute; all overlaps are one job."""
    states, r = kernel_states(problem), len(problem.reference)
    upper = np.stack(np.triu_indices(r, 1), axis=1)
    rows, columns = np.divmod(np.arange(len(problem.requests) * r), r)
    pairs = np.vstack([upper, np.stack([r + rows, columns], axis=1)])
    found = estimate_pairs(states, pairs, bench.sampler, problem.shots)
    within = np.eye(r)
    within[upper[:, 0], upper[:, 1]] = within[upper[:, 1], upper[:, 0]] = found[: len(upper)]
    return _one_class(within, found[len(upper) :].reshape(-1, r))


def solve_quantum_svm_twin(problem: Anomaly, _: Bench) -> Scores:
    """One-class support vector machine on exact fidelities: a quadratic polynomial kernel."""
    states, r = kernel_states(problem), len(problem.reference)
    return _one_class(exact_fidelities(states[:r], states[:r]), exact_fidelities(states[r:], states[:r]))


def _encoded(problem: Anomaly, bandwidth: float) -> tuple[FloatArray, FloatArray]:
    """Return the phases of reference and requests: the leading axes of the reference and the residual.

    Without the residual the AUROC was .15 to .33: what is strange lies outside the axes and seems ordinary on them.
    """
    reference, requests = unit_vectors(problem)
    parts = (standard_components(reference, part, problem.components, residual=True) for part in (reference, requests))
    first, second = (iqp_phases(part, bandwidth) for part in parts)
    return first, second


def _projected(reference: FloatArray, requests: FloatArray, gamma: float = GAMMA) -> Scores:
    """Fit and score on Gaussians of Bloch vectors; the scale is that of the reference."""
    squared = squared_distances(reference)
    mean = float(squared[np.triu_indices(len(squared), 1)].mean())
    scale = gamma / mean if mean > 0 else gamma
    return _one_class(np.exp(-scale * squared), np.exp(-scale * squared_distances(requests, reference)))


def solve_projected(problem: Anomaly, bench: Bench) -> Scores:
    """One-class support vector machine on the projected kernel: three circuits for each text, one job."""
    reference, requests = _encoded(problem, BANDWIDTH)
    bloch = estimate_bloch(np.vstack([reference, requests]), bench.sampler, problem.shots)
    return _projected(bloch[: len(reference)], bloch[len(reference) :])


def solve_projected_twin(problem: Anomaly, _: Bench) -> Scores:
    """One-class support vector machine on the projected kernel without shot noise."""
    return exact_projected(problem)


def exact_projected(problem: Anomaly, bandwidth: float | None = None, gamma: float | None = None) -> Scores:
    """Score by the exact projected kernel, at the tuned bandwidth and gamma unless others are given."""
    reference, requests = _encoded(problem, BANDWIDTH if bandwidth is None else bandwidth)
    return _projected(exact_bloch(reference), exact_bloch(requests), GAMMA if gamma is None else gamma)


def compressed_states(problem: Anomaly) -> tuple[FloatArray, FloatArray]:
    """Return reference and requests in 16 amplitudes: 15 on the leading axes and the norm of the residual."""
    reference, requests = unit_vectors(problem)
    axes = np.linalg.svd(reference, full_matrices=False)[2][: (1 << QUBITS) - 1].T
    found = []
    for part in (reference, requests):
        kept = np.zeros((len(part), 1 << QUBITS))
        kept[:, : axes.shape[1]] = part @ axes
        kept[:, -1] = np.sqrt(np.maximum(1 - np.square(kept).sum(axis=1), 1e-12))
        found.append(kept)
    return found[0], found[1]


def solve_autoencoder(problem: Anomaly, bench: Bench) -> Scores:
    """Train the encoder on the reference with the sampler; the score is the rate of trash qubits that are not |0>."""
    reference, requests = compressed_states(problem)

    def rates(states: FloatArray, angles: FloatArray) -> FloatArray:
        return trash_rates(states, angles, TRASH, LAYERS, bench.sampler, problem.shots)

    angles = train_autoencoder(reference, LAYERS, rates, bench.rng, steps=STEPS, batch=BATCH)
    return _scores(rates(requests, angles[None])[0])


def solve_autoencoder_twin(problem: Anomaly, bench: Bench) -> Scores:
    """The autoencoder without circuits: its rates are drawn from their exact values, as many shots each."""
    reference, requests = compressed_states(problem)

    def rates(states: FloatArray, angles: FloatArray) -> FloatArray:
        exact = exact_trash_rates(states, angles, TRASH, LAYERS)
        return np.asarray(bench.rng.binomial(problem.shots, exact) / problem.shots)

    angles = train_autoencoder(reference, LAYERS, rates, bench.rng, steps=STEPS, batch=BATCH)
    return _scores(rates(requests, angles[None])[0])


def solve_subspace(problem: Anomaly, _: Bench) -> Scores:
    """Score of the best possible encoder: the weight outside the leading eigenvectors of the mean state."""
    reference, requests = compressed_states(problem)
    leading = best_loss(reference, QUBITS - TRASH)[0]
    return _scores(1 - np.square(requests @ leading).sum(axis=1))


def solve_nothing(problem: Anomaly, _: Bench) -> Scores:
    """Give every request the same score."""
    return Scores((0.0,) * len(problem.requests))


def solve_random(problem: Anomaly, bench: Bench) -> Scores:
    """Score at random."""
    return _scores(bench.rng.uniform(size=len(problem.requests)))


INCUMBENT: Arm[Anomaly, Scores] = Arm("one-class-svm", Kind.CLASSICAL, solve_one_class_svm, version="2")
CHALLENGER: Arm[Anomaly, Scores] = Arm(
    "quantum-one-class-svm", Kind.QUANTUM, solve_quantum_svm, twin="quantum-one-class-svm-exact"
)
OTHERS: tuple[Arm[Anomaly, Scores], ...] = (
    Arm("quantum-one-class-svm-exact", Kind.TWIN, solve_quantum_svm_twin),
    Arm("quantum-autoencoder", Kind.QUANTUM, solve_autoencoder, version="2", twin="quantum-autoencoder-exact"),
    Arm("quantum-autoencoder-exact", Kind.TWIN, solve_autoencoder_twin),
    Arm("projected-one-class-svm", Kind.QUANTUM, solve_projected, twin="projected-one-class-svm-exact"),
    Arm("projected-one-class-svm-exact", Kind.TWIN, solve_projected_twin),
    Arm("subspace", Kind.DEQUANTISED, solve_subspace),
    Arm("isolation-forest", Kind.CLASSICAL, solve_isolation_forest),
    Arm("nearest-neighbours", Kind.CLASSICAL, solve_nearest_neighbours),
    Arm("nothing", Kind.CONTROL, solve_nothing, does_nothing=True),
    Arm("random", Kind.CONTROL, solve_random),
)

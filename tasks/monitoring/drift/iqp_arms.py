"""Drift by kernels of IQP states: fidelity, Hamming-weighted outcomes and the projected kernel, with their twins.

They encode the leading principal components of the background, one a qubit, at unit variance. What those leave out no
kernel of them sees; `mmd-rbf-components` is the Gaussian kernel on the same components. Bandwidths are tuned by `python
-m benchmarks.kernels --tune`: nine trials for each kernel, the Gaussian ones included, on texts of works that no bank
uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.contract import Bench
from tasks.monitoring.components import standard_components
from tasks.monitoring.drift.mmd import by_gram, by_pairs, check_gain, kernel_pairs
from tasks.monitoring.drift.problem import Drift, Vectors, Verdicts
from tasks.monitoring.two_sample import FloatArray, median_distance, rbf, squared_distances
from tasks.quantum.iqp import (
    estimate_bloch,
    estimate_weights,
    exact_bloch,
    exact_fidelity_gram,
    exact_weights,
    hamming_kernel,
    iqp_phases,
)


@dataclass(frozen=True)
class Bandwidths:
    """What is tuned.

    Attributes:
        iqp: bandwidth of the IQP states.
        hamming: share by which each one among the outcomes lowers the weight of a shot.
        projected: bandwidth of the states of the projected kernel.
        gamma: of its Gaussian, against the inverse mean squared distance of the Bloch vectors of the background.
        components: bandwidth of the Gaussian kernel on the components, against the median distance.
    """

    iqp: float = 0.6
    hamming: float = 0.7
    projected: float = 0.2
    gamma: float = 2.0
    components: float = 0.35


TUNED = Bandwidths()


def components(problem: Drift, texts: Vectors) -> FloatArray:
    """Return texts (m, n) on the leading principal axes of the background, at its unit variance, clipped."""
    return standard_components(problem.calm, texts, problem.components)


def _features(problem: Drift, bench: Bench) -> FloatArray:
    everything = np.vstack([problem.reference, *problem.windows])
    return bench.once("principal components", lambda: components(problem, everything))


def _outcomes(problem: Drift, bench: Bench) -> FloatArray:
    """Estimate how often k qubits are one, for each of `kernel_pairs`; fidelity and Hamming kernel share it."""
    phases = iqp_phases(_features(problem, bench), TUNED.iqp)
    return bench.once(
        "iqp outcomes", lambda: estimate_weights(phases, kernel_pairs(problem), bench.sampler, problem.shots)
    )


def solve_iqp(problem: Drift, bench: Bench) -> Verdicts:
    """MMD with the fidelities of IQP states by compute-uncompute; one job."""
    check_gain(problem, "IQP", iqp_gram)
    values = hamming_kernel(_outcomes(problem, bench), 0.0)
    return by_pairs(problem, kernel_pairs(problem), values, bench.rng)


def solve_iqp_twin(problem: Drift, bench: Bench) -> Verdicts:
    """The IQP kernel without shot noise, from all amplitudes."""
    return by_gram(problem, exact_fidelity_gram(iqp_phases(_features(problem, bench), TUNED.iqp)), bench.rng)


def solve_hamming(problem: Drift, bench: Bench) -> Verdicts:
    """MMD with the Hamming kernel of the same outcomes; no further circuits."""
    check_gain(problem, "Hamming", hamming_gram)
    values = hamming_kernel(_outcomes(problem, bench), TUNED.hamming)
    return by_pairs(problem, kernel_pairs(problem), values, bench.rng)


def solve_hamming_twin(problem: Drift, bench: Bench) -> Verdicts:
    """The Hamming kernel without shot noise, from all amplitudes."""
    phases, pairs = iqp_phases(_features(problem, bench), TUNED.iqp), kernel_pairs(problem)
    return by_pairs(problem, pairs, hamming_kernel(exact_weights(phases, pairs), TUNED.hamming), bench.rng)


def solve_projected(problem: Drift, bench: Bench) -> Verdicts:
    """MMD with the projected kernel: three circuits for each text, one job."""
    check_gain(problem, "projected", projected_gram)
    phases = iqp_phases(_features(problem, bench), TUNED.projected)
    bloch = estimate_bloch(phases, bench.sampler, problem.shots)
    return by_gram(problem, _of_bloch(bloch, _scale(problem)), bench.rng)


def solve_projected_twin(problem: Drift, bench: Bench) -> Verdicts:
    """The projected kernel without shot noise, from all amplitudes."""
    bloch = exact_bloch(iqp_phases(_features(problem, bench), TUNED.projected))
    return by_gram(problem, _of_bloch(bloch, _scale(problem)), bench.rng)


def solve_rbf_components(problem: Drift, bench: Bench) -> Verdicts:
    """MMD with the Gaussian kernel on the components that the IQP kernels encode."""
    bandwidth = TUNED.components * median_distance(components(problem, problem.calm))
    return by_gram(problem, rbf(squared_distances(_features(problem, bench)), bandwidth), bench.rng)


def iqp_gram(problem: Drift, texts: Vectors, tuned: Bandwidths = TUNED) -> FloatArray:
    """Return the exact IQP kernel (m, m) of texts."""
    return exact_fidelity_gram(iqp_phases(components(problem, texts), tuned.iqp))


def hamming_gram(problem: Drift, texts: Vectors, tuned: Bandwidths = TUNED) -> FloatArray:
    """Return the exact Hamming kernel (m, m) of texts."""
    phases = iqp_phases(components(problem, texts), tuned.iqp)
    upper = np.triu_indices(len(phases), 1)
    gram = np.eye(len(phases))
    gram[upper] = hamming_kernel(exact_weights(phases, np.stack(upper, axis=1)), tuned.hamming)
    return np.maximum(gram, gram.T)


def projected_gram(problem: Drift, texts: Vectors, tuned: Bandwidths = TUNED) -> FloatArray:
    """Return the exact projected kernel (m, m) of texts."""
    bloch = exact_bloch(iqp_phases(components(problem, texts), tuned.projected))
    return _of_bloch(bloch, _scale(problem, tuned))


def _scale(problem: Drift, tuned: Bandwidths = TUNED) -> float:
    """Return the factor of the squared distances of Bloch vectors, from exact ones of the background."""
    bloch = exact_bloch(iqp_phases(components(problem, problem.calm), tuned.projected))
    squared = squared_distances(bloch)
    mean = float(squared[np.triu_indices(len(squared), 1)].mean())
    return tuned.gamma / mean if mean > 0 else tuned.gamma


def _of_bloch(bloch: FloatArray, scale: float) -> FloatArray:
    return np.asarray(np.exp(-scale * squared_distances(bloch)))

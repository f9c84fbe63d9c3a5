"""Kernels of drift and anomaly: what their bandwidths are worth, and whether a quantum one can gain anything.

`python -m benchmarks.kernels [KERNEL ...]` prints, on texts of works that no bank uses,

* for each kernel nine bandwidths with the mean standardised statistic over windows with drift (exact kernels, 99
  permutations): the largest is what `TUNED` and `RBF_FACTOR` hold;
* at the bandwidths in use, the geometric difference of each quantum kernel to the Gaussian one on 100 texts, beside
  those of the identity, the most different kernel there is, and of a Gaussian of half the bandwidth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flows.study.bank import gather_material
from infra import settings
from tasks.contract import Instance, Material
from tasks.monitoring.anomaly.arms import exact_projected, gaussian_machine
from tasks.monitoring.anomaly.bank import tuning as anomaly_tuning
from tasks.monitoring.anomaly.problem import Anomaly, Scores
from tasks.monitoring.anomaly.problem import quality as auroc
from tasks.monitoring.drift import arms, iqp_arms, mmd
from tasks.monitoring.drift.bank import tuning
from tasks.monitoring.drift.iqp_arms import TUNED
from tasks.monitoring.drift.problem import Drift, Vectors
from tasks.monitoring.two_sample import FloatArray, median_distance, memberships, mmd_statistics, rbf, squared_distances

Gram = Callable[[Drift, Vectors], FloatArray]
DRAWS = 2  # of the tuning instances, each deals the works anew
PERMUTATIONS = 99
FACTORS = (0.125, 0.18, 0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
BANDWIDTHS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def gaussian(factor: float, problem: Drift, texts: Vectors) -> FloatArray:
    """Return the Gaussian kernel (m, m) of texts at a multiple of the median distance of the background."""
    return rbf(squared_distances(texts), factor * median_distance(problem.calm))


def on_components(factor: float, problem: Drift, texts: Vectors) -> FloatArray:
    """Return the Gaussian kernel (m, m) on the principal components."""
    bandwidth = factor * median_distance(iqp_arms.components(problem, problem.calm))
    return rbf(squared_distances(iqp_arms.components(problem, texts)), bandwidth)


def trials() -> dict[str, dict[str, Gram]]:
    """Return nine settings of each kernel by the name of the kernel."""

    def tuned(gram: Callable[..., FloatArray], **change: float) -> Gram:
        return partial(gram, tuned=replace(TUNED, **change))

    return {
        "mmd-rbf, factor": {f"{f:g}": partial(gaussian, f) for f in FACTORS},
        "mmd-rbf-components, factor": {f"{f:g}": partial(on_components, f) for f in FACTORS},
        "iqp-kernel, bandwidth": {f"{b:g}": tuned(iqp_arms.iqp_gram, iqp=b) for b in BANDWIDTHS},
        "hamming-kernel, share": {f"{s:g}": tuned(iqp_arms.hamming_gram, hamming=s) for s in SHARES},
        "projected-kernel, bandwidth and gamma": {
            f"{b:g} {g:g}": tuned(iqp_arms.projected_gram, projected=b, gamma=g)
            for b in (0.1, 0.2, 0.4)
            for g in (1.0, 2.0, 4.0)
        },
    }


def standardised(problem: Drift, gram: FloatArray) -> float:
    """Return by how many standard deviations of the permuted statistics the observed one exceeds their mean.

    The permutations of a window are the same for all kernels.
    """
    rng = np.random.default_rng(0)
    splits = memberships(len(problem.reference), len(problem.windows[0]), PERMUTATIONS, rng)
    statistics = mmd_statistics(gram, splits)
    spread = float(statistics[1:].std())
    return float((statistics[0] - statistics[1:].mean()) / spread) if spread > 0 else 0.0


def drifting(material: Material) -> Iterator[Drift]:
    """Yield the tuning instances with drift."""
    for seed in range(DRAWS):
        for instance in tuning(material, np.random.default_rng([seed, 7])):
            if "no drift" not in instance.name:
                yield instance.pose()


def tune_anomaly(material: Material, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the mean AUROC of one-class machines on nine Gaussians and nine projected kernels, the best marked."""
    problems = [i.pose() for i in anomaly_tuning(material, np.random.default_rng([0, 7]))]
    settings_of: dict[str, dict[str, Callable[[Anomaly], Scores]]] = {
        "one-class-svm, factor": {f"{f:g}": partial(_machine, f) for f in FACTORS},
        "projected-one-class-svm, bandwidth and gamma": {
            f"{b:g} {g:g}": partial(exact_projected, bandwidth=b, gamma=g)
            for b in (0.1, 0.2, 0.4)
            for g in (1.0, 2.0, 4.0)
        },
    }
    write(f"anomaly: mean AUROC over {len(problems)} windows\n")
    for name, solvers in settings_of.items():
        found = {s: float(np.mean([auroc(p, solve(p)) for p in problems])) for s, solve in solvers.items()}
        _print(name, found, write)


def _machine(factor: float, problem: Anomaly) -> Scores:
    return gaussian_machine(problem, factor)


def _print(name: str, found: Mapping[str, float], write: Callable[[str], object]) -> None:
    best = max(found, key=lambda label: found[label])
    row = ", ".join(f"{label}: {value:.3f}{' *' if label == best else ''}" for label, value in found.items())
    write(f"{name}: {row}\n")
    sys.stdout.flush()


def tune(problems: Sequence[Drift], write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the mean standardised statistic of every trial, the best marked."""
    write(f"mean standardised statistic over {len(problems)} windows with drift\n")
    for name, settings_of in trials().items():
        if not any(name.startswith(wanted) for wanted in wanted_of(sys.argv)):
            continue
        found = {label: _mean(problems, gram) for label, gram in settings_of.items()}
        _print(name, found, write)
    write(f"amplitude, nothing to tune: {_mean(problems, arms.amplitude_gram):.2f}\n")


def wanted_of(argv: Sequence[str]) -> Sequence[str]:
    """Return the beginnings of the names of the kernels that are asked for; without any, all kernels."""
    return [name for name in argv[1:] if not name.startswith("--")] or [""]


def _mean(problems: Sequence[Drift], gram: Gram) -> float:
    return float(np.mean([standardised(p, gram(p, np.vstack([p.reference, *p.windows]))) for p in problems]))


def pretest(instances: Sequence[Instance[Drift]], write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the geometric difference of each kernel to the Gaussian one, by source, and as a share of sqrt m."""
    kernels: Mapping[str, Gram] = {
        "amplitude": arms.amplitude_gram,
        "IQP": iqp_arms.iqp_gram,
        "Hamming": iqp_arms.hamming_gram,
        "projected": iqp_arms.projected_gram,
        "Gaussian, half the bandwidth": partial(gaussian, mmd.RBF_FACTOR / 2),
        "Gaussian on the components": partial(on_components, TUNED.components),
        "identity": lambda _, texts: np.eye(len(texts)),
    }
    root = np.sqrt(mmd.SAMPLED)
    write("geometric difference to the Gaussian kernel (share of sqrt m)\n")
    for name, gram in kernels.items():
        found = {i.source: mmd.gain(i.pose(), gram) for i in instances}
        write(f"{name}: " + ", ".join(f"{s} {g:.2f} ({g / root:.2f})" for s, g in found.items()) + "\n")


def main() -> None:
    """Print both tables."""
    with TemporaryDirectory() as home:
        material = gather_material(settings.load(home=Path(home)))
    if "--pretest" not in sys.argv:
        tune(list(drifting(material)))
        tune_anomaly(material)
    pretest(list(islice(tuning(material, np.random.default_rng([0, 7])), 4)))


if __name__ == "__main__":
    main()

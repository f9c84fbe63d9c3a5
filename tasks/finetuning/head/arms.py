"""Arms of the head decision: classifiers on frozen features, each tuned on the same labels.

Opponents of the circuit read the same components *and* all features. Fidelity kernels are quadratic polynomial kernels
and stand beside their exact values; projected kernels read the expectations of a fixed random circuit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tasks.contract import Arm, Bench, Kind
from tasks.finetuning.head.circuit import CircuitHead, train_head
from tasks.finetuning.head.problem import FewShot, FloatArray, Labels
from tasks.model.threads import torch_threads
from tasks.quantum.kernels import estimate_overlaps, exact_fidelities, gram
from tasks.quantum.layer import CircuitLayer

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
PROJECTED_SCALE = 0.3


def label_largest(problem: FewShot, _bench: Bench) -> Labels:
    """Give every text the most frequent label."""
    return Labels((int(np.bincount(problem.labels).argmax()),) * len(problem.test))


def label_nearest(problem: FewShot, _bench: Bench) -> Labels:
    """Give every text the label whose mean feature vector is nearest."""
    means = np.stack([problem.train[problem.labels == label].mean(axis=0) for label in range(problem.classes)])
    distances = ((problem.test[:, None] - means) ** 2).sum(axis=2)
    return Labels(tuple(int(v) for v in distances.argmin(axis=1)))


def label_by(make: Callable[[int], Any], grid: dict[str, Any], reduced: bool, problem: FewShot, bench: Bench) -> Labels:
    """Fit a classifier of scikit-learn, its settings chosen by cross-validation over the labelled texts."""
    seed = int(bench.rng.integers(2**31))
    train, test = problem.reduced if reduced else (problem.train, problem.test)
    return _searched(make(seed), grid, (train, test), problem, seed)


def label_by_cosines(problem: FewShot, bench: Bench) -> Labels:
    """Logistic regression on as many random cosine features of the components as the circuit has outputs."""
    train, test = problem.reduced
    size = problem.components
    weights, phases = bench.rng.standard_normal((size, size)) / np.sqrt(size), bench.rng.uniform(0, 2 * np.pi, size)
    both = tuple(np.cos(x @ weights + phases) for x in (train, test))
    return _searched(LogisticRegression(max_iter=500), {"C": COSTS}, (both[0], both[1]), problem, 0)


def label_by_circuit(problem: FewShot, bench: Bench) -> Labels:
    """Train the circuit head on exact expectations and read the tested texts by shots."""
    with torch_threads(1):
        head = _head(problem, bench)
        inputs = torch.from_numpy(problem.reduced[1].astype(np.float32))
        return Labels(head.label(head.circuit.estimate(inputs, bench.sampler, problem.shots)))


def label_by_exact_circuit(problem: FewShot, bench: Bench) -> Labels:
    """Train the circuit head and read it exactly."""
    with torch_threads(1):
        head = _head(problem, bench)
        with torch.inference_mode():
            return Labels(head.label(head.circuit(torch.from_numpy(problem.reduced[1].astype(np.float32)))))


def label_by_fidelities(problem: FewShot, bench: Bench) -> Labels:
    """Support vector machine on fidelities of amplitude-encoded centred features, by compute-uncompute."""
    train, test = _centred(problem)
    among = gram(train, bench.sampler, problem.shots)
    return _by_kernel(among, estimate_overlaps(test, train, bench.sampler, problem.shots), problem)


def label_by_exact_fidelities(problem: FewShot, _bench: Bench) -> Labels:
    """Do the same with exact fidelities, the squared cosines."""
    train, test = _centred(problem)
    return _by_kernel(exact_fidelities(train, train), exact_fidelities(test, train), problem)


def label_by_projections(problem: FewShot, bench: Bench) -> Labels:
    """Support vector machine with a Gaussian kernel on expectations of a fixed random circuit, by shots."""
    layer = _random_layer(problem, bench)
    found = [layer.estimate(x, bench.sampler, problem.shots).numpy() for x in _inputs(problem)]
    return _by_expectations(found[0], found[1], problem)


def label_by_exact_projections(problem: FewShot, bench: Bench) -> Labels:
    """Do the same with exact expectations."""
    layer = _random_layer(problem, bench)
    with torch.inference_mode():
        found = [layer(x).numpy() for x in _inputs(problem)]
    return _by_expectations(found[0], found[1], problem)


def _head(problem: FewShot, bench: Bench) -> CircuitHead:
    return train_head(problem, bench.rng)


def _random_layer(problem: FewShot, bench: Bench) -> CircuitLayer:
    generator = torch.Generator().manual_seed(int(bench.rng.integers(2**31)))
    return CircuitLayer(problem.components, problem.layers, PROJECTED_SCALE, generator)


def _inputs(problem: FewShot) -> tuple[torch.Tensor, torch.Tensor]:
    train, test = problem.reduced
    return torch.from_numpy(train.astype(np.float32)), torch.from_numpy(test.astype(np.float32))


def _by_expectations(train: FloatArray, test: FloatArray, problem: FewShot) -> Labels:
    return _searched(SVC(), {"C": COSTS}, (train, test), problem, 0)


def _centred(problem: FewShot) -> tuple[FloatArray, FloatArray]:
    """Return the features about the mean of all of them; a text at the mean is moved off it, for it has no state."""
    both = np.vstack([problem.train, problem.test]).astype(np.float64)
    both -= both.mean(axis=0)
    both[~both.any(axis=1), 0] = 1e-9
    return both[: len(problem.train)], both[len(problem.train) :]


def _by_kernel(among: FloatArray, across: FloatArray, problem: FewShot) -> Labels:
    return _searched(SVC(kernel="precomputed"), {"C": COSTS}, (among, across), problem, 0)


def _searched(model: Any, grid: dict[str, Any], features: tuple[Any, Any], problem: FewShot, seed: int) -> Labels:
    """Fit with the settings that cross-validation prefers, at most three folds."""
    folds = min(3, int(np.bincount(problem.labels).min()))
    search = GridSearchCV(model, grid, cv=StratifiedKFold(folds, shuffle=True, random_state=seed % 2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the largest costs need not converge to be ranked
        search.fit(features[0], problem.labels)
        return Labels(tuple(int(v) for v in search.predict(features[1])))


def _logistic(_: int) -> Any:
    return LogisticRegression(max_iter=500)


def _machine(_: int) -> Any:
    return make_pipeline(StandardScaler(), SVC())


def _perceptron(seed: int) -> Any:
    return make_pipeline(PCA(0.99, svd_solver="full"), MLPClassifier((8,), max_iter=300, random_state=seed % 2**31))


INCUMBENT: Arm[FewShot, Labels] = Arm("logistic-8", Kind.CLASSICAL, partial(label_by, _logistic, {"C": COSTS}, True))
CHALLENGER: Arm[FewShot, Labels] = Arm("circuit", Kind.QUANTUM, label_by_circuit, twin="circuit-exact")
OTHERS: tuple[Arm[FewShot, Labels], ...] = (
    Arm("largest", Kind.CONTROL, label_largest),
    Arm("circuit-exact", Kind.TWIN, label_by_exact_circuit),
    Arm("nearest-mean", Kind.CLASSICAL, label_nearest),
    Arm("logistic", Kind.CLASSICAL, partial(label_by, _logistic, {"C": COSTS}, False)),
    Arm("svm", Kind.CLASSICAL, partial(label_by, _machine, {"svc__C": COSTS}, False)),
    Arm("svm-8", Kind.CLASSICAL, partial(label_by, _machine, {"svc__C": COSTS}, True)),
    Arm("mlp", Kind.CLASSICAL, partial(label_by, _perceptron, {"mlpclassifier__alpha": (1e-3, 1.0)}, False)),
    Arm("cosine", Kind.CLASSICAL, label_by_cosines),
    Arm("fidelity-kernel", Kind.QUANTUM, label_by_fidelities, twin="fidelity-kernel-exact"),
    Arm("fidelity-kernel-exact", Kind.TWIN, label_by_exact_fidelities),
    Arm("projected-kernel", Kind.QUANTUM, label_by_projections, twin="projected-kernel-exact"),
    Arm("projected-kernel-exact", Kind.TWIN, label_by_exact_projections),
)

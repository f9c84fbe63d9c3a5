"""Arms of the weights pilot: ways to train a small network, and classifiers that need none.

The published method visits the weights one by one and lets Grover's search pick the best of sixteen values of each. The
oracle must mark that value, so all sixteen losses are known before the circuit runs; every shot answers one visit. The
controls keep the visits and exchange the pick: the exact minimum, a pick that is wrong in 30 % of the visits, and one
candidate for each visit at equal evaluations. All classifiers read the same features, settings by cross-validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from tasks.contract import Arm, Bench, Kind
from tasks.pilots.weights.network import Network
from tasks.pilots.weights.problem import Floats, Trained, Training, trained
from tasks.quantum.grover import success
from tasks.quantum.marked import best_iterations, marked_search, marks

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
PENALTIES = (1e-4, 1e-2, 1.0)
WIDTHS = ("scale", 0.01, 0.1)
WRONG = 0.3
FOLDS = 3
EPOCHS, BATCH = 60, 32  # of the trained networks

Pick = Callable[[int], int]  # from the candidate with the lowest loss to the one that is taken


class Searches:
    """Picks by circuits: each shot of the circuit that marks a candidate answers one visit."""

    def __init__(self, problem: Training, bench: Bench) -> None:
        self._problem, self._sampler = problem, bench.sampler
        self._circuit = marked_search(problem.qubits, best_iterations(problem.candidates))
        self._drawn: dict[int, list[int]] = {}

    def __call__(self, best: int) -> int:
        """Return the outcome of the next shot that marks the best candidate; a job draws a batch of them."""
        if not self._drawn.get(best):
            angles = marks(np.array([best]), self._problem.qubits)
            measured = self._sampler.run([(self._circuit, angles)], shots=self._problem.batch).result()[0].data.meas
            self._drawn[best] = measured.array.reshape(-1).astype(int).tolist()
        return self._drawn[best].pop()


def _wrong_with(probability: float, candidates: int, rng: Generator) -> Pick:
    """Return a pick that takes any other candidate with this probability."""

    def pick(best: int) -> int:
        return (best + int(rng.integers(1, candidates))) % candidates if rng.random() < probability else best

    return pick


def visit_weights(problem: Training, rng: Generator, pick: Pick, queries: int = 0) -> Trained:
    """Visit all weights in random order in each sweep and move each by the picked one of its candidate steps.

    Args:
        problem: the task.
        rng: draws the first weights and the order.
        pick: chooses a candidate, given the best one.
        queries: oracle queries of a pick.
    """
    network = Network(problem.train, problem.labels, problem.sizes, rng)
    places, half = network.places(), problem.candidates // 2
    for sweep in range(problem.sweeps):
        steps = ((np.arange(problem.candidates) - half) / half * problem.span / 2**sweep).astype(np.float32)
        for k in rng.permutation(len(places)):
            best = int(network.losses(places[k], steps).argmin())
            network.move(places[k], float(steps[pick(best)]))
    visits = problem.sweeps * len(places)
    return trained(problem, network.probabilities(problem.test), visits * problem.candidates, visits * queries)


def search_by_grover(problem: Training, bench: Bench) -> Trained:
    """Let the circuit pick the value of each weight."""
    return visit_weights(problem, bench.rng, Searches(problem, bench), best_iterations(problem.candidates))


def search_by_exact_grover(problem: Training, bench: Bench) -> Trained:
    """Draw each pick from the exact distribution of the circuit's outcomes."""
    right = success(1, problem.candidates, best_iterations(problem.candidates))
    return visit_weights(problem, bench.rng, _wrong_with(1 - right, problem.candidates, bench.rng))


def search_exactly(problem: Training, bench: Bench) -> Trained:
    """Take the candidate with the lowest loss."""
    return visit_weights(problem, bench.rng, lambda best: best)


def search_wrongly(problem: Training, bench: Bench) -> Trained:
    """Take another candidate than the best in 30 % of the visits."""
    return visit_weights(problem, bench.rng, _wrong_with(WRONG, problem.candidates, bench.rng))


def climb(problem: Training, bench: Bench) -> Trained:
    """Try one random candidate at each visit and keep it if the loss falls; as many evaluations as the searches."""
    network, rng = Network(problem.train, problem.labels, problem.sizes, bench.rng), bench.rng
    places, loss = network.places(), np.inf
    for sweep in range(problem.sweeps):
        for k in rng.integers(len(places), size=len(places) * problem.candidates):
            step = np.float32(rng.uniform(-1, 1) * problem.span / 2**sweep)
            (found,) = network.losses(places[k], np.array([step]))
            if found < loss:
                network.move(places[k], float(step))
                loss = found
    visits = problem.sweeps * len(places) * problem.candidates
    return trained(problem, network.probabilities(problem.test), visits)


def answer_largest(problem: Training, _bench: Bench) -> Trained:
    """Give every row the frequencies of the labels."""
    shares = np.bincount(problem.labels, minlength=problem.sizes[-1]) / len(problem.labels)
    return trained(problem, np.tile(shares, (len(problem.test), 1)), 0)


def train_by_gradients(epochs: int, solver: str, tuned: bool, problem: Training, bench: Bench) -> Trained:
    """Train a network of the same size by gradients; its weight decay is chosen by cross-validation if tuned."""
    seed = int(bench.rng.integers(2**31))
    model = MLPClassifier(
        problem.hidden, activation="tanh", solver=solver, max_iter=epochs, batch_size=min(BATCH, len(problem.train)),
        learning_rate_init=0.01, momentum=0.0, random_state=seed,
    )  # fmt: skip
    chosen = _fitted(model, {"alpha": PENALTIES if tuned else PENALTIES[:1]}, problem, seed)
    return trained(problem, _probabilities(chosen, problem), 3 * chosen.n_iter_)


def label_by_logistic(problem: Training, bench: Bench) -> Trained:
    """Fit logistic regression, its cost chosen by cross-validation."""
    seed = int(bench.rng.integers(2**31))
    chosen = _fitted(LogisticRegression(max_iter=500), {"C": COSTS}, problem, seed)
    return trained(problem, _probabilities(chosen, problem), 3 * int(chosen.n_iter_.max()))


def label_by_machine(problem: Training, bench: Bench) -> Trained:
    """Fit a support vector machine on a Gaussian kernel, cost and width chosen by cross-validation."""
    seed = int(bench.rng.integers(2**31))
    chosen = _fitted(SVC(), {"C": COSTS[1:], "gamma": WIDTHS}, problem, seed)
    return Trained(tuple(int(v) for v in chosen.predict(problem.test)), None, 0)


def _fitted(model: Any, grid: dict[str, Any], problem: Training, seed: int) -> Any:
    folds = min(FOLDS, int(np.bincount(problem.labels).min()))
    search = GridSearchCV(model, grid, cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed
        if np.prod([len(values) for values in grid.values()]) == 1:
            return model.set_params(**{name: values[0] for name, values in grid.items()}).fit(
                problem.train, problem.labels
            )
        return search.fit(problem.train, problem.labels).best_estimator_


def _probabilities(model: Any, problem: Training) -> Floats:
    return np.asarray(model.predict_proba(problem.test), np.float64)


INCUMBENT: Arm[Training, Trained] = Arm("svm", Kind.CLASSICAL, label_by_machine)
CHALLENGER: Arm[Training, Trained] = Arm("grover", Kind.QUANTUM, search_by_grover, twin="grover-sampled")
OTHERS: tuple[Arm[Training, Trained], ...] = (
    Arm("grover-sampled", Kind.TWIN, search_by_exact_grover),
    Arm("wrong-30", Kind.CONTROL, search_wrongly),
    Arm("exact-minimum", Kind.CLASSICAL, search_exactly),
    Arm("one-candidate", Kind.CLASSICAL, climb),
    Arm("adam", Kind.CLASSICAL, partial(train_by_gradients, EPOCHS, "adam", True)),
    Arm("logistic", Kind.CLASSICAL, label_by_logistic),
    Arm("descent-untuned", Kind.CONTROL, partial(train_by_gradients, 3, "sgd", False)),
    Arm("largest", Kind.CONTROL, answer_largest),
)

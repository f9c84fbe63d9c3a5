"""Arms of the decision `gradients`: ways to train the weights of a circuit whose outputs are measured.

All arms start from the same weights, may use the same number of executions (circuits times shots), and step by Adam
but for the two natural gradients. `adjoint` differentiates the simulated circuit: it needs no execution and is a bound,
since it ends where the circuit can no longer be simulated. Each arm has thirty trials of its settings on a task that is
in no bank, the five best are tried on six others (`python -m benchmarks.gradients tune`); `gains.yaml` has the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import yaml

from tasks.contract import Arm, Bench, Kind
from tasks.training.gradients.estimate import Spent, Training
from tasks.training.gradients.problem import Texts, Trained, exact_gradient, loss, slope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

Change = Callable[["Training", "Gains"], Callable[[], "Vector"]]

STEPS = 60  # of `adjoint`, which has no budget of its own
SHIFT = np.pi / 2
MOST_DIRECTIONS, FEWEST_SHOTS, MOST_SHOTS = 50, 10, 10_000  # of QUIVER
SEARCH_TEXTS, SEARCH_SHOTS = 4, 8  # of `random-search`, not tuned
MEMORY = 0.9  # of the moving averages of QUIVER; the paper's .99 needs more steps than the budget has


@dataclass(frozen=True)
class Gains:
    """What is tuned of an arm.

    Attributes:
        rate: learning rate, the largest change of a weight in a step under Adam.
        texts: training texts of a step.
        shots: shots of each circuit.
        width: distance of the two points of a difference from the weights.
        share: QUIVER's kappa: larger values buy more directions and shots.
        damping: added to the metric of a natural gradient.
    """

    rate: float
    texts: int
    shots: int
    width: float = 0.2
    share: float = 0.1
    damping: float = 0.05


def read_gains() -> dict[str, Gains]:
    """Return the settings of the arms in `gains.yaml`, which says where they are from."""
    text = (resources.files("tasks.training.gradients") / "gains.yaml").read_text(encoding="utf-8")
    stored = yaml.safe_load(text)
    return {name: Gains(**{key: value for key, value in row.items() if key != "loss"}) for name, row in stored.items()}


TUNED = read_gains()


@dataclass
class Adam:
    """Adam (Kingma and Ba 2015) for a vector."""

    rate: float
    first: Vector | float = 0.0
    second: Vector | float = 0.0
    steps: int = field(default=0)

    def __call__(self, gradient: Vector) -> Vector:
        """Return the change of the weights."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.95 * self.second + 0.05 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.95**self.steps)
        return np.asarray(-self.rate * mean / (np.sqrt(square) + 1e-8))


def train_exactly(gains: Gains, problem: Texts, bench: Bench) -> Trained:
    """Follow the exact gradient of the simulated circuit."""
    training, adam = Training(problem, bench), Adam(gains.rate)
    for _ in range(STEPS):
        _, gradient = exact_gradient(problem, training.weights, training.rows(gains.texts))
        training.step(adam(gradient))
    return training.result()


def follow(gains: Gains, change: Change, problem: Texts, bench: Bench, *, exact: bool = False) -> Trained:
    """Step until the next step does not fit the budget.

    Args:
        gains: what is tuned of the arm.
        change: returns the function that makes a step.
        problem: what is trained.
        bench: what the arm works with.
        exact: compute without shot noise; the executions count as if they were made.
    """
    training = Training(problem, bench, exact=exact)
    step = change(training, gains)
    try:
        while True:
            training.step(step())
    except Spent:
        return training.result()


def shifted_gradient(training: Training, gains: Gains) -> Vector:
    """Return the gradient by parameter shift: 2 P + 1 circuits for each text (Schuld et al. 2019)."""
    weights, size = training.weights, training.problem.size
    rows = training.rows(gains.texts)
    points = np.vstack([weights, weights + SHIFT * np.eye(size), weights - SHIFT * np.eye(size)])
    out = training.outputs(points, rows, gains.shots)
    derivatives = (out[1 : size + 1] - out[size + 1 :]) / 2
    return np.asarray(derivatives @ slope(out[0], training.problem.labels[rows]) / len(rows))


def by_shift(training: Training, gains: Gains) -> Callable[[], Vector]:
    """Return the step of parameter shift."""
    adam = Adam(gains.rate)
    return lambda: adam(shifted_gradient(training, gains))


def differences(training: Training, gains: Gains, directions: Vector, shots: int) -> tuple[Vector, float]:
    """Return the slope of the loss along directions (v, size), and the variance of a single shot's loss."""
    rows, step = training.rows(gains.texts), gains.width * directions
    out = training.outputs(np.vstack([training.weights + step, training.weights - step]), rows, shots)
    labels = training.problem.labels[rows]
    up, down = np.split(loss(out, labels), 2)
    # The outcomes of the qubits are about independent: a shot's mean of n of them has a variance of (1 - z^2) / n.
    per_shot = slope(out, labels) ** 2 * (1 - np.minimum(out**2, 1)) / training.problem.qubits
    return (up - down) / (2 * gains.width), float(per_shot.mean() / len(rows))


def by_spsa(training: Training, gains: Gains) -> Callable[[], Vector]:
    """Return the step of SPSA (Spall 1992): two points on a random line, whatever the number of weights."""
    adam = Adam(gains.rate)

    def step() -> Vector:
        direction = _signs(training, 1)
        along, _ = differences(training, gains, direction, gains.shots)
        return adam(along[0] * direction[0])

    return step


def by_natural_spsa(training: Training, gains: Gains) -> Callable[[], Vector]:
    """Return the step of QN-SPSA (Gacon et al., Quantum 5, 567, 2021): SPSA, turned by a metric of four overlaps."""
    size, rng = training.problem.size, training.bench.rng
    metric, count = np.eye(size), 0

    def step() -> Vector:
        nonlocal metric, count
        first, second = _signs(training, 2) * gains.width
        here = training.weights
        moved = [here + first + second, here + first, here - first + second, here - first]
        pairs = np.stack([np.stack([here, there]) for there in moved])
        overlap = training.overlaps(pairs, int(rng.integers(len(training.problem.labels))), gains.shots)
        change = (overlap[0] - overlap[1] - overlap[2] + overlap[3]) / (2 * gains.width**2)
        sample = -change / 2 * (np.outer(first, second) + np.outer(second, first)) / (2 * gains.width**2)
        count += 1
        metric = metric * (count / (count + 1)) + sample / (count + 1)
        drawn = _signs(training, 1)
        along, _ = differences(training, gains, drawn, gains.shots)
        return -gains.rate * np.linalg.solve(_positive(metric) + gains.damping * np.eye(size), along[0] * drawn[0])

    return step


def by_adaptive_directions(training: Training, gains: Gains) -> Callable[[], Vector]:
    """Return the step of forward gradients with adaptive directions and shots (QUIVER, arXiv 2606.09734).

    The gradient is the mean over V random directions of the slope along each. With moving averages of the squared
    gradient g^2, of the variance between directions S^2 and of the variance of a shot s^2, the next step takes
    V = kappa S^2 / g^2 directions and M = kappa s^2 / (2 width^2 g^2) shots, within limits.
    """
    adam, size = Adam(gains.rate), training.problem.size
    directions, shots = 4, gains.shots
    averages = np.zeros(3)
    steps = 0

    def step() -> Vector:
        nonlocal directions, shots, averages, steps
        drawn = _signs(training, directions)
        along, shot_variance = differences(training, gains, drawn, shots)
        gradient = along @ drawn / len(drawn)
        # A direction's estimate is d v with |v|^2 = size; the squared mean of d is that of the gradient.
        square = float(np.mean(along**2))
        noise = shot_variance / (2 * gains.width**2 * shots)
        steps += 1
        averages = MEMORY * averages + (1 - MEMORY) * np.array(
            [max(square - noise, 1e-6), square * size, shot_variance]
        )
        slope_square, spread, per_shot = averages / (1 - MEMORY**steps)
        directions = int(np.clip(gains.share * spread / slope_square, 1, MOST_DIRECTIONS))
        wanted = gains.share * per_shot / (2 * gains.width**2 * slope_square)
        shots = int(np.clip(wanted, FEWEST_SHOTS, MOST_SHOTS))
        return adam(gradient)

    return step


def by_block_metric(training: Training, gains: Gains) -> Callable[[], Vector]:
    """Return the step of the natural gradient: parameter shift, turned by the block-diagonal metric of one text."""
    rng, size = training.bench.rng, training.problem.size
    metric, count = np.eye(size) / 4, 0

    def step() -> Vector:
        nonlocal metric, count
        gradient = shifted_gradient(training, gains)
        row = int(rng.integers(len(training.problem.labels)))
        count += 1
        metric = metric * (count / (count + 1)) + training.metric(row, 16 * gains.shots) / (count + 1)
        direction = np.linalg.solve(metric + gains.damping * np.eye(size), gradient).astype(np.float64)
        return -gains.rate * direction

    return step


def search_randomly(problem: Texts, bench: Bench) -> Trained:
    """Draw weights at random and keep those with the lowest measured loss."""
    training, best = Training(problem, bench), np.inf
    try:
        while True:
            candidates = bench.rng.normal(scale=1.0, size=(4, problem.size))
            rows = training.rows(SEARCH_TEXTS)
            values = loss(training.outputs(candidates, rows, SEARCH_SHOTS), problem.labels[rows])
            if values.min() < best:
                best = float(values.min())
                training.step(candidates[int(values.argmin())] - training.weights)
    except Spent:
        return training.result()


def leave_untrained(problem: Texts, bench: Bench) -> Trained:
    """Keep the initial weights."""
    return Training(problem, bench).result()


def _signs(training: Training, count: int) -> Vector:
    return training.bench.rng.choice([-1.0, 1.0], (count, training.problem.size))


def _positive(metric: Vector) -> Vector:
    """Return the matrix with its eigenvalues replaced by their absolute values."""
    values, vectors = np.linalg.eigh((metric + metric.T) / 2)
    return np.asarray((vectors * np.abs(values)) @ vectors.T)


def _measured(name: str, change: Change, version: str) -> Arm[Texts, Trained]:
    return Arm(name, Kind.QUANTUM, partial(follow, TUNED[name], change), version)


_ADAPTIVE = partial(follow, TUNED["forward-adaptive"], by_adaptive_directions)

INCUMBENT: Arm[Texts, Trained] = Arm("adjoint", Kind.CLASSICAL, partial(train_exactly, TUNED["adjoint"]), "2")
CHALLENGER: Arm[Texts, Trained] = Arm(
    "forward-adaptive",
    Kind.QUANTUM,
    _ADAPTIVE,
    version="2",
    twin="forward-exact",
)
OTHERS: tuple[Arm[Texts, Trained], ...] = (
    Arm("random-search", Kind.CONTROL, search_randomly, version="3"),
    Arm("untrained", Kind.CONTROL, leave_untrained, does_nothing=True),
    _measured("parameter-shift", by_shift, version="2"),
    _measured("spsa", by_spsa, version="3"),
    _measured("qn-spsa", by_natural_spsa, version="3"),
    _measured("block-natural", by_block_metric, version="3"),
    Arm("forward-exact", Kind.TWIN, partial(_ADAPTIVE, exact=True), version="2"),
)
